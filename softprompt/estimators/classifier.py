"""`SoftPromptClassifier`: texts to classes, by ranking label texts after a trained prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from softprompt.estimators.base import (
    SoftPromptEstimator,
    load_prompt,
)
from softprompt.estimators.labelled import (
    LabelledRows,
    check_sample_weight,
    check_validation_data,
    label_rows,
)
from softprompt.estimators.labels import Labels
from softprompt.estimators.rows import check_same_length, collect_rows, collect_values
from softprompt.tuner import defaults
from softprompt.tuner.methods import Method
from softprompt.tuner.objectives import (
    LabelsObjective,
    LabelsValidation,
    Objective,
    TokensObjective,
    Validation,
)

KIND = "classification"
_TASK_PARAMETERS = ("template", "objective", "length_normalize", "truncation", "max_length")


class SoftPromptClassifier(ClassifierMixin, SoftPromptEstimator):
    r"""Classify texts with a frozen language model and a soft prompt trained for the task.

    A row fills the template; each class has a label text; the class whose label text the model
    finds most likely after [prompt][demonstrations][filled template] is predicted. `fit` trains the
    prompt. With ``num_virtual_tokens=0`` there is none, and the same calls score the hand-written
    prompt: zero-shot, or few-shot with `examples`.

    Parameters
    ----------
    model : Model, str or path
        A loaded model, or what `softprompt.load_model` takes; it is loaded by `fit`.
    template : str
        Text with fields in braces, ``"Review: {sentence}\nSentiment:"``. ``{{`` and ``}}`` stand
        for braces.
    labels : dict, list of str, or None
        Class -> label text; or the label texts, which are then the classes; or None: the classes
        found in `y`, each with its name as text (after a blank, unless the template ends in one).
        Texts are encoded without special tokens and may have several tokens.
    method : {"prompt", "prefix"}, default "prompt"
        What is trained: rows before the text's embeddings (prompt tuning), or the keys and values
        that stand before the text in every layer (prefix tuning).
    num_virtual_tokens : int, default 20
        Rows of the prompt, or of a prefix in every layer; 0 trains nothing.
    init : str, TextStart, array, SoftPrompt, Prefix or path, default "labels"
        Where the prompt starts; see `softprompt.tuner.make_start`. A prefix starts as the keys and
        values that such a prompt leaves in the model, or as another prefix.
    objective : {"tokens", "labels"}, default "tokens"
        What training lowers. ``"tokens"``: cross-entropy of the right label's tokens over the
        whole vocabulary, as PEFT trains. ``"labels"``: minus the log of the right label's share in
        the softmax of the labels' log-likelihoods.
    optimizer : {"adamw", "adafactor"}, default "adamw"
    optimizer_options : dict, optional
        Further arguments of `softprompt.optim.AdamW` or `softprompt.optim.Adafactor`.
    learning_rate : float or "auto", default "auto"
        Highest rate; ``"auto"`` is a fraction of the RMS of the model's embeddings
        (`softprompt.tuner.defaults.LEARNING_RATE_OF_RMS`), or of the keys and values that a prefix
        starts from (`PREFIX_LEARNING_RATE_OF_RMS`).
    schedule : {"linear", "cosine", "constant"}, default "linear"
        How the rate falls over `max_steps`.
    warmup_steps : int, default 0
        Steps over which it rises first.
    max_steps : int, default 150
    batch_size : int, default 16
        Rows of a step.
    max_grad_norm : float or None, default 1.0
        Longer gradients are scaled down to this norm.
    validation_fraction : float in [0, 1), default 0.1
        Share of the training rows that is set aside, balanced over the classes, where `fit` gets
        no `validation_data`. 0: none, and the last prompt is kept instead of the best.
    validation_metric : {"accuracy", "loss"}, default "accuracy"
        What makes the best prompt; equal accuracies are told apart by the loss.
    eval_every : int, default 50
        Steps between evaluations.
    patience : int or None, default None
        Evaluations without a better prompt after which training ends.
    class_weight : dict, "balanced" or None, default None
        As in scikit-learn; multiplies `sample_weight`.
    length_normalize : bool, default False
        Divide a label's log-likelihood by its number of tokens, in training and prediction.
    truncation : {"field", "error"}, default "field"
        What happens to a row of more than `max_length` tokens: the longest field is shortened, and
        one warning says how often; or ValueError.
    max_length : int or None, default None
        Most tokens of a row with template and demonstrations. None: what the model's context
        leaves beside prompt and label.
    examples : int, default 0
        Training rows that are put before every text with their labels, balanced over the classes.
        They are not trained on.
    chat_template : bool, str or None, default None
        True: the text (demonstrations and filled template) becomes the user's turn of a
        conversation as the model's own chat template writes it, and the answer follows the
        generation prompt; a str: as this template (Jinja) writes it. Needs jinja2
        (``softprompt[chat]``). A saved prompt keeps what stood around its texts.
    prompt_position : {"start", "after_bos"}, default "start"
        Where the virtual tokens stand, if the model begins texts with a special token. A prefix
        stands at the start.
    checkpoint_dir : path or None, default None
        Folder of a checkpoint from which a stopped run goes on; needs an int as `random_state`.
    checkpoint_every : int, default 10
        Steps between checkpoints.
    resume : bool, default False
        Go on from the checkpoint, if there is one. A checkpoint of other rows or parameters is an
        error, and so is an existing one without `resume`.
    record : path or None, default None
        JSON-lines file of losses and scores; see `softprompt.plot_record`.
    progress : bool or "auto", default "auto"
        Show progress bars; ``"auto"``: on a terminal or in a notebook.
    random_state : int, RandomState or None, default None
        Decides validation rows, demonstrations, start and order of the rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted.
    prompt_ : SoftPrompt, Prefix or None
        The best prompt by validation, ready to be saved; None with ``num_virtual_tokens=0``.
    demonstrations_ : str
        Text before every row; empty without `examples`.
    n_iter_, best_iter_ : int
        Steps taken, and steps after which the best prompt was reached.
    best_score_ : float or None
        Its validation score (minus the loss with ``validation_metric="loss"``).
    history_ : dict of lists of dict
        ``"steps"`` and ``"evaluations"``.
    model_ : Model

    Notes
    -----
    Ctrl-C during `fit` raises KeyboardInterrupt; the estimator then has the best prompt so far.

    References
    ----------
    Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"
    (arXiv:2104.08691), section 2. Li, Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for
    Generation" (arXiv:2101.00190).
    """

    def __init__(
        self,
        model: Any,
        *,
        template: str = "{text}",
        labels: Any = None,
        method: str = "prompt",
        num_virtual_tokens: int = defaults.NUM_VIRTUAL_TOKENS,
        init: Any = "labels",
        objective: str = defaults.OBJECTIVE,
        optimizer: str = defaults.OPTIMIZER,
        optimizer_options: dict[str, Any] | None = None,
        learning_rate: float | str = "auto",
        schedule: str = defaults.SCHEDULE,
        warmup_steps: int = defaults.WARMUP_STEPS,
        max_steps: int = defaults.MAX_STEPS,
        batch_size: int = defaults.BATCH_SIZE,
        max_grad_norm: float | None = defaults.MAX_GRAD_NORM,
        validation_fraction: float = defaults.VALIDATION_FRACTION,
        validation_metric: str = "accuracy",
        eval_every: int = defaults.EVAL_EVERY,
        patience: int | None = None,
        class_weight: Any = None,
        length_normalize: bool = False,
        truncation: str = "field",
        max_length: int | None = None,
        examples: int = 0,
        chat_template: bool | str | None = None,
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
        self.labels = labels
        self.method = method
        self.num_virtual_tokens = num_virtual_tokens
        self.init = init
        self.objective = objective
        self.optimizer = optimizer
        self.optimizer_options = optimizer_options
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.validation_metric = validation_metric
        self.eval_every = eval_every
        self.patience = patience
        self.class_weight = class_weight
        self.length_normalize = length_normalize
        self.truncation = truncation
        self.max_length = max_length
        self.examples = examples
        self.chat_template = chat_template
        self.prompt_position = prompt_position
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.resume = resume
        self.record = record
        self.progress = progress
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> SoftPromptClassifier:
        """Train the prompt.

        Parameters
        ----------
        X : list of str or dict, DataFrame, Series, datasets.Dataset, or ndarray of texts
            A str is the value of the template's only field.
        y : array-like of shape (n,)
            Class of every row.
        sample_weight : array-like of shape (n,), optional
            Rows of weight 0 are as if they were not there.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Rows that select the best prompt. Report no score on them.

        Returns
        -------
        SoftPromptClassifier
            self

        Raises
        ------
        ValueError, TypeError
            If a parameter, row, class or weight is not what it must be; the message names it.
        FileExistsError
            If `checkpoint_dir` holds a checkpoint and `resume` is False.
        RuntimeError
            If the loss becomes infinite or NaN.
        """
        self._load()
        rows = collect_rows(X, self._template)
        if not rows:
            raise ValueError("X has no rows")
        if y is None:
            raise ValueError("y is missing: a classifier needs the class of every row")
        values = collect_values(y, name="y")
        check_same_length(len(rows), values, rows="X", name="y")
        self._set_labels(Labels.resolve(self.labels, values, blank=self._needs_blank()))
        weight = check_sample_weight(sample_weight, len(rows), name="sample_weight")
        training = self._label(rows, values, weight, names=("X", "y"), balance=True)
        if self.num_virtual_tokens and len(set(training.classes.tolist())) < 2:
            raise ValueError(
                f"y has one class only, {values[training.numbers[0]]!r}; training needs at least "
                "two"
            )
        validation = None
        if validation_data is not None:
            X_held_out, y_held_out, weight = check_validation_data(validation_data)
            rows = collect_rows(X_held_out, self._template, name="validation X")
            values = collect_values(y_held_out, name="validation y")
            check_same_length(len(rows), values, rows="validation X", name="validation y")
            if not rows:
                raise ValueError("validation X has no rows")
            weight = check_sample_weight(weight, len(rows), name="validation sample_weight")
            names = ("validation X", "validation y")
            validation = self._label(rows, values, weight, names=names, balance=False)
        self._fit(training, validation)
        return self

    @classmethod
    def from_prompt(cls, prompt: Any, model: Any, **parameters: Any) -> SoftPromptClassifier:
        """Return a fitted classifier for a prompt that one has trained and saved.

        Parameters
        ----------
        prompt : SoftPrompt, Prefix or path
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
        task = cls._read_task(prompt, KIND, (*_TASK_PARAMETERS, "classes", "labels"))
        classes, texts = task.pop("classes"), task["labels"]
        if not (isinstance(classes, list) and isinstance(texts, list)):
            raise ValueError(
                f"the prompt's task has classes={classes!r} and labels={texts!r}, expected lists"
            )
        check_same_length(len(classes), texts, rows="classes", name="labels")
        task["labels"] = dict(zip(classes, texts, strict=True))
        classifier = cls._restore(prompt, model, task, parameters)
        classifier._set_labels(
            Labels.resolve(classifier.labels, [], blank=classifier._needs_blank())
        )
        return classifier

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely class of every row.

        Parameters
        ----------
        X : as in `fit`
            Rows without their answers.

        Returns
        -------
        ndarray of shape (n,)
        """
        chosen = self._log_probabilities(X).argmax(axis=1)
        return self.classes_[chosen]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the softmax of the labels' summed log-likelihoods.

        Parameters
        ----------
        X : as in `fit`
            Rows without their answers.

        Returns
        -------
        ndarray of shape (n, n_classes), float64
            Columns as in `classes_`.
        """
        return np.exp(self._log_probabilities(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of `predict_proba`, without its rounding of small numbers to 0.

        Parameters
        ----------
        X : as in `fit`
            Rows without their answers.

        Returns
        -------
        ndarray of shape (n, n_classes), float64
        """
        return self._log_probabilities(X)

    def _log_probabilities(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        ranked = [
            self.model_.rank(
                inputs, self._label_ids, self.prompt_, length_normalize=self.length_normalize
            )
            for inputs in self._encoded_chunks(X)
        ]
        return np.concatenate(ranked)

    # ---- what the base asks for ----

    def _check_parameters(self) -> None:
        self._check_choice("objective", ("labels", "tokens"))
        self._check_choice("validation_metric", ("accuracy", "loss"))
        self._check_choice("length_normalize", (True, False))

    def _needs_blank(self) -> bool:
        if self._encoder.is_encoder_decoder:  # a label begins the decoder's text
            return False
        if self._chat is not None:
            return not self._chat.after[-1:].isspace()
        return not self._template.ends_in_blank

    def _set_labels(self, labels: Labels) -> None:
        self._labels = labels
        self._label_ids = labels.encode_texts(
            self._encoder.answer, length_normalize=self.length_normalize
        )
        self.classes_ = labels.classes

    def _label(
        self,
        rows: list[dict[str, str]],
        values: list[Any],
        sample_weight: np.ndarray,
        *,
        names: tuple[str, str],
        balance: bool,
    ) -> LabelledRows:
        classes = self._labels.encode(values, name=names[1])
        if balance and self.class_weight is not None:
            present = sample_weight > 0
            sample_weight = sample_weight.copy()
            sample_weight[present] *= compute_sample_weight(
                self.class_weight, self.classes_[classes[present]]
            )
            check_sample_weight(sample_weight, len(rows), name="class_weight times sample_weight")
        answers = [self._labels.texts[index] for index in classes]
        targets = [self._label_ids[index] for index in classes]
        return label_rows(names[0], rows, answers, targets, classes, sample_weight)

    def _answer_length(self) -> int:
        return max(map(len, self._label_ids))

    def _make_objective(
        self, method: Method, inputs: list[list[int]], rows: LabelledRows
    ) -> tuple[Objective, list[list[int]]]:
        if self.objective == "tokens":
            objective: Objective = TokensObjective(
                self.model_,
                inputs,
                rows.targets,
                rows.sample_weight,
                method=method,
            )
        else:
            objective = LabelsObjective(
                self.model_, *self._ranked(inputs, rows), **self._ranking(method)
            )
        return objective, [self._encoder.words(text) for text in self._labels.texts]

    def _make_validation(
        self, method: Method, inputs: list[list[int]], rows: LabelledRows
    ) -> Validation:
        return LabelsValidation(
            self.model_,
            *self._ranked(inputs, rows),
            **self._ranking(method),
            select=self.validation_metric,
        )

    def _ranked(self, inputs: list[list[int]], rows: LabelledRows) -> tuple[Any, ...]:
        return inputs, self._label_ids, rows.classes, rows.sample_weight

    def _ranking(self, method: Method) -> dict[str, Any]:
        return {"method": method, "length_normalize": self.length_normalize}

    def _settings(self) -> dict[str, Any]:
        return {
            "objective": self.objective,
            "length_normalize": self.length_normalize,
            "validation_metric": self.validation_metric,
        }

    def _task(self) -> dict[str, Any]:
        task = {name: getattr(self, name) for name in _TASK_PARAMETERS}
        return {
            "kind": KIND,
            **task,
            "classes": self.classes_.tolist(),
            "labels": list(self._labels.texts),
            "demonstrations": self.demonstrations_,
            "chat": self._chat_record(),
            "metric": "accuracy",
        }
