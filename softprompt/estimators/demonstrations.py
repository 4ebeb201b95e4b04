"""Few-shot demonstrations: which rows, and the text that they make."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from softprompt.estimators.template import Template

SEPARATOR = "\n\n"


def choose_demonstrations(classes: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Return rows to show as examples, balanced over the classes.

    Parameters
    ----------
    classes : ndarray of shape (n,), int
        Class of every row; all 0 where there are no classes.
    count : int >= 0
    rng : numpy.random.Generator

    Returns
    -------
    list of int
        `count` different rows in a random order. Of two classes with rows left, neither has more
        than one row more than the other.

    Raises
    ------
    ValueError
        If there are fewer than `count` rows.
    """
    if count > len(classes):
        raise ValueError(f"examples={count} demonstrations need as many rows, got {len(classes)}")
    queues = {
        value: rng.permutation(np.flatnonzero(classes == value)).tolist()
        for value in np.unique(classes).tolist()
    }
    chosen: list[int] = []
    while len(chosen) < count:
        for value in rng.permutation(list(queues)).tolist():
            chosen.append(queues[value].pop())
            if not queues[value]:
                del queues[value]
    return rng.permutation(chosen[:count]).astype(int).tolist()


def render_demonstrations(
    template: Template, rows: Iterable[dict[str, str]], answers: Iterable[str]
) -> str:
    """Return the text that stands before every row's own: filled templates with their answers."""
    return "".join(
        template.fill(row) + answer + SEPARATOR for row, answer in zip(rows, answers, strict=True)
    )
