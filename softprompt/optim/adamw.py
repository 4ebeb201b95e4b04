"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from softprompt.optim.optimizer import Optimizer
from softprompt.optim.validation import check_number


class AdamW(Optimizer):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    With gradient g, learning rate a, and t = 1 at the first step::

        p <- p - a * weight_decay * p
        m <- m + (1 - beta1) * (g - m)
        v <- beta2 * v + (1 - beta2) * g^2
        p <- p - a / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    Parameters
    ----------
    learning_rate : float or callable
        A number >= 0 or a schedule; see `Optimizer`.
    betas : tuple of two floats in [0, 1), default (0.9, 0.999)
        Decay of the mean of the gradient and of its square.
    eps : float >= 0, default 1e-8
        Added to the root of the second moment.
    weight_decay : float >= 0, default 0.0
        Share of the prompt, times the learning rate, that each step takes away. (torch's
        default is 0.01. A prompt is pulled towards 0, which is no point of interest to it.)

    References
    ----------
    Kingma, Ba 2015, "Adam" (arXiv:1412.6980), algorithm 1; Loshchilov, Hutter 2019, "Decoupled
    weight decay regularization" (arXiv:1711.05101), algorithm 2, with the decay multiplied by
    the learning rate as torch does.

    Examples
    --------
    >>> import numpy as np
    >>> prompt = np.ones((2, 3), np.float32)
    >>> AdamW(0.25).step(prompt, np.full((2, 3), -4.0, np.float32))
    array([[1.25, 1.25, 1.25],
           [1.25, 1.25, 1.25]], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float | Callable[[int], float],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas must be a tuple of two numbers, got {betas!r}")
        self.betas = tuple(
            check_number(f"betas[{i}]", beta, maximum=1.0, open_maximum=True)
            for i, beta in enumerate(betas)
        )
        self.eps = check_number("eps", eps)
        self.weight_decay = check_number("weight_decay", weight_decay)

    def _moment_names(self) -> tuple[set[str], ...]:
        return set(), {"first_moment", "second_moment"}

    def _initial_moments(self, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        zeros = np.zeros(shape, np.float32)
        return {"first_moment": zeros, "second_moment": zeros}

    def _update(
        self,
        prompt: np.ndarray,
        grad: np.ndarray,
        moments: dict[str, np.ndarray],
        learning_rate: float,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        beta1, beta2 = self.betas
        t = self._num_steps + 1
        first, second = moments["first_moment"], moments["second_moment"]
        first = first + (1 - beta1) * (grad - first)
        second = beta2 * second + (1 - beta2) * (grad * grad)
        root = np.sqrt(second) / math.sqrt(1 - beta2**t) + self.eps
        # 0 / 0 where the gradient has always been 0 and eps is 0 (or underflows): no move.
        move = np.divide(first, root, out=np.zeros_like(root), where=root > 0)
        updated = (1 - learning_rate * self.weight_decay) * prompt
        updated -= learning_rate / (1 - beta1**t) * move
        return updated, {"first_moment": first, "second_moment": second}
