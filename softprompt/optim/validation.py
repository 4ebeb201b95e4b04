"""Checks of what an optimiser is given: numbers, the prompt and its gradient."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np


def check_number(
    name: str,
    value: object,
    *,
    minimum: float = 0.0,
    maximum: float = math.inf,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> float:
    """Return `value` as a finite float between `minimum` and `maximum`.

    Raises
    ------
    TypeError
        If `value` is not a real number (a bool is none).
    ValueError
        If `value` is not finite or lies outside the bounds.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    above = number > minimum if open_minimum else number >= minimum
    below = number < maximum if open_maximum else number <= maximum
    if not (math.isfinite(number) and above and below):
        left, right = "> " if open_minimum else ">= ", "< " if open_maximum else "<= "
        bounds = left + f"{minimum:g}"
        if math.isfinite(maximum):
            bounds += f" and {right}{maximum:g}"
        raise ValueError(f"{name} must be a finite number {bounds}, got {value!r}")
    return number


def check_count(name: str, value: object, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
    """Return `value` as an int between `minimum` and `maximum` (raises as `check_number`)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be >= {minimum} and <= {maximum}, got {value!r}")
    return int(value)


def check_matrix(name: str, value: object) -> np.ndarray:
    """Return `value` if it is a real floating-point array ``[rows, columns]``, neither empty.

    Raises
    ------
    TypeError
        If `value` is not a NumPy array of a real floating type.
    ValueError
        If it has another rank or no element.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else repr(type(value))
        raise TypeError(f"{name} must be a NumPy array of a floating type, got {kind}")
    if value.ndim != 2 or value.size == 0:
        raise ValueError(
            f"{name} must have the shape [num_virtual_tokens, hidden_size], got {value.shape}"
        )
    return value


def bad_row(array: np.ndarray) -> int | None:
    """Return the first row of `array` ``[rows, ...]`` with a NaN or an infinity, or None."""
    finite = np.isfinite(array)
    if finite.all():
        return None
    return int(np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))[0])


def check_finite(name: str, array: np.ndarray) -> None:
    """Raise ValueError, naming the row, if `array` ``[rows, columns]`` has a NaN or an infinity."""
    row = bad_row(array)
    if row is not None:
        raise ValueError(
            f"{name} must be finite, but row {row} of {len(array)} has NaN or infinity"
        )
