"""`SoftPromptGenerator`: texts to texts, generated after a trained prompt."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from softprompt.estimators.base import (
    SoftPromptEstimator,
    load_prompt,
)
from softprompt.estimators.demonstrations import SEPARATOR
from softprompt.estimators.encoding import shorten_answer
from softprompt.estimators.labelled import (
    LabelledRows,
    check_sample_weight,
    check_validation_data,
    label_rows,
)
from softprompt.estimators.metrics import METRICS, Metric, check_metric, score_texts
from softprompt.estimators.rows import check_same_length, collect_rows, collect_texts
from softprompt.optim.validation import check_count
from softprompt.prompt import SoftPrompt
from softprompt.tuner import defaults
from softprompt.tuner.objectives import Objective, TokensObjective, TokensValidation, Validation

KIND = "text-to-text"
_TASK_PARAMETERS = ("template", "max_new_tokens", "truncation", "max_length")


class SoftPromptGenerator(SoftPromptEstimator):
    """Turn texts into texts with a frozen language model and a soft prompt trained for the task.

    The model learns to write the target, and then its end token, after
    [prompt][demonstrations][filled template]. `predict` generates greedily.

    Parameters
    ----------
    model : Model, str or path
        A loaded model, or what `softprompt.load_model` takes; it is loaded by `fit`.
    template : str, default "{text}"
        Text with fields in braces; ``{{`` and ``}}`` stand for braces.
    num_virtual_tokens : int, default 20
        Rows of the prompt; 0 trains nothing: the hand-written prompt.
    init : str, TextStart, array, SoftPrompt or path, default "vocabulary"
        Where the prompt starts; see `softprompt.tuner.make_start`.
    metric : {"exact_match", "rougeL"} or callable, default "exact_match"
        What `score` measures. A callable takes predictions and references and returns a float.
    validation_metric : {"loss", "metric"}, default "loss"
        What makes the best prompt: the loss of the targets' tokens, or `metric` of generated texts.
    max_new_tokens : int, default 50
        Most tokens of a generated text, and of a target in training.
    truncation : {"field", "error"}, default "field"
        What happens to a row of more than `max_length` tokens, and to a target of more than
        `max_new_tokens`: it is shortened, and one warning says how often; or ValueError.
    max_length : int or None, default None
        Most tokens of a row with template and demonstrations. None: what the model's context
        leaves beside prompt and answer.
    examples : int, default 0
        Training rows that are put before every text with their targets. They are not trained on.
        Generation then also stops at the blank line that separates them.
    chat_template : bool, str or None, default None
        As for `SoftPromptClassifier`.
    optimizer, optimizer_options, learning_rate, schedule, warmup_steps, max_steps, batch_size, \
max_grad_norm, validation_fraction, eval_every, patience, prompt_position, checkpoint_dir, \
checkpoint_every, resume, record, progress, random_state
        As for `SoftPromptClassifier`.

    Attributes
    ----------
    prompt_, demonstrations_, n_iter_, best_iter_, best_score_, history_, model_
        As for `SoftPromptClassifier`.

    Notes
    -----
    A target follows the template's last character as it stands. Most tokenizers hold a word and
    the blank before it in one token, so after a template that ends in no blank, targets that begin
    with one are easier.

    Ctrl-C during `fit` raises KeyboardInterrupt; the estimator then has the best prompt so far.

    References
    ----------
    Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"
    (arXiv:2104.08691), section 2.
    """

    def __init__(
        self,
        model: Any,
        *,
        template: str = "{text}",
        num_virtual_tokens: int = defaults.NUM_VIRTUAL_TOKENS,
        init: Any = "vocabulary",
        metric: Metric = "exact_match",
        validation_metric: str = "loss",
        max_new_tokens: int = 50,
        truncation: str = "field",
        max_length: int | None = None,
        examples: int = 0,
        chat_template: bool | str | None = None,
        optimizer: str = defaults.OPTIMIZER,
        optimizer_options: dict[str, Any] | None = None,
        learning_rate: float | str = "auto",
        schedule: str = defaults.SCHEDULE,
        warmup_steps: int = defaults.WARMUP_STEPS,
        max_steps: int = defaults.MAX_STEPS,
        batch_size: int = defaults.BATCH_SIZE,
        max_grad_norm: float | None = defaults.MAX_GRAD_NORM,
        validation_fraction: float = defaults.VALIDATION_FRACTION,
        eval_every: int = defaults.EVAL_EVERY,
        patience: int | None = None,
        prompt_position: str = "start",
        checkpoint_dir: Any = None,
        checkpoint_every: int = 10,
        resume: bool = False,
        record: Any = None,
        progress: bool | str = "auto",
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.template = template
        self.num_virtual_tokens = num_virtual_tokens
        self.init = init
        self.metric = metric
        self.validation_metric = validation_metric
        self.max_new_tokens = max_new_tokens
        self.truncation = truncation
        self.max_length = max_length
        self.examples = examples
        self.chat_template = chat_template
        self.optimizer = optimizer
        self.optimizer_options = optimizer_options
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.eval_every = eval_every
        self.patience = patience
        self.prompt_position = prompt_position
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.resume = resume
        self.record = record
        self.progress = progress
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> SoftPromptGenerator:
        """Train the prompt.

        Parameters
        ----------
        X : list of str or dict, DataFrame, Series, datasets.Dataset, or ndarray of texts
            Inputs. A str is the value of the template's only field.
        y : list of str, Series or ndarray of texts
            Target of every row.
        sample_weight : array-like of shape (n,), optional
            Weight of every row's tokens; rows of weight 0 are as if they were not there.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Rows that select the best prompt. Report no score on them.

        Returns
        -------
        SoftPromptGenerator
            self

        Raises
        ------
        ValueError, TypeError
            If a parameter, row, target or weight is not what it must be; the message names it.
        FileExistsError
            If `checkpoint_dir` holds a checkpoint and `resume` is False.
        RuntimeError
            If the loss becomes infinite or NaN.
        """
        self._load()
        training = self._label(X, y, sample_weight, names=("X", "y", "sample_weight"))
        validation = None
        if validation_data is not None:
            names = ("validation X", "validation y", "validation sample_weight")
            validation = self._label(*check_validation_data(validation_data), names=names)
        self._fit(training, validation)
        return self

    @classmethod
    def from_prompt(cls, prompt: Any, model: Any, **parameters: Any) -> SoftPromptGenerator:
        """Return a fitted generator for a prompt that one has trained and saved.

        Parameters
        ----------
        prompt : SoftPrompt or path
        model : Model, str or path
            The model that the prompt was trained for; another one is warned of.
        **parameters
            Parameters of the constructor, which win over what is saved with the prompt.

        Raises
        ------
        ValueError
            If the prompt does not say what it is for, or does not fit the model.
        OSError
            If it cannot be read.
        """
        prompt = load_prompt(prompt)
        task = cls._read_task(prompt, KIND, _TASK_PARAMETERS)
        metric = (prompt.task or {}).get("metric")
        if isinstance(metric, str) and metric in METRICS:  # a callable is saved by its name only
            task["metric"] = metric
        return cls._restore(prompt, model, task, parameters)

    def predict(self, X: Any) -> np.ndarray:
        """Return the text that the model writes after every row, greedily.

        Parameters
        ----------
        X : as in `fit`
            Rows without their answers.

        Returns
        -------
        ndarray of shape (n,), object
            Of str.
        """
        check_is_fitted(self)
        texts = [
            text
            for inputs in self._encoded_chunks(X)
            for text in self._generate(inputs, self.prompt_)
        ]
        return np.array(texts, object)

    def score(
        self, X: Any, y: Any, sample_weight: Any = None, *, metric: Metric | None = None
    ) -> float:
        """Return the mean score of the generated texts.

        Parameters
        ----------
        X, y : as in `fit`
        sample_weight : array-like of shape (n,), optional
            Not with a callable as metric.
        metric : {"exact_match", "rougeL"} or callable, optional
            Default: the parameter of the constructor.

        Returns
        -------
        float

        Raises
        ------
        ImportError
            If ``"rougeL"`` is asked for without the package rouge-score.
        """
        check_is_fitted(self)
        metric = self.metric if metric is None else metric
        check_metric(metric)
        references = _targets(y, name="y")
        predictions = self.predict(X)
        check_same_length(len(predictions), references, rows="X", name="y")
        weight = None
        if sample_weight is not None:
            weight = check_sample_weight(sample_weight, len(references), name="sample_weight")
            if not weight.any():
                raise ValueError("sample_weight is 0 for every row")
        return score_texts(metric, predictions.tolist(), references, weight)

    # ---- what the base asks for ----

    def _check_parameters(self) -> None:
        check_count("max_new_tokens", self.max_new_tokens, minimum=1)
        check_metric(self.metric)
        self._check_choice("validation_metric", ("loss", "metric"))

    def _label(self, X: Any, y: Any, weight: Any, *, names: tuple[str, str, str]) -> LabelledRows:
        rows = collect_rows(X, self._template, name=names[0])
        if not rows:
            raise ValueError(f"{names[0]} has no rows")
        targets = _targets(y, name=names[1])
        check_same_length(len(rows), targets, rows=names[0], name=names[1])
        for number, target in enumerate(targets):
            if not target:
                raise ValueError(f"{names[1]}[{number}] is an empty text")
        weights = check_sample_weight(weight, len(rows), name=names[2])
        trained = self.num_virtual_tokens > 0
        ids = self._target_ids(targets, names[1]) if trained else [[] for _ in rows]
        no_classes = np.zeros(len(rows), np.intp)
        return label_rows(names[0], rows, targets, ids, no_classes, weights)

    def _answer_length(self) -> int:
        return self.max_new_tokens + 1  # and the end token

    def _target_ids(self, targets: list[str], name: str) -> list[list[int]]:
        pair = self._encoder.is_encoder_decoder  # its answers have their ends
        ends = self._encoder.eos_token_ids
        encoded, num_shortened = [], 0
        for number, text in enumerate(targets):
            ids, shortened = shorten_answer(
                self._encoder.answer(text),
                self.max_new_tokens,
                truncation=self.truncation,
                where=f"{name}[{number}]",
                ends=ends if pair else (),
            )
            num_shortened += shortened
            # A shortened target has not ended.
            encoded.append(ids if shortened or pair else ids + list(ends[:1]))
        if num_shortened:
            warnings.warn(
                f"{num_shortened} of {len(encoded)} targets in {name} were longer than "
                f"max_new_tokens={self.max_new_tokens} and were shortened (truncation='error' "
                "refuses them)",
                UserWarning,
                stacklevel=4,
            )
        return encoded

    def _make_objective(
        self, inputs: list[list[int]], rows: LabelledRows
    ) -> tuple[Objective, None]:
        targets, weight, position = rows.targets, rows.sample_weight, self.prompt_position
        return TokensObjective(self.model_, inputs, targets, weight, position=position), None

    def _make_validation(self, inputs: list[list[int]], rows: LabelledRows) -> Validation:
        def score(prompt: SoftPrompt) -> float:
            weight = None if callable(self.metric) else rows.sample_weight
            return score_texts(self.metric, self._generate(inputs, prompt), rows.answers, weight)

        return TokensValidation(
            self.model_,
            inputs,
            rows.targets,
            rows.sample_weight,
            position=self.prompt_position,
            score=score if self.validation_metric == "metric" else None,
        )

    def _generate(self, inputs: list[list[int]], prompt: SoftPrompt | None) -> list[str]:
        return self.model_.generate(
            inputs,
            prompt,
            max_new_tokens=self.max_new_tokens,
            stop=[SEPARATOR] if self.demonstrations_ else None,
        )

    def _settings(self) -> dict[str, Any]:
        return {"validation_metric": self.validation_metric, "metric": _metric_name(self.metric)}

    def _task(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            **{name: getattr(self, name) for name in _TASK_PARAMETERS},
            "demonstrations": self.demonstrations_,
            "chat": self._chat_record(),
            "metric": _metric_name(self.metric),
        }


def _targets(y: Any, *, name: str) -> list[str]:
    if y is None:
        raise ValueError(f"{name} is missing: a generator needs the target text of every row")
    return collect_texts(y, name=name)


def _metric_name(metric: Metric) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
