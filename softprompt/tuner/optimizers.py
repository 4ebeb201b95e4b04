"""From an estimator's parameters to an optimiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from softprompt.optim import Adafactor, AdamW, Optimizer, constant, cosine, linear
from softprompt.optim.validation import check_count, check_number

OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor}
SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}

_SAMPLED_ROWS = 4096


def embedding_rms(embeddings: Any) -> float:
    """Return the root of the mean square of an embedding table, from evenly spaced rows.

    Parameters
    ----------
    embeddings : array-like of shape (vocab_size, hidden_size)

    Returns
    -------
    float
    """
    rows = np.unique(np.linspace(0, len(embeddings) - 1, _SAMPLED_ROWS).astype(np.int64))
    block = np.asarray(embeddings[rows], np.float64)
    return float(np.sqrt(np.mean(block * block)))


def make_optimizer(
    optimizer: str,
    *,
    learning_rate: float | str,
    schedule: str,
    warmup_steps: int,
    max_steps: int,
    options: Mapping[str, Any] | None,
    automatic_rate: Callable[[str], float],
) -> Optimizer:
    """Return the optimiser that parameters of an estimator describe.

    Parameters
    ----------
    optimizer : {"adamw", "adafactor"}
    learning_rate : float or "auto"
        The highest rate; ``"auto"``: what `automatic_rate` gives for the optimiser.
    schedule : {"constant", "linear", "cosine"}
        Course of the rate; the last two fall to 0 at the end of the run.
    warmup_steps : int
    max_steps : int
        Length of the run.
    options : mapping, optional
        Further arguments of the optimiser.
    automatic_rate : callable (str) -> float
        See `softprompt.tuner.methods.Method.learning_rate`.

    Raises
    ------
    ValueError, TypeError
        If a name is unknown or a value out of range.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {sorted(OPTIMIZERS)}, got {optimizer!r}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {schedule!r}")
    if isinstance(learning_rate, str):
        if learning_rate != "auto":
            raise ValueError(f"learning_rate must be a number or 'auto', got {learning_rate!r}")
        learning_rate = automatic_rate(optimizer)
    rate = check_number("learning_rate", learning_rate)
    check_count("warmup_steps", warmup_steps)
    if warmup_steps >= max_steps:
        raise ValueError(f"warmup_steps={warmup_steps} must be less than max_steps={max_steps}")
    if schedule == "constant":
        course = constant(rate, warmup_steps=warmup_steps)
    else:
        course = SCHEDULES[schedule](rate, max_steps, warmup_steps=warmup_steps)
    make = OPTIMIZERS[optimizer]
    options = dict(options or {})
    known = [name for name in inspect.signature(make).parameters if name != "learning_rate"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"optimizer_options has {unknown}, which {optimizer} does not take; it takes {known}"
        )
    return make(course, **options)
