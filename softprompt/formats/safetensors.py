"""safetensors files: a bounded reader, and a writer with the bytes of the reference library.

Layout: uint64 length n (little endian), n bytes of JSON
`{"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [begin, end]}, ...}`, then
the tensors' bytes, row-major, without gaps. Source: the format section of
https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .atomic import atomic_writer
from .bounded_json import parse_json
from .mapped_file import map_file
from .stored_tensor import StoredTensor, StoredTensors

MAX_HEADER_BYTES = 100_000_000  # The reference library's own limit.
_MAX_RANK = 64
_MAX_ELEMENTS = 2**63 - 1

# Bits of an element, in the reference library's order of declaration: it writes the tensors sorted
# by this order backwards, then by name.
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_RANK_OF_DTYPE = {name: rank for rank, name in enumerate(_BITS)}
_NAME_OF_NUMPY = {
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
    np.dtype(np.int16): "I16",
    np.dtype(np.uint16): "U16",
    np.dtype(np.float16): "F16",
    np.dtype(np.int32): "I32",
    np.dtype(np.uint32): "U32",
    np.dtype(np.float32): "F32",
    np.dtype(np.complex64): "C64",
    np.dtype(np.float64): "F64",
    np.dtype(np.int64): "I64",
    np.dtype(np.uint64): "U64",
}


class SafetensorsFile(StoredTensors):
    """An open safetensors file: tensor names, in the header's order, to `StoredTensor`.

    Attributes
    ----------
    path : str
        The file.
    metadata : dict of str to str
        The header's `__metadata__`.
    content : numpy.ndarray
        uint8, read-only: the whole file, of which the tensors' data are views.
    """

    def __init__(
        self,
        path: str,
        content: np.ndarray,
        metadata: dict[str, str],
        tensors: dict[str, StoredTensor],
    ):
        super().__init__(path, tensors)
        self.content = content
        self.metadata = metadata

    def __repr__(self) -> str:
        return f"SafetensorsFile({self.path!r}, {len(self)} tensors)"


def open_safetensors(path: str | os.PathLike[str]) -> SafetensorsFile:
    """Open a safetensors file.

    The file is mapped; only its header is read. The mapping lives as long as a tensor's data does.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    SafetensorsFile

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it breaks the format: a header that is too long, is not JSON or repeats a key; an unknown
        dtype; a shape, dtype and byte range that disagree; ranges that overlap, leave a gap or do
        not end with the file. The message names the file, the tensor, the value and what was
        expected.
    """
    where = str(Path(path))
    mapped = map_file(path)
    if mapped.size < 8:
        raise ValueError(
            f"{where}: {mapped.size} bytes, a safetensors file starts with an 8-byte length"
        )
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    limit = min(MAX_HEADER_BYTES, mapped.size - 8)
    if length > limit:
        raise ValueError(
            f"{where}: header of {length} bytes, expected at most {limit} "
            f"(the file has {mapped.size} bytes); not a safetensors file, or a truncated one"
        )
    header = mapped[8 : 8 + length].tobytes()
    if header[:1] != b"{":
        raise ValueError(f"{where}: header starts with {header[:1]!r}, expected b'{{'")
    entries = parse_json(header, where=f"{where}: header", max_bytes=MAX_HEADER_BYTES, max_depth=8)
    if not isinstance(entries, dict):
        raise ValueError(f"{where}: the header is not a JSON object")
    metadata = _checked_metadata(entries.pop("__metadata__", None), where)
    payload = mapped[8 + length :]
    tensors = {
        name: _checked_tensor(name, entry, payload, where) for name, entry in entries.items()
    }
    _check_ranges(entries, payload.size, where)
    return SafetensorsFile(where, mapped, metadata, tensors)


def _checked_metadata(value: object, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError(f"{where}: __metadata__ is not an object whose values are texts")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked_tensor(name: str, entry: object, payload: np.ndarray, where: str) -> StoredTensor:
    where_tensor = f"{where}: tensor {name!r}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where_tensor}: expected an object with dtype, shape and data_offsets")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{where_tensor}: dtype {dtype!r}, expected one of {', '.join(_BITS)}")
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(map(_is_count, shape)):
        raise ValueError(
            f"{where_tensor}: shape {_short(shape)}, expected a list of at most {_MAX_RANK} "
            "non-negative integers"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ValueError(
            f"{where_tensor}: data_offsets {_short(offsets)}, expected two non-negative integers"
        )
    begin, end = offsets
    if not begin <= end <= payload.size:
        raise ValueError(
            f"{where_tensor}: data_offsets [{_short(begin)}, {_short(end)}] outside the file's "
            f"{payload.size} bytes of data; truncated file?"
        )
    elements = 1
    for extent in shape:
        elements *= extent
        if elements > _MAX_ELEMENTS:
            raise ValueError(f"{where_tensor}: shape {_short(shape)} has more than 2^63 elements")
    bits = elements * _BITS[dtype]
    if bits % 8 or bits // 8 != end - begin:
        raise ValueError(
            f"{where_tensor}: {dtype} of shape {_short(shape)} takes {bits / 8:g} bytes, "
            f"data_offsets [{begin}, {end}] hold {end - begin}"
        )
    return StoredTensor(name, dtype, tuple(shape), payload[begin:end], where)


def _check_ranges(entries: dict[str, dict], size: int, where: str) -> None:
    previous, position = "the header", 0
    for begin, end, name in sorted((*entry["data_offsets"], key) for key, entry in entries.items()):
        if begin != position:
            what = "overlaps" if begin < position else "leaves a gap after"
            raise ValueError(
                f"{where}: tensor {name!r} begins at {begin} and {what} {previous}, "
                f"which ends at {position}"
            )
        previous, position = f"tensor {name!r}", end
    if position != size:
        raise ValueError(f"{where}: the tensors end at {position}, the file's data at {size}")


def _short(value: object) -> str:
    # Not repr() first: an integer of thousands of digits raises there.
    if isinstance(value, list):
        items = [_short(item) for item in value[:8]]
        return f"[{', '.join(items)}{', ...' if len(value) > 8 else ''}]"
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value) if not isinstance(value, dict) else "an object"
    return text if len(text) <= 60 else text[:60] + "..."


def write_safetensors(
    target: str | os.PathLike[str] | BinaryIO,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, byte for byte as the reference library does.

    The header is compact, `__metadata__` first, padded with spaces to a multiple of 8 bytes;
    tensors are ordered by falling width of their type, then by name.

    Parameters
    ----------
    target : path or binary file object
        A path is written atomically (see `softprompt.formats.atomic`).
    tensors : mapping of str to numpy.ndarray
        Any shape, of a bool, integer, float16/32/64 or complex64 type.
    metadata : mapping of str to str, optional
        The header's `__metadata__`.

    Raises
    ------
    OSError
        If the file cannot be written; an earlier one is then as it was.
    TypeError
        If an array's dtype has no name in the format, or a name or metadata value is not a text.
    ValueError
        If a tensor is named `__metadata__`, or the header gets too long.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensor name {name!r}: expected a text")
        if name == "__metadata__":
            raise ValueError("a tensor cannot be named '__metadata__'")
        array = np.asarray(array)
        native = array.dtype.newbyteorder("=")
        if native not in _NAME_OF_NUMPY:
            raise TypeError(f"tensor {name!r}: safetensors has no type for {array.dtype}")
        little = native if sys.byteorder == "little" else native.newbyteorder("<")
        # ascontiguousarray would turn a scalar into a vector of one.
        arrays[name] = np.asarray(array, dtype=little, order="C")

    def place(name: str) -> tuple[int, str]:
        return -_RANK_OF_DTYPE[_NAME_OF_NUMPY[arrays[name].dtype.newbyteorder("=")]], name

    header: dict[str, object] = {}
    if metadata is not None:
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
            raise TypeError("safetensors metadata: expected texts as keys and values")
        header["__metadata__"] = dict(metadata)
    position = 0
    names = sorted(arrays, key=place)
    for name in names:
        array = arrays[name]
        header[name] = {
            "dtype": _NAME_OF_NUMPY[array.dtype.newbyteorder("=")],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"safetensors header of {len(text)} bytes, at most {MAX_HEADER_BYTES}")

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            file.write(arrays[name].reshape(-1).view(np.uint8).data)

    if hasattr(target, "write"):
        write(target)
    else:
        with atomic_writer(target) as file:
            write(file)
