"""A tensor as it lies in a file: its name, type and shape, and its bytes in the mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class StoredTensors(Mapping[str, StoredTensor]):
    """What the open files of all formats are: tensor names, in the file's order, to tensors.

    Parameters
    ----------
    path : str
        The file, for messages.
    tensors : dict of str to StoredTensor
    """

    def __init__(self, path: str, tensors: dict[str, StoredTensor]) -> None:
        self.path = path
        self._tensors = tensors

    def __getitem__(self, name: str) -> StoredTensor:
        """Return a tensor, or raise a `KeyError` that names the file."""
        try:
            return self._tensors[name]
        except KeyError:
            raise KeyError(f"{self.path}: no tensor {name!r} among {len(self)} tensors") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
