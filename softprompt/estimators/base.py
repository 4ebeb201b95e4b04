"""What the classifier and the generator share: from rows and answers to a trained prompt."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from softprompt.estimators.demonstrations import choose_demonstrations, render_demonstrations
from softprompt.estimators.encoding import RowEncoder, TextEncoder
from softprompt.estimators.labelled import LabelledRows
from softprompt.estimators.rows import collect_rows
from softprompt.estimators.splits import split_validation
from softprompt.estimators.template import Template
from softprompt.optim.validation import check_count, check_number
from softprompt.prompt import Prefix, SoftPrompt
from softprompt.prompt import load_prompt as load_saved
from softprompt.prompt.mismatch import model_facts
from softprompt.tokenizer import ChatFrame, ChatTemplate
from softprompt.tuner import TuneResult, preset, tune
from softprompt.tuner.methods import METHODS, Method, make_method
from softprompt.tuner.objectives import Objective, Validation
from softprompt.tuner.optimizers import make_optimizer
from softprompt.tuner.progress import bar_over
from softprompt.tuner.record import environment

_ROWS_AT_A_TIME = 256  # of one call to the model when predicting


@dataclass(frozen=True)
class _Seeds:
    """One seed for each use of randomness, so that one does not shift another."""

    split: int
    demonstrations: int
    start: int
    batches: int


class SoftPromptEstimator(BaseEstimator):
    """Base of `SoftPromptClassifier` and `SoftPromptGenerator`, which list the parameters."""

    @classmethod
    def from_preset(cls, name: str, model: Any, **parameters: Any) -> Any:
        """Return an estimator with the parameters of a named recipe.

        Parameters
        ----------
        name : str
            A key of `softprompt.tuner.PRESETS`.
        model : Model, str or path
        **parameters
            Further parameters; they win over the recipe's. Those of the recipe that this
            estimator does not have are left out.

        Raises
        ------
        ValueError
            If there is no such recipe.
        """
        own = cls._get_param_names()
        recipe = {key: value for key, value in preset(name).items() if key in own}
        if "labels" not in own and recipe.get("init") == "labels":
            del recipe["init"]  # there are none to start from
        return cls(model, **{**recipe, **parameters})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.dict = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "prompt_")

    # ---- what a subclass says ----

    def _check_parameters(self) -> None:
        """Check the parameters that only the subclass has."""
        raise NotImplementedError

    def _make_objective(
        self, method: Method, inputs: list[list[int]], rows: LabelledRows
    ) -> tuple[Objective, list[list[int]] | None]:
        """Return the objective, and the label ids that a prompt may start from."""
        raise NotImplementedError

    def _make_validation(
        self, method: Method, inputs: list[list[int]], rows: LabelledRows
    ) -> Validation:
        raise NotImplementedError

    def _answer_length(self) -> int:
        """Return the most tokens that an answer may need."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """Return JSON values that decide the course of a run and that the loop does not know."""
        raise NotImplementedError

    def _task(self) -> dict[str, Any]:
        """Return what `from_prompt` needs, as JSON values."""
        raise NotImplementedError

    def _chat_record(self) -> dict[str, Any] | None:
        """Return what stands around every text as JSON values."""
        return None if self._chat is None else self._chat.record()

    # ---- fitting ----

    def _check_all_parameters(self) -> None:
        check_count("num_virtual_tokens", self.num_virtual_tokens)
        check_count("examples", self.examples)
        check_count("max_steps", self.max_steps, minimum=1)
        check_count("batch_size", self.batch_size, minimum=1)
        check_count("eval_every", self.eval_every, minimum=1)
        check_count("checkpoint_every", self.checkpoint_every, minimum=1)
        if self.patience is not None:
            check_count("patience", self.patience, minimum=1)
        if self.max_length is not None:
            check_count("max_length", self.max_length, minimum=1)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, open_minimum=True)
        check_number(
            "validation_fraction", self.validation_fraction, maximum=1.0, open_maximum=True
        )
        self._check_choice("truncation", ("field", "error"))
        self._check_choice("prompt_position", ("start", "after_bos"))
        self._check_choice("method", METHODS)
        self._check_choice("progress", (True, False, "auto"))
        self._check_choice("resume", (True, False))
        if self.checkpoint_dir is not None and not isinstance(self.random_state, (int, np.integer)):
            raise ValueError(
                f"checkpoint_dir needs random_state to be an int, got {self.random_state!r}: a "
                "resumed run must draw the same rows"
            )
        self._check_parameters()

    def _check_choice(self, name: str, choices: Sequence[Any]) -> None:
        value = getattr(self, name)
        if not isinstance(value, (str, bool)) or value not in choices:
            expected = ", ".join(map(repr, choices))
            raise ValueError(f"{name} must be one of {expected}, got {value!r}")

    def _load(self, chat: ChatFrame | None = None) -> None:
        """Set what does not depend on rows: the model, its encoder, the template.

        Parameters
        ----------
        chat : ChatFrame, optional
            What a saved prompt was trained with; default: what `chat_template` asks for.
        """
        # A fit that fails leaves no half of an earlier one.
        vars(self).pop("prompt_", None)
        self._check_all_parameters()
        template = Template(self.template)
        model = self.model
        if isinstance(model, (str, os.PathLike)):
            from softprompt.model.load import load_model

            model = load_model(model)
        elif not hasattr(model, "loss_and_grad"):
            raise TypeError(
                f"model must be a softprompt.Model, a name or a path, got {type(model).__name__}"
            )
        self._chat = chat_frame(model, self.chat_template) if chat is None else chat
        self._encoder = TextEncoder.of(model, self._chat)
        self._template = template
        self.model_ = model

    def _draw_seeds(self) -> _Seeds:
        random = check_random_state(self.random_state)
        return _Seeds(*(int(seed) for seed in random.randint(2**31 - 1, size=4)))

    def _fit(self, rows: LabelledRows, validation: LabelledRows | None) -> None:
        """Choose demonstrations, train if there is a prompt to train, set the attributes."""
        seeds = self._draw_seeds()
        trained = self.num_virtual_tokens > 0
        if trained and validation is None and self.validation_fraction > 0:
            rows, validation = self._split(rows, seeds)
        rows = self._take_demonstrations(rows, seeds, trained=trained)
        if not trained:
            self._set_result(None)
            return

        encoder = self._row_encoder()
        inputs = self._encode(encoder, rows)
        validation_inputs = self._encode(encoder, validation) if validation is not None else []
        encoder.warn()
        self._method = method = make_method(self.method, self.model_, position=self.prompt_position)
        objective, labels = self._make_objective(method, inputs, rows)
        check = None
        if validation is not None:
            check = self._make_validation(method, validation_inputs, validation)
        start = method.make_start(
            self.init,
            num_virtual_tokens=self.num_virtual_tokens,
            labels=labels,
            rng=np.random.default_rng(seeds.start),
        )
        optimizer = make_optimizer(
            self.optimizer,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            max_steps=self.max_steps,
            options=self.optimizer_options,
            automatic_rate=lambda name: method.learning_rate(name, start),
        )
        settings = {
            **self._settings(),
            "model": self.model_.fingerprint,
            "method": self.method,
            "prompt_position": self.prompt_position,
        }
        self._num_rows = (len(rows), 0 if validation is None else len(validation))
        result = tune(
            objective,
            start,
            optimizer,
            max_steps=self.max_steps,
            batch_size=self.batch_size,
            seed=seeds.batches,
            validation=check,
            eval_every=self.eval_every,
            patience=self.patience,
            max_grad_norm=self.max_grad_norm,
            checkpoint_dir=self.checkpoint_dir,
            checkpoint_every=self.checkpoint_every,
            resume=self.resume,
            settings=settings,
            record=self.record,
            progress=self.progress,
            on_interrupt=self._set_result,
        )
        self._set_result(result)

    def _split(self, rows: LabelledRows, seeds: _Seeds) -> tuple[LabelledRows, LabelledRows | None]:
        rng = np.random.default_rng(seeds.split)
        training, held_out = split_validation(rows.classes, self.validation_fraction, rng)
        if not len(held_out):
            warnings.warn(
                f"{len(rows)} rows are too few to set any aside for validation; the last prompt "
                "is kept. validation_fraction=0 says so without a warning",
                UserWarning,
                stacklevel=4,
            )
            return rows, None
        return rows.take(training), rows.take(held_out)

    def _take_demonstrations(
        self, rows: LabelledRows, seeds: _Seeds, *, trained: bool
    ) -> LabelledRows:
        """Set the text that stands before every row; return the rows that are not in it."""
        self.demonstrations_ = ""
        if not self.examples:
            return rows
        rng = np.random.default_rng(seeds.demonstrations)
        chosen = choose_demonstrations(rows.classes, self.examples, rng)
        # A row that demonstrates its own answer would teach copying.
        left = rows.take(np.setdiff1d(np.arange(len(rows)), chosen))
        if trained and not len(left):
            raise ValueError(
                f"examples={self.examples} demonstrations leave none of {len(rows)} rows to train "
                "on"
            )
        shown = rows.take(chosen)
        texts = shown.rows
        limit = self._limit()
        if limit is not None and self.truncation == "field":
            share = max(1, limit // (self.examples + 1))
            encoder = RowEncoder(self._template, self._encoder, limit=share)
            texts = [
                encoder.shortened(row, f"{rows.name}[{number}] as a demonstration")
                for row, number in zip(shown.rows, shown.numbers, strict=True)
            ]
        self.demonstrations_ = render_demonstrations(self._template, texts, shown.answers)
        return left

    def _set_result(self, result: TuneResult | None) -> None:
        self.prompt_ = None
        self.n_iter_, self.best_iter_ = 0, 0
        self.best_score_, self.history_ = None, {"steps": [], "evaluations": []}
        if result is None:
            return
        self.n_iter_, self.best_iter_ = result.num_steps, result.step
        self.best_score_, self.history_ = result.score, result.history
        self.prompt_ = self._method.finished(
            result.prompt,
            task=self._task(),
            training={
                **environment(),
                "parameters": self._described_parameters(),
                "num_training_rows": self._num_rows[0],
                "num_validation_rows": self._num_rows[1],
                "num_steps": result.num_steps,
                "best_step": result.step,
                "best_score": result.score,
                "best_loss": result.loss,
                "seconds": round(result.seconds, 1),
            },
            base_model=model_facts(self.model_),
        )

    def _described_parameters(self) -> dict[str, Any]:
        """Return the parameters of training as JSON values; others by their type's name."""
        left_out = {"model", "checkpoint_dir", "record", "resume", "progress", *self._task()}
        left_out.add("chat_template")  # the task has what came of it
        return {
            name: value if _is_plain(value) else f"<{type(value).__name__}>"
            for name, value in self.get_params(deep=False).items()
            if name not in left_out
        }

    # ---- using ----

    @classmethod
    def _restore(
        cls,
        prompt: SoftPrompt | Prefix,
        model: Any,
        task: dict[str, Any],
        parameters: dict[str, Any],
    ) -> Any:
        """Return a fitted estimator for a prompt, given what `_read_task` read from it."""
        known = {**task, "num_virtual_tokens": prompt.num_virtual_tokens}
        if isinstance(prompt, Prefix):
            known["method"] = "prefix"
        else:
            known["prompt_position"] = prompt.position
        chat = (prompt.task or {}).get("chat")
        frame = None
        if chat is not None and "chat_template" not in parameters:
            # What the prompt was trained with, whatever the model's template says today.
            known["chat_template"] = True
            frame = ChatFrame.from_record(chat)
        estimator = cls(model, **{**known, **parameters})
        estimator._load(frame)
        prompt.check_model(estimator.model_)
        training = prompt.training or {}
        estimator.prompt_ = prompt
        estimator.demonstrations_ = _text_of(prompt.task or {}, "demonstrations")
        estimator.n_iter_ = int(training.get("num_steps") or 0)
        estimator.best_iter_ = int(training.get("best_step") or 0)
        estimator.best_score_ = training.get("best_score")
        estimator.history_ = {"steps": [], "evaluations": []}
        return estimator

    @classmethod
    def _read_task(
        cls, prompt: SoftPrompt | Prefix, kind: str, names: Sequence[str]
    ) -> dict[str, Any]:
        """Return some entries of what a prompt says that it is for."""
        task = prompt.task or {}
        if task.get("kind") != kind:
            raise ValueError(
                f"the prompt's task is {task.get('kind')!r}, expected {kind!r}: only a prompt that "
                f"{cls.__name__} trained says what it is for"
            )
        missing = [name for name in names if name not in task]
        if missing:
            raise ValueError(f"the prompt's task lacks {missing}; it has {sorted(task)}")
        return {name: task[name] for name in names}

    def _limit(self) -> int | None:
        """Return the most tokens of a row before its answer."""
        context = getattr(self.model_.config, "max_positions", None)
        if context is None:
            return self.max_length
        answer = self._answer_length()
        # A decoder that reads an encoder has a context of its own for the answer.
        beside = 0 if self._encoder.is_encoder_decoder else answer
        left = context - self.num_virtual_tokens - beside
        if left < 1 or answer > context:
            raise ValueError(
                f"{self.num_virtual_tokens} virtual tokens and {answer} tokens of an answer leave "
                f"no room in the model's context of {context}"
            )
        if self.max_length is None:
            return left
        if self.max_length > left:
            raise ValueError(
                f"max_length={self.max_length} is more than the {left} tokens that the model's "
                f"context of {context} leaves beside {self.num_virtual_tokens} virtual tokens and "
                f"{beside} tokens of an answer"
            )
        return self.max_length

    def _row_encoder(self) -> RowEncoder:
        return RowEncoder(
            self._template,
            self._encoder,
            before=self.demonstrations_,
            limit=self._limit(),
            truncation=self.truncation,
        )

    def _encode(self, encoder: RowEncoder, rows: LabelledRows) -> list[list[int]]:
        encoded = encoder.encode(rows.rows, name=rows.name, numbers=rows.numbers)
        self._check_not_empty(encoded, rows.name, rows.numbers)
        return encoded

    def _check_not_empty(
        self, encoded: Sequence[Sequence[int]], name: str, numbers: Sequence[int] | np.ndarray
    ) -> None:
        if self.num_virtual_tokens and self.method == "prompt":
            return
        before = "a prefix gives none" if self.num_virtual_tokens else "there is no prompt"
        for ids, number in zip(encoded, numbers, strict=True):
            if not len(ids):
                raise ValueError(
                    f"{name}[{number}] gives no tokens, and {before} before it: nothing could "
                    "predict the answer"
                )

    def _encoded_chunks(self, X: Any) -> Any:
        """Yield the ids of all rows of `X`, some hundred at a time, with a bar where it is long."""
        rows = collect_rows(X, self._template)
        if not rows:
            raise ValueError("X has no rows")
        encoder = self._row_encoder()
        show = self.progress if len(rows) > 2 * _ROWS_AT_A_TIME else False
        bar = bar_over(len(rows), show=show, unit="row")
        try:
            for first in range(0, len(rows), _ROWS_AT_A_TIME):
                chunk = rows[first : first + _ROWS_AT_A_TIME]
                numbers = range(first, first + len(chunk))
                encoded = encoder.encode(chunk, numbers=numbers)
                self._check_not_empty(encoded, "X", numbers)
                yield encoded
                bar.update(len(chunk))
        finally:
            bar.close()
        encoder.warn()


def chat_frame(model: Any, chat_template: bool | str | None) -> ChatFrame | None:
    """Return what stands around every text, or None.

    Parameters
    ----------
    model : Model
    chat_template : bool, str or None
        True: by the model's own chat template. A text: by this one. False or None: nothing.

    Raises
    ------
    TypeError
        Another type.
    ValueError
        The model has no chat template, or it fails.
    ImportError
        The package jinja2 is not installed.
    """
    if chat_template is None or chat_template is False:
        return None
    if chat_template is True:
        template = getattr(model.tokenizer, "chat_template", None)
        if template is None:
            raise ValueError(
                "chat_template=True, but the model's files have no chat template; give its text"
            )
        return template.frame()
    if not isinstance(chat_template, str):
        raise TypeError(
            f"chat_template must be True, a text or None, got a {type(chat_template).__name__}"
        )
    return ChatTemplate(chat_template, getattr(model.tokenizer, "named_tokens", {})).frame()


def load_prompt(prompt: Any) -> SoftPrompt | Prefix:
    """Return a prompt or prefix as it is, or the one saved at a path."""
    return prompt if isinstance(prompt, (SoftPrompt, Prefix)) else load_saved(prompt)


def _text_of(task: dict[str, Any], name: str) -> str:
    value = task.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"the prompt's task has {name} = {value!r}, expected a text")
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))
