"""Files of `torch.save` (`.bin`, `.pt`, `.pth`, `.ckpt`), read without unpickling anything.

Since torch 1.6 such a file is a zip archive, `<folder>/data.pkl` with the tensors' descriptions and
`<folder>/data/<key>` with the bytes of each storage; before, it was one pickle after the other
(magic number, version, sizes of types, the object, the keys of the storages) and then each storage,
its number of elements (int64) before its bytes. Layouts: `torch/serialization.py`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from .bounded_zip import STORED, ZipArchive, open_zip
from .mapped_file import map_file
from .stored_tensor import StoredTensor
from .tensor_pickle import (
    ITEM_BYTES,
    MAX_PICKLE_BYTES,
    PickledTensor,
    Storage,
    read_tensor_pickle,
)

LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The pickle of the magic number, with which a file of the older layout begins."""

BARE_NAME = "tensor"
"""What a tensor is called that is the whole file."""

_VERSION = 1001
_MAX_DEPTH = 16
_MAX_VALUES = 200_000
_MAX_NAME_CHARACTERS = 16 * 1024 * 1024  # of all names together
_PICKLE = "/data.pkl"


class TorchFile(Mapping[str, StoredTensor]):
    """An open file of torch: names of its tensors to `StoredTensor`.

    Names are those of the dicts and places in lists that lead to a tensor, joined by dots; the same
    tensor may have several. A tensor's elements are put in order when it is asked for.

    Attributes
    ----------
    path : str
        The file.
    values : dict of str to (str, int, float, bool or None)
        What else the dicts hold, by such names.
    """

    def __init__(
        self,
        path: str,
        tensors: dict[str, PickledTensor],
        values: dict[str, object],
        bytes_of: Callable[[Storage], np.ndarray],
    ) -> None:
        self.path = path
        self.values = values
        self._tensors = tensors
        self._bytes_of = bytes_of

    def __getitem__(self, name: str) -> StoredTensor:
        """Return a tensor; `KeyError` or `ValueError` (a damaged storage) name the file."""
        if name not in self._tensors:
            raise KeyError(f"{self.path}: no tensor {name!r} among {len(self)} tensors")
        tensor = self._tensors[name]
        storage = tensor.storage
        width = ITEM_BYTES.get(storage.dtype, 1)
        items = self._bytes_of(storage).reshape(storage.size, width)
        count = int(np.prod(tensor.shape, dtype=np.int64))
        if _is_contiguous(tensor):
            data = items[tensor.offset : tensor.offset + count].reshape(-1)
        else:
            strides = [step * width for step in tensor.strides]
            view = np.lib.stride_tricks.as_strided(
                items[tensor.offset :],
                (*tensor.shape, width),
                (*strides, 1),
                writeable=False,
            )
            data = np.ascontiguousarray(view).reshape(-1)
            data.flags.writeable = False
        return StoredTensor(name, storage.dtype, tensor.shape, data, self.path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"TorchFile({self.path!r}, {len(self)} tensors)"


def open_torch(path: str | os.PathLike[str]) -> TorchFile:
    """Open a file that `torch.save` wrote, of the zip layout or the one before torch 1.6.

    The file is mapped. No code in it is run: see `softprompt.formats.tensor_pickle`.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    TorchFile

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is not such a file, is damaged or truncated, holds anything but tensors, numbers,
        texts and their dicts, lists and tuples, or nests them too deeply. The message names the
        file and the global, storage or value.
    """
    where = str(Path(path))
    content = map_file(path)
    if content[:4].tobytes() == b"PK\3\4":
        value, bytes_of = _open_zip_layout(open_zip(path), where)
    elif content[: len(LEGACY_START)].tobytes() == LEGACY_START:
        value, bytes_of = _open_legacy_layout(content, where)
    else:
        raise ValueError(
            f"{where}: starts with {content[:8].tobytes()!r}, expected a file of torch.save; "
            "other pickles are not read"
        )
    tensors, values = _named(value, where)
    return TorchFile(where, tensors, values, bytes_of)


def is_torch_archive(archive: ZipArchive) -> bool:
    """Return whether a zip archive is a file of torch."""
    return any(name.endswith(_PICKLE) for name in archive)


def _open_zip_layout(
    archive: ZipArchive, where: str
) -> tuple[object, Callable[[Storage], np.ndarray]]:
    names = [name for name in archive if name.endswith(_PICKLE)]
    if len(names) != 1:
        raise ValueError(f"{where}: {len(names)} files data.pkl in the archive, expected one")
    folder = names[0][: -len(_PICKLE)]
    order = archive.get(f"{folder}/byteorder")
    if order is not None and (order.size > 8 or order.read().tobytes() != b"little"):
        raise ValueError(f"{where}: byteorder is not 'little', the only order that is read")
    pickle = archive[names[0]]
    if pickle.size > MAX_PICKLE_BYTES:
        raise ValueError(
            f"{where}: data.pkl of {pickle.size} bytes, expected at most {MAX_PICKLE_BYTES}"
        )

    def bytes_of(storage: Storage) -> np.ndarray:
        entry = archive.get(f"{folder}/data/{storage.key}")
        if entry is None or entry.method != STORED or entry.size != storage.num_bytes:
            raise ValueError(
                f"{where}: storage {storage.key[:40]!r}: "
                f"{'no bytes' if entry is None else f'{entry.size} bytes'}, expected "
                f"{storage.num_bytes} ({storage.size} elements {storage.dtype}), not compressed"
            )
        return entry.read()

    return read_tensor_pickle(io.BytesIO(pickle.read().tobytes()), where), bytes_of


def _open_legacy_layout(
    content: np.ndarray, where: str
) -> tuple[object, Callable[[Storage], np.ndarray]]:
    # The pickles stand in front; each of them is bounded, and so is what is copied of the file.
    head = io.BytesIO(content[: 2 * MAX_PICKLE_BYTES].tobytes())
    _, version, machine, value, keys = (read_tensor_pickle(head, where) for _ in range(5))
    if version != _VERSION:
        raise ValueError(f"{where}: protocol version {str(version)[:40]}, expected {_VERSION}")
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise ValueError(f"{where}: little_endian is not True, the only order that is read")
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError(f"{where}: no list of storage keys behind the pickles")
    used: dict[str, Storage] = {}
    tensors, _ = _named(value, where)
    for tensor in tensors.values():
        used.setdefault(tensor.storage.key, tensor.storage)
    places: dict[Storage, np.ndarray] = {}
    position = head.tell()
    for key in keys:
        storage = used.get(key)
        if storage is None or storage in places:
            raise ValueError(f"{where}: storage {key[:40]!r} is listed twice, or no tensor uses it")
        begin = position + 8
        position = begin + storage.num_bytes
        size = int.from_bytes(content[begin - 8 : begin].tobytes(), "little")
        if position > content.size or size != storage.size:
            raise ValueError(
                f"{where}: storage {key[:40]!r} of {storage.num_bytes} bytes at {begin} is cut off "
                f"or has another size than its tensors say ({storage.size} elements)"
            )
        places[storage] = content[begin:position]

    def bytes_of(storage: Storage) -> np.ndarray:
        if storage not in places:
            raise ValueError(f"{where}: storage {storage.key[:40]!r} is not in the file")
        return places[storage]

    return value, bytes_of


def _named(value: object, where: str) -> tuple[dict[str, PickledTensor], dict[str, object]]:
    """Tensors, and everything else, by the names that lead to them."""
    tensors: dict[str, PickledTensor] = {}
    values: dict[str, object] = {}
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    visited = characters = 0
    while waiting:
        name, item, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"{where}: values nested more than {_MAX_DEPTH} deep")
        if type(item) is dict:
            inner = list(item.items())
        elif type(item) in (list, tuple):
            inner = list(enumerate(item))
        elif type(item) is PickledTensor:
            _add(tensors, name or BARE_NAME, item, where)
            continue
        elif item is None or type(item) in (str, int, float, bool):
            _add(values, name, item, where)
            continue
        else:
            raise ValueError(f"{where}: {name[:60]!r} is a storage or a type, expected a tensor")
        # An object may hold itself, or stand in so many places that none of this would end.
        visited += len(inner)
        characters += sum(len(name) + len(str(key)) for key, _ in inner)
        if visited > _MAX_VALUES or characters > _MAX_NAME_CHARACTERS:
            raise ValueError(
                f"{where}: more than {_MAX_VALUES} values, or {_MAX_NAME_CHARACTERS} characters of "
                "their names"
            )
        waiting += [
            (f"{name}.{key}" if name else str(key), one, depth + 1) for key, one in reversed(inner)
        ]
    return tensors, values


def _add(found: dict[str, object], name: str, item: object, where: str) -> None:
    if name in found:
        raise ValueError(f"{where}: two values are called {name[:60]!r}")
    found[name] = item


def _is_contiguous(tensor: PickledTensor) -> bool:
    expected = 1
    for extent, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if extent != 1 and stride != expected:
            return 0 in tensor.shape
        expected *= extent
    return True
