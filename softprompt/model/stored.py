"""Weights that stay in their file: converted to float32 where they are used, never as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from softprompt.families import View
from softprompt.formats import GGML_TYPES, StoredTensor, check_mappings, mappings
from softprompt.model.threads import engine
from softprompt.model.weights import ENGINE_TYPES, PANEL, check_finite

__all__ = ["StoredMatrix", "keep_stored"]

_BLOCKS = {name: (numbers, size) for name, numbers, size in GGML_TYPES.values()}


class StoredMatrix:
    """A weight ``[out, in]`` as its file stores it; looks like an array of float32.

    An int, a slice or an integer array of rows gives float32 rows; ``np.asarray`` gives all of
    them. Nothing of what it gives is kept.

    Parameters
    ----------
    stored : StoredTensor
        A view of the mapped file.
    view : View
        Which part of it the weight is.
    shape : tuple of int

    Attributes
    ----------
    shape : tuple of int
    stored_type : str
        "F16", "Q4_K", ...
    nbytes : int
        Bytes in the file.
    engine_weight : tuple
        What ``_core.Model`` takes: (type, bytes, rows, cols, start, run, stride, transposed).
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, stored: StoredTensor, view: View, shape: tuple[int, ...]) -> None:
        numbers, size = _BLOCKS[stored.dtype]
        self.shape = shape
        self.stored_type = stored.dtype
        self.nbytes = shape[0] * shape[1] // numbers * size
        self.data = stored.data
        self._mappings = mappings([stored.data])
        self.engine_weight = (
            stored.dtype,
            stored.data,
            *shape,
            view.start,
            shape[0] // view.blocks,
            view.stride or shape[0],
            view.transpose,
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            return np.asarray(self)[index]
        rows = np.arange(self.shape[0])[index]
        return self.read(np.ravel(rows)).reshape(*np.shape(rows), self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a stored weight becomes an array by a conversion, which is a copy")
        whole = self.read(np.arange(self.shape[0]))
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"StoredMatrix(shape={self.shape}, stored_type={self.stored_type!r})"

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Convert rows.

        Parameters
        ----------
        rows : ndarray of int64, shape (n,)

        Returns
        -------
        ndarray of float32, shape (n, in)

        Raises
        ------
        OSError
            The file was truncated.
        """
        check_mappings(self._mappings)
        out = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        engine().stored_rows(self.engine_weight, np.ascontiguousarray(rows, np.int64), out)
        return out


def keep_stored(stored: StoredTensor, view: View, shape: tuple[int, ...]) -> StoredMatrix | None:
    """Return a weight that stays in its file, if it can.

    Parameters
    ----------
    stored : StoredTensor
        The tensor, whose shape is ``view.stored_shape(shape)``.
    view : View
        Which part of it the slot is.
    shape : tuple of int
        Shape of the slot.

    Returns
    -------
    StoredMatrix or None
        None: a vector; float32, which takes as much in either form; a type that the engine does
        not convert; or a transposed matrix in blocks, which no known file holds. `materialise`
        serves these.

    Raises
    ------
    ValueError
        NaN or infinity among the weights, with the tensor's name.
    """
    if len(shape) != 2 or view.offset or stored.dtype not in ENGINE_TYPES:
        return None
    if view.transpose and _BLOCKS[stored.dtype][0] > 1:
        return None
    matrix = StoredMatrix(stored, view, shape)
    step = max(1, PANEL // shape[1])
    for first in range(0, shape[0], step):
        panel = matrix.read(np.arange(first, min(first + step, shape[0])))
        check_finite(stored, panel, first * shape[1], shape)
    return matrix
