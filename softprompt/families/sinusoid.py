"""Positions as sines and cosines (Vaswani et al., 2017, section 3.5), in two halves of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sinusoid:
    """Positions as Marian and M2M-100 compute them.

    Attributes
    ----------
    first : int
        Position of a text's first row (fairseq counts from behind its padding token).
    tensor2tensor : bool
        Frequencies as tensor2tensor has them: half as many as the width, the last of them 1/10000
        (M2M-100); otherwise those of the paper (Marian).
    """

    first: int = 0
    tensor2tensor: bool = False

    def table(self, num_positions: int, width: int) -> np.ndarray:
        """Compute the positions.

        Parameters
        ----------
        num_positions, width : int

        Returns
        -------
        ndarray of float32, shape [num_positions, width]
        """
        places = np.arange(self.first, self.first + num_positions)
        half = width // 2
        if not self.tensor2tensor:
            exponents = 2 * (np.arange(width) // 2) / width
            angles = places[:, None] / np.power(10000.0, exponents)
            parts = [np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])]
            return np.concatenate(parts, axis=1).astype(np.float32)
        # In float32 step by step, as transformers rounds.
        step = np.float32(-math.log(10000) / (half - 1))
        frequencies = np.exp((np.arange(half, dtype=np.float32) * step).astype(np.float64))
        angles = places.astype(np.float32)[:, None] * frequencies.astype(np.float32)
        angles = angles.astype(np.float64)
        parts = [np.sin(angles), np.cos(angles), np.zeros((num_positions, width % 2))]
        return np.concatenate(parts, axis=1).astype(np.float32)
