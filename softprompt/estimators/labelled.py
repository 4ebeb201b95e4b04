"""Rows with their answers and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.estimators.rows import check_same_length


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows with their answers.

    Attributes
    ----------
    name : str
        What messages call the rows.
    numbers : ndarray of int
        Each row's number in what the user passed, for messages.
    rows : list of dict
        Fields of the template.
    answers : list of str
        Label or target text.
    targets : list of list of int
        Token ids of the answers.
    classes : ndarray of int
        Class of each row; all 0 where there are none.
    sample_weight : ndarray of float64
        Positive.
    """

    name: str
    numbers: np.ndarray
    rows: list[dict[str, str]]
    answers: list[str]
    targets: list[list[int]]
    classes: np.ndarray
    sample_weight: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Sequence[int] | np.ndarray) -> LabelledRows:
        """Return some of the rows."""
        chosen = np.asarray(chosen, np.intp)
        return LabelledRows(
            self.name,
            self.numbers[chosen],
            [self.rows[row] for row in chosen],
            [self.answers[row] for row in chosen],
            [self.targets[row] for row in chosen],
            self.classes[chosen],
            self.sample_weight[chosen],
        )


def label_rows(
    name: str,
    rows: list[dict[str, str]],
    answers: list[str],
    targets: list[list[int]],
    classes: np.ndarray,
    sample_weight: np.ndarray,
) -> LabelledRows:
    """Return rows with their answers, without those of weight 0, which must change nothing.

    Raises
    ------
    ValueError
        If no row is left.
    """
    everything = LabelledRows(
        name, np.arange(len(rows)), rows, answers, targets, classes, sample_weight
    )
    weighty = np.flatnonzero(sample_weight > 0)
    if not len(weighty):
        raise ValueError("sample_weight (times class_weight) is 0 for every row")
    return everything.take(weighty)


def check_sample_weight(sample_weight: Any, num_rows: int, *, name: str) -> np.ndarray:
    """Return weights as float64 of shape ``(num_rows,)``; ones if there are none.

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If there is not one a row, or one is negative, NaN or infinite.
    """
    if sample_weight is None:
        return np.ones(num_rows)
    try:
        weights = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError) as err:
        raise TypeError(f"{name} must hold numbers: {err}") from err
    if weights.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got the shape {weights.shape}")
    check_same_length(num_rows, weights, rows="X", name=name)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise ValueError(
            f"{name}[{bad[0]}] = {weights[bad[0]]}; weights are finite and not negative"
        )
    return weights


def check_validation_data(validation_data: Any) -> tuple[Any, Any, Any]:
    """Return rows, answers and weights (or None) of validation data.

    Raises
    ------
    TypeError
        If it is not a tuple of two or three.
    """
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        kind = type(validation_data).__name__
        if isinstance(validation_data, (tuple, list)):
            kind += f" of {len(validation_data)}"
        raise TypeError(f"validation_data must be (X, y) or (X, y, sample_weight), got a {kind}")
    rows, answers, *weight = validation_data
    return rows, answers, weight[0] if weight else None
