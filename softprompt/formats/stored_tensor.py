"""A tensor as it lies in a file: its name, type and shape, and its bytes in the mapping."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One tensor of a weights file, not yet converted.

    Attributes
    ----------
    name : str
        The name in the file.
    dtype : str
        `"F32"`, `"F16"`, `"BF16"`, ... for safetensors; the ggml type's name (`"Q4_K"`, ...) for
        GGUF.
    shape : tuple of int
        In NumPy order: rows first, for GGUF too.
    data : numpy.ndarray
        uint8, one-dimensional, read-only: a view of the memory-mapped file, which lives as long as
        the view. It starts where the file says, so it need not be aligned for `dtype`.
    source : str
        Path of the file, for messages.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray = field(repr=False)
    source: str
