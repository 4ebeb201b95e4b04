"""Optimisers and schedules by name, as estimators and the command line give them."""

from __future__ import annotations

from typing import Any

from softprompt.optim.adafactor import Adafactor
from softprompt.optim.adamw import AdamW
from softprompt.optim.optimizer import Optimizer
from softprompt.optim.schedules import constant, cosine, linear

OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor}
SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}


def make_optimizer(
    name: str,
    learning_rate: float,
    *,
    schedule: str = "constant",
    total_steps: int | None = None,
    warmup_steps: int = 0,
    final: float = 0.0,
    **options: Any,
) -> Optimizer:
    """Return a new optimiser with a learning-rate schedule.

    Parameters
    ----------
    name : {"adamw", "adafactor"}
    learning_rate : float
        The highest rate.
    schedule : {"constant", "linear", "cosine"}
    total_steps : int, optional
        Steps of the run; not used by ``"constant"``.
    warmup_steps : int
    final : float
        The rate at the end; not used by ``"constant"``.
    **options
        The optimiser's own arguments: `AdamW`, `Adafactor`.

    Raises
    ------
    TypeError
        If an argument has a wrong type or the optimiser has no such option.
    ValueError
        If a name is unknown or a number out of range.

    Examples
    --------
    >>> make_optimizer("adamw", 0.01, schedule="cosine", total_steps=100).current_learning_rate()
    0.01
    """
    for what, value, known in (("optimizer", name, OPTIMIZERS), ("schedule", schedule, SCHEDULES)):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{what}={value!r}: expected one of {', '.join(map(repr, known))}")
    if schedule == "constant":
        rate = constant(learning_rate, warmup_steps)
    else:
        rate = SCHEDULES[schedule](learning_rate, total_steps, warmup_steps, final)
    return OPTIMIZERS[name](rate, **options)
