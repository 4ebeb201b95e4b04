"""ALiBi: biases of attention scores, linear in the distance (Press et al., 2022, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_POSITIONS = 2**16
"""Longest context with such biases; the table of biases has a row of it for every head."""


@dataclass(frozen=True)
class Alibi:
    """Biases as BLOOM and Falcon compute them.

    Attributes
    ----------
    scale : float
        Factor of the biases (Falcon scales them as it scales the products of queries and keys).
    rounded : bool
        The slopes and their products with the positions are rounded to bfloat16 (Falcon).
    """

    scale: float = 1.0
    rounded: bool = False

    def bias(self, num_heads: int, num_positions: int) -> np.ndarray:
        """Compute the biases of a key by head and position.

        Parameters
        ----------
        num_heads : int
        num_positions : int

        Returns
        -------
        ndarray of float32, shape [num_heads, num_positions]
        """
        slopes = _slopes(num_heads)
        positions = np.arange(num_positions, dtype=np.float32)
        if not self.rounded:
            return slopes[:, None] * positions * np.float32(self.scale)
        slopes = _to_bfloat16(slopes)
        bias = _to_bfloat16(slopes[:, None] * _to_bfloat16(positions))
        return bias * np.float32(self.scale)


def _slopes(num_heads: int) -> np.ndarray:
    """Geometric sequences of slopes, as the authors' code has them for any number of heads."""
    power = 2 ** math.floor(math.log2(num_heads))
    base = np.float32(2 ** -(2 ** -(math.log2(power) - 3)))
    slopes = [np.power(base, np.float32(i)) for i in range(1, 1 + power)]
    if power != num_heads:
        base = np.float32(2 ** -(2 ** -(math.log2(2 * power) - 3)))
        slopes += [np.power(base, np.float32(i)) for i in range(1, 1 + 2 * (num_heads - power), 2)]
    return np.array(slopes, dtype=np.float32)


def _to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)
