"""The embedding table as something that looks like an array but is never copied as a whole."""

from __future__ import annotations

import numpy as np

__all__ = ["Embeddings"]


class Embeddings:
    """Rows of the embedding table, in the space of transformers' ``inputs_embeds``.

    An int, a slice or an integer array gives float32 rows; ``np.asarray`` gives all of them.

    Parameters
    ----------
    table : ndarray of float32, or StoredMatrix, shape (vocab_size, hidden_size)
    scale : float
        Factor that the model applies to a token's embedding before its first layer.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, table: np.ndarray, scale: float) -> None:
        self._table = table
        self._scale = np.float32(scale)

    @property
    def shape(self) -> tuple[int, int]:
        """(vocab_size, hidden_size)."""
        return self._table.shape

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index) -> np.ndarray:
        rows = self._table[index]
        if rows.base is None and self._scale == 1:
            return rows  # a copy already
        return rows * self._scale

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        table = np.asarray(self._table) * self._scale
        return table if dtype is None else table.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"Embeddings(shape={self.shape}, dtype=float32)"
