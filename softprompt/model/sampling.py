"""The next token from one row of logits."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Sampler"]


class Sampler:
    """Greedy (temperature 0) or random choice; a random stream for each input.

    Parameters
    ----------
    temperature : float
        0: the most likely token. Otherwise logits are divided by it.
    top_k : int or None
        Only the k most likely tokens.
    top_p : float or None
        Only the smallest set of most likely tokens whose probability reaches `top_p`
        (Holtzman et al. 2020, arXiv 1904.09751).
    seed : int or None
    """

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, seed: int | None
    ) -> None:
        if not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
            raise ValueError(f"temperature = {temperature!r}: expected a number >= 0")
        if top_k is not None and not (isinstance(top_k, (int, np.integer)) and top_k >= 1):
            raise ValueError(f"top_k = {top_k!r}: expected an int >= 1 or None")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p = {top_p!r}: expected a number in (0, 1] or None")
        if seed is not None and not (isinstance(seed, (int, np.integer)) and seed >= 0):
            raise ValueError(f"seed = {seed!r}: expected an int >= 0 or None")
        self.temperature = float(temperature)
        self.top_k = top_k
        self.top_p = top_p
        self.seed = seed

    def stream(self, repetition: int) -> np.random.Generator | None:
        """Random numbers for one input.

        They depend on the seed and on how many equal inputs stood before, not on the company: an
        input gives the same text alone and among others, and a repeated one gives another text.
        """
        if self.temperature == 0:
            return None
        if self.seed is None:
            return np.random.default_rng()
        return np.random.default_rng([self.seed, repetition])

    def choose(self, logits: np.ndarray, stream: np.random.Generator | None) -> int:
        """Return the next token id for logits of shape (vocab_size,)."""
        if stream is None:
            return int(np.argmax(logits))
        scaled = logits.astype(np.float64) / self.temperature
        order = np.argsort(-scaled, kind="stable")
        if self.top_k is not None:
            order = order[: self.top_k]
        p = np.exp(scaled[order] - scaled[order[0]])
        p /= p.sum()
        if self.top_p is not None:
            keep = int(np.searchsorted(np.cumsum(p), self.top_p)) + 1
            order, p = order[:keep], p[:keep] / p[:keep].sum()
        return int(order[min(np.searchsorted(np.cumsum(p), stream.random()), len(order) - 1)])
