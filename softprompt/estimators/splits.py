"""Setting rows aside for validation."""

from __future__ import annotations

import numpy as np


def split_validation(
    classes: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Set a fraction of the rows aside, the same fraction of every class as nearly as can be.

    Parameters
    ----------
    classes : ndarray of shape (n,), int
        Class of every row; all 0 where there are no classes.
    fraction : float in [0, 1)
    rng : numpy.random.Generator

    Returns
    -------
    training, validation : ndarray of int
        Row numbers, ascending; together every row once. Each class keeps a row for training, so
        `validation` can be empty where the classes have one row each.
    """
    values, counts = np.unique(classes, return_counts=True)
    wanted = round(fraction * len(classes)) if fraction else 0
    if fraction and not wanted:
        wanted = 1
    shares = counts * fraction
    quotas = np.minimum(np.floor(shares).astype(int), counts - 1)
    # Largest remainders get the rows that rounding down left over; the class decides ties.
    for index in np.argsort(-(shares - np.floor(shares)), kind="stable").tolist():
        if quotas.sum() >= wanted:
            break
        quotas[index] = min(quotas[index] + 1, counts[index] - 1)
    chosen = [
        rng.permutation(np.flatnonzero(classes == value))[:quota]
        for value, quota in zip(values, quotas, strict=True)
    ]
    validation = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, int)
    return np.setdiff1d(np.arange(len(classes)), validation), validation
