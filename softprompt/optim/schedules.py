"""Learning-rate schedules: callables from the number of steps taken so far to a learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from softprompt.optim.validation import check_count, check_number


@dataclass(frozen=True)
class Schedule:
    """A learning rate that warms up, then stays or falls; made by `constant`, `linear`, `cosine`.

    With s = 0 at the first step, W = `warmup_steps` and T = `total_steps`:

    - s < W: ``learning_rate * (s + 1) / (W + 1)``, so the first step moves, and s = W is the first
      at the full rate. (transformers uses s / W, whose first step does nothing.)
    - s >= W: ``final + (learning_rate - final) * shape(x)`` with x = (s - W) / (T - W), at most 1;
      shape(x) is 1 (constant), 1 - x (linear) or (1 + cos(pi x)) / 2 (cosine).

    A run of T steps ends at s = T - 1, just above `final`; from s = T on the rate is `final`.
    Plain data: it compares by value, pickles and copies.

    Attributes
    ----------
    kind : {"constant", "linear", "cosine"}
    learning_rate : float
        The highest rate, >= 0.
    total_steps : int or None
        T, greater than `warmup_steps`; None if and only if `kind` is ``"constant"``.
    warmup_steps : int
        W, >= 0.
    final : float
        The rate at the end, between 0 and `learning_rate`.
    """

    kind: str
    learning_rate: float
    total_steps: int | None = None
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "linear", "cosine"):
            raise ValueError(f"kind must be 'constant', 'linear' or 'cosine', got {self.kind!r}")
        check_number("learning_rate", self.learning_rate)
        check_number("final", self.final, maximum=self.learning_rate)
        check_count("warmup_steps", self.warmup_steps)
        if (self.kind == "constant") != (self.total_steps is None):
            raise ValueError(
                f"total_steps must be {'None' if self.kind == 'constant' else 'given'} for a "
                f"{self.kind} schedule, got {self.total_steps!r}"
            )
        if self.total_steps is not None:
            check_count("total_steps", self.total_steps, minimum=self.warmup_steps + 1)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` (>= 0) others.

        Raises
        ------
        TypeError, ValueError
            If `step` is not an integer >= 0.
        """
        step = check_count("step", step)
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        if self.total_steps is None:
            return self.learning_rate
        x = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        shape = 1 - x if self.kind == "linear" else (1 + math.cos(math.pi * x)) / 2
        return self.final + (self.learning_rate - self.final) * shape


def constant(learning_rate: float, warmup_steps: int = 0) -> Schedule:
    """Return a schedule that stays at `learning_rate` after a linear warm-up; see `Schedule`.

    Examples
    --------
    >>> schedule = constant(0.3, warmup_steps=2)
    >>> [round(schedule(step), 3) for step in range(4)]
    [0.1, 0.2, 0.3, 0.3]
    """
    return Schedule("constant", learning_rate, warmup_steps=warmup_steps)


def linear(
    learning_rate: float, total_steps: int, warmup_steps: int = 0, final: float = 0.0
) -> Schedule:
    """Return a schedule that falls in a straight line to `final`; see `Schedule`.

    Examples
    --------
    >>> schedule = linear(1.0, total_steps=4)
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return Schedule("linear", learning_rate, total_steps, warmup_steps, final)


def cosine(
    learning_rate: float, total_steps: int, warmup_steps: int = 0, final: float = 0.0
) -> Schedule:
    """Return a schedule that falls along half a cosine to `final`; see `Schedule`.

    The shape is that of Loshchilov, Hutter 2017, "SGDR" (arXiv:1608.03983), equation 5, without
    restarts.

    Examples
    --------
    >>> schedule = cosine(1.0, total_steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    return Schedule("cosine", learning_rate, total_steps, warmup_steps, final)
