"""What training lowers and what validation measures, over rows that are token ids already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from softprompt.prompt import Prefix, SoftPrompt
from softprompt.tuner.methods import Method


@dataclass(frozen=True)
class Evaluation:
    """What one look at the validation rows gives.

    Attributes
    ----------
    score : float
        Higher is better.
    loss : float
        Lower is better; decides between equal scores.
    """

    score: float
    loss: float


class Objective(Protocol):
    """A loss over numbered rows."""

    num_rows: int

    def loss_and_grad(self, prompt: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean loss of those rows and its gradient, float32 of the prompt's shape."""

    def digest(self) -> str:
        """Return a fingerprint of the rows, for telling whether a checkpoint is of this run."""


class Validation(Protocol):
    """A measurement on rows that are not trained on."""

    def evaluate(self, prompt: np.ndarray) -> Evaluation:
        """Return score and loss of a method's matrix, float32 ``[P, d]``."""

    def digest(self) -> str:
        """Return a fingerprint of the rows."""


class TokensObjective:
    """Cross-entropy of the target's tokens over the whole vocabulary, mean over target tokens.

    Parameters
    ----------
    model : Model
    inputs, targets : list of list of int
        Ids before the answer, and ids of the answer.
    sample_weight : ndarray of shape (n,)
        Weight of each row's tokens.
    method : Method
        What is trained.
    """

    def __init__(
        self,
        model: Any,
        inputs: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        sample_weight: np.ndarray,
        *,
        method: Method,
    ) -> None:
        self.num_rows = len(inputs)
        self._model = model
        self._examples = weighted_examples(inputs, targets, sample_weight)
        self._method = method
        self._digest = digest_of("tokens", inputs, targets, sample_weight)

    def loss_and_grad(self, prompt: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """See `Objective`."""
        examples = [self._examples[row] for row in rows]
        return self._model.loss_and_grad(self._method.finished(prompt), examples)

    def digest(self) -> str:
        """See `Objective`."""
        return self._digest


class _LabelRows:
    """Rows, their labels and how those are ranked: shared by training and validation."""

    def __init__(
        self,
        model: Any,
        inputs: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
        targets: np.ndarray,
        sample_weight: np.ndarray,
        *,
        method: Method,
        length_normalize: bool = False,
    ) -> None:
        self._model = model
        self._inputs, self._choices, self._targets = inputs, choices, targets
        self._sample_weight = sample_weight
        self._method, self._length_normalize = method, length_normalize
        self._digest = digest_of("labels", inputs, choices, targets, sample_weight)

    def digest(self) -> str:
        """See `Objective` and `Validation`."""
        return self._digest


class LabelsObjective(_LabelRows):
    """Cross-entropy over the labels: minus the log of the softmax of their log-likelihoods.

    Parameters
    ----------
    model : Model
    inputs : list of list of int
    choices : list of list of int
        Ids of every label, the same for all rows.
    targets : ndarray of shape (n,), int
        Index of each row's label.
    sample_weight : ndarray of shape (n,)
    method : Method
        What is trained.
    length_normalize : bool
        Divide log-likelihoods by the number of a label's tokens.
    """

    @property
    def num_rows(self) -> int:
        """See `Objective`."""
        return len(self._inputs)

    def loss_and_grad(self, prompt: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """See `Objective`."""
        return self._model.ranking_loss_and_grad(
            self._method.finished(prompt),
            [self._inputs[row] for row in rows],
            self._choices,
            self._targets[rows],
            sample_weight=self._sample_weight[rows],
            length_normalize=self._length_normalize,
        )


class LabelsValidation(_LabelRows):
    """Accuracy, and the log loss over the labels, of one ranking of the validation rows.

    Parameters are those of `LabelsObjective`. With ``select="loss"`` the score is minus the loss.
    """

    def __init__(self, *rows: Any, select: str = "accuracy", **ranking: Any) -> None:
        super().__init__(*rows, **ranking)
        self._select = select

    def evaluate(self, prompt: np.ndarray) -> Evaluation:
        """See `Validation`."""
        ranked = self._model.rank(
            self._inputs,
            self._choices,
            self._method.finished(prompt),
            length_normalize=self._length_normalize,
        )
        chosen = ranked[np.arange(len(ranked)), self._targets]
        loss = -float(np.average(chosen, weights=self._sample_weight))
        right = ranked.argmax(axis=1) == self._targets
        accuracy = float(np.average(right, weights=self._sample_weight))
        return Evaluation(score=accuracy if self._select == "accuracy" else -loss, loss=loss)


class TokensValidation:
    """Loss of the targets' tokens, or a score of what the model generates.

    Parameters
    ----------
    model, inputs, targets, sample_weight, method
        As for `TokensObjective`.
    score : callable or None
        From a `SoftPrompt` or `Prefix` to a number; None scores by minus the loss.
    """

    def __init__(
        self,
        model: Any,
        inputs: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        sample_weight: np.ndarray,
        *,
        method: Method,
        score: Callable[[SoftPrompt | Prefix], float] | None = None,
    ) -> None:
        self._model = model
        self._examples = weighted_examples(inputs, targets, sample_weight)
        self._method, self._score = method, score
        self._digest = digest_of("tokens", inputs, targets, sample_weight)

    def evaluate(self, prompt: np.ndarray) -> Evaluation:
        """See `Validation`."""
        placed = self._method.finished(prompt)
        loss = float(self._model.loss(placed, self._examples))
        score = -loss if self._score is None else self._score(placed)
        return Evaluation(score=score, loss=loss)

    def digest(self) -> str:
        """See `Validation`."""
        return self._digest


def weighted_examples(
    inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], sample_weight: np.ndarray
) -> list[tuple[Any, ...]]:
    """Return examples of ``loss_and_grad``, with weights of target tokens where not all are 1."""
    if np.all(sample_weight == 1):
        return list(zip(inputs, targets, strict=True))
    weights = sample_weight.tolist()
    return [
        (ids, target, [weight] * len(target))
        for ids, target, weight in zip(inputs, targets, weights, strict=True)
    ]


def digest_of(*parts: Any) -> str:
    """Return the SHA-256 of texts, arrays and lists of id lists, lengths included."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha.update(part.encode())
        elif isinstance(part, np.ndarray):
            sha.update(f"{part.dtype.str}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).tobytes())
        else:
            lengths = np.array([len(ids) for ids in part], np.int64)
            flat = np.array([token for ids in part for token in ids], np.int64)
            sha.update(f"{len(lengths)}".encode() + lengths.tobytes() + flat.tobytes())
    return sha.hexdigest()
