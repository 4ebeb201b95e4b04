"""Adafactor as T5X runs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from softprompt.optim.optimizer import Optimizer
from softprompt.optim.validation import check_count, check_number


class Adafactor(Optimizer):
    """Adafactor without momentum, as T5X runs it; the defaults are those of prompt tuning.

    With gradient g, learning rate a, and t = `initial_step` + 1 at the first step, all in float32::

        beta2 = 1 - t^-decay_rate
        v <- beta2 * v + (1 - beta2) * (g^2 + eps1)
        u = g / sqrt(v)
        u = u / max(1, RMS(u) / clipping_threshold)
        p <- (1 - weight_decay) * p - a * u

    RMS is the root of the mean square over the whole prompt. Unlike other implementations, the
    weight decay is not multiplied by the learning rate.

    Where both sides of the prompt are at least `min_dim_size_to_factor` long, only the means of v
    over the longer side (``short``) and over the shorter side (``long``) are kept, and
    v = short long / mean(short).

    Parameters
    ----------
    learning_rate : float or callable, default 0.3
        A number >= 0 or a schedule; see `Optimizer`. The default is for T5's embeddings, whose
        entries are larger than 1; a decoder's are often 10 to 1000 times smaller.
    weight_decay : float in [0, 1], default 1e-5
        Share of the prompt that each step takes away.
    decay_rate : float > 0, default 0.8
        Exponent of the second moment's decay.
    initial_step : int >= 0, default 0
        Number of steps counted before the first. T5X goes on counting from the frozen model's
        own training (1,100,000 for the LM-adapted T5 1.1), which leaves v so small that clipping is
        always active: each step moves the prompt by an RMS of a * `clipping_threshold`.
    clipping_threshold : float > 0 or None, default 1.0
        Largest RMS of u; None does not clip.
    eps1 : float > 0, default 1e-30
        Added to the squared gradient.
    eps2 : float > 0, default 1e-3
        Least value of the parameter scale.
    factored : bool, default True
        False keeps all of v whatever the shape.
    min_dim_size_to_factor : int >= 1, default 128
        See above.
    multiply_by_parameter_scale : bool, default False
        True multiplies the learning rate by max(eps2, RMS(p)).

    References
    ----------
    Shazeer, Stern 2018, "Adafactor" (arXiv:1804.04235), algorithms 4 and 5. T5X,
    ``t5x/adafactor.py``. Settings: Lester, Al-Rfou, Constant 2021, section 3.1, and
    ``t5_1_1_prompt.gin`` of its released code.
    """

    def __init__(
        self,
        learning_rate: float | Callable[[int], float] = 0.3,
        *,
        weight_decay: float = 1e-5,
        decay_rate: float = 0.8,
        initial_step: int = 0,
        clipping_threshold: float | None = 1.0,
        eps1: float = 1e-30,
        eps2: float = 1e-3,
        factored: bool = True,
        min_dim_size_to_factor: int = 128,
        multiply_by_parameter_scale: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        self.weight_decay = check_number("weight_decay", weight_decay, maximum=1.0)
        self.decay_rate = check_number("decay_rate", decay_rate, open_minimum=True)
        self.initial_step = check_count("initial_step", initial_step)
        if clipping_threshold is not None:
            clipping_threshold = check_number(
                "clipping_threshold", clipping_threshold, open_minimum=True
            )
        self.clipping_threshold = clipping_threshold
        self.eps1 = check_number("eps1", eps1, open_minimum=True)
        self.eps2 = check_number("eps2", eps2, open_minimum=True)
        self.factored = _check_bool("factored", factored)
        self.min_dim_size_to_factor = check_count(
            "min_dim_size_to_factor", min_dim_size_to_factor, minimum=1
        )
        self.multiply_by_parameter_scale = _check_bool(
            "multiply_by_parameter_scale", multiply_by_parameter_scale
        )

    def _moment_names(self) -> tuple[set[str], ...]:
        factors = {"second_moment_short", "second_moment_long"}
        return (set(), {"second_moment"}) + ((factors,) if self.factored else ())

    def _initial_moments(self, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        if self.factored and min(shape) >= self.min_dim_size_to_factor:
            return {
                "second_moment_short": np.zeros(min(shape), np.float32),
                "second_moment_long": np.zeros(max(shape), np.float32),
            }
        return {"second_moment": np.zeros(shape, np.float32)}

    def _update(
        self,
        prompt: np.ndarray,
        grad: np.ndarray,
        moments: dict[str, np.ndarray],
        learning_rate: float,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        # In float32 as T5X: near 1 the rounding of beta2 is a visible part of 1 - beta2.
        one = np.float32(1)
        t = np.float32(self.initial_step + self._num_steps) + one
        beta2 = one - np.power(t, np.float32(-self.decay_rate))
        square = grad * grad + np.float32(self.eps1)

        if "second_moment" in moments:
            second = beta2 * moments["second_moment"] + (one - beta2) * square
            moments = {"second_moment": second}
            update = grad / np.sqrt(second)
        else:
            # The longer side; of two equal sides the last, as T5X's stable sort has it.
            long_axis = 0 if prompt.shape[0] > prompt.shape[1] else 1
            means = square.mean(axis=long_axis), square.mean(axis=1 - long_axis)
            short = beta2 * moments["second_moment_short"] + (one - beta2) * means[0]
            long = beta2 * moments["second_moment_long"] + (one - beta2) * means[1]
            moments = {"second_moment_short": short, "second_moment_long": long}
            update = grad / np.expand_dims(np.sqrt(short / short.mean()), long_axis)
            update /= np.expand_dims(np.sqrt(long), 1 - long_axis)

        if self.clipping_threshold is not None:
            update /= max(one, _rms(update) / np.float32(self.clipping_threshold))
        scale = np.float32(learning_rate)
        if self.multiply_by_parameter_scale:
            scale *= max(_rms(prompt), np.float32(self.eps2))
        return (one - np.float32(self.weight_decay)) * prompt - scale * update, moments


def _rms(array: np.ndarray) -> np.float32:
    return np.sqrt(np.mean(array * array))


def _check_bool(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)
