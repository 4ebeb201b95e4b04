"""T5's biases of attention scores by distance (Raffel et al., 2020, section 2.1; the buckets are
those of Mesh TensorFlow's ``transformer_layers.py``, as transformers has them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Relative:
    """Distances fall into buckets, each head has one number a bucket.

    Attributes
    ----------
    num_buckets : int
        At least 4; an encoder has half of them for each direction.
    max_distance : int
        From here on all distances fall into the last bucket.
    """

    num_buckets: int
    max_distance: int

    def buckets(self, *, bidirectional: bool) -> np.ndarray:
        """Return the bucket of every distance, of the key's place less the query's.

        Half of the buckets hold one distance each, the others get wider as a logarithm does; its
        products are those of float32, as transformers rounds them.

        Parameters
        ----------
        bidirectional : bool
            An encoder's; otherwise later keys, which are never seen, count as the query's own.

        Returns
        -------
        ndarray of int64, shape [2 * max_distance + 1]
        """
        distances = np.arange(-self.max_distance, self.max_distance + 1)
        count = self.num_buckets // 2 if bidirectional else self.num_buckets
        first = np.where(distances > 0, count, 0) if bidirectional else 0
        away = np.abs(distances) if bidirectional else np.maximum(-distances, 0)
        exact = count // 2
        ratio = np.maximum(away, exact).astype(np.float32) / np.float32(exact)
        steps = np.log(ratio.astype(np.float64)).astype(np.float32)
        steps = steps / np.float32(math.log(self.max_distance / exact)) * np.float32(count - exact)
        wide = np.minimum(exact + steps.astype(np.int64), count - 1)
        return first + np.where(away < exact, away, wide)

    def bias(self, table: np.ndarray, *, bidirectional: bool) -> np.ndarray:
        """Return the biases by head and distance.

        Parameters
        ----------
        table : ndarray of float32, shape [num_buckets, num_heads]
        bidirectional : bool

        Returns
        -------
        ndarray of float32, shape [num_heads, 2 * max_distance + 1]
        """
        return np.ascontiguousarray(table[self.buckets(bidirectional=bidirectional)].T)
