"""GGUF files, versions 2 and 3, little endian: a bounded reader of metadata and tensor table.

Layout: magic, version (uint32), counts of tensors and of metadata pairs (uint64), the pairs, the
tensor table, padding to `general.alignment`, the tensors' bytes. Source: docs/gguf.md of
https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from .ggml_types import GGML_TYPES, describe_unknown
from .mapped_file import map_file
from .stored_tensor import StoredTensor, StoredTensors

# Limits far above any real file: they bound the time and memory that a hostile one can cost.
MAX_PAIRS = 65_536
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 65_535  # The format's own limit for keys.
MAX_STRINGS = 4_194_304  # In all string arrays of a file together.
MAX_STRING_BYTES = 256 * 1024 * 1024  # All strings of a file together.
MAX_NESTING = 4
MAX_NESTED_ARRAYS = 65_536
_MAX_ALIGNMENT = 2**30

_SCALARS = {
    0: ("<B", np.dtype("u1")),
    1: ("<b", np.dtype("i1")),
    2: ("<H", np.dtype("<u2")),
    3: ("<h", np.dtype("<i2")),
    4: ("<I", np.dtype("<u4")),
    5: ("<i", np.dtype("<i4")),
    6: ("<f", np.dtype("<f4")),
    10: ("<Q", np.dtype("<u8")),
    11: ("<q", np.dtype("<i8")),
    12: ("<d", np.dtype("<f8")),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class StringArray(Sequence[str]):
    """A GGUF array of strings, decoded when asked for.

    Indexing, slicing (a list), iterating and comparing work as for a list of str; copies and
    pickles are plain lists.

    Raises
    ------
    ValueError
        When a string that is not UTF-8 is read; the message names file, key and index.
    """

    def __init__(self, data: memoryview, starts: array, lengths: array, where: str):
        self._data = data
        self._starts = starts
        self._lengths = lengths
        self._where = where

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index):
        """Return one str, or for a slice a list of str."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            start = self._starts[index]
        except IndexError:
            raise IndexError(f"{self._where}: index {index} of {len(self)} strings") from None
        raw = bytes(self._data[start : start + self._lengths[index]])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as err:
            raise ValueError(f"{self._where}: string {index} is not UTF-8: {raw[:40]!r}") from err

    def __iter__(self) -> Iterator[str]:
        data = self._data
        for index, (start, length) in enumerate(zip(self._starts, self._lengths, strict=True)):
            try:
                yield str(data[start : start + length], "utf-8")
            except UnicodeDecodeError:
                yield self[index]  # Raises with the place.

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StringArray | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None

    def __reduce__(self):
        return list, (list(self),)

    def __repr__(self) -> str:
        return f"<{len(self)} strings of {self._where}>"


class GgufFile(StoredTensors):
    """An open GGUF file: a mapping from tensor names, in the file's order, to `StoredTensor`.

    Attributes
    ----------
    path : str
        The file.
    version : int
        2 or 3.
    metadata : dict
        Keys to int, float, bool or str; arrays are read-only NumPy views of the file (numbers,
        bool), `StringArray`, or a list of these (nested arrays).
    """

    def __init__(
        self, path: str, version: int, metadata: dict[str, object], tensors: dict[str, StoredTensor]
    ):
        super().__init__(path, tensors)
        self.version = version
        self.metadata = metadata

    def __repr__(self) -> str:
        return f"GgufFile({self.path!r}, {len(self.metadata)} keys, {len(self)} tensors)"


class _Cursor:
    """A position in the mapped file; every read is checked against its end."""

    def __init__(self, mapped: np.ndarray, where: str):
        self.array = mapped
        self.view = memoryview(mapped)
        self.size = mapped.size
        self.position = 0
        self.where = where
        self.strings_left = MAX_STRINGS
        self.string_bytes_left = MAX_STRING_BYTES
        self.nested_left = MAX_NESTED_ARRAYS

    def fail(self, message: str) -> NoReturn:
        raise ValueError(f"{self.where}: {message}")

    def skip(self, count: int, what: str) -> int:
        """Move over `count` bytes and return where they begin."""
        begin = self.position
        if count > self.size - begin:
            self.fail(
                f"{what} takes {count} bytes at {begin}, the file has {self.size}; truncated file?"
            )
        self.position = begin + count
        return begin

    def u32(self, what: str) -> int:
        return _U32.unpack_from(self.view, self.skip(4, what))[0]

    def u64(self, what: str) -> int:
        return _U64.unpack_from(self.view, self.skip(8, what))[0]

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.u64(f"length of {what}")
        if limit is not None and length > limit:
            self.fail(f"{what} is {length} bytes long, at most {limit} are read")
        begin = self.skip(length, what)
        self.charge_string_bytes(length, what)
        raw = bytes(self.view[begin : begin + length])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as err:
            raise ValueError(f"{self.where}: {what} is not UTF-8: {raw[:40]!r}") from err

    def charge_string_bytes(self, count: int, what: str) -> None:
        self.string_bytes_left -= count
        if self.string_bytes_left < 0:
            self.fail(f"more than {MAX_STRING_BYTES} bytes of strings, up to {what}")

    def value(self, kind: int, what: str, depth: int = 0) -> object:
        if kind in _SCALARS:
            code, dtype = _SCALARS[kind]
            return struct.unpack_from(code, self.view, self.skip(dtype.itemsize, what))[0]
        if kind == _BOOL:
            byte = self.view[self.skip(1, what)]
            if byte > 1:
                self.fail(f"{what} is a bool of value {byte}, expected 0 or 1")
            return bool(byte)
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array_value(what, depth)
        self.fail(f"{what} has value type {kind}, expected 0 to 12")

    def array_value(self, what: str, depth: int) -> object:
        kind = self.u32(f"item type of {what}")
        count = self.u64(f"length of {what}")
        if kind in _SCALARS or kind == _BOOL:
            dtype = np.dtype(np.uint8) if kind == _BOOL else _SCALARS[kind][1]
            begin = self.skip(count * dtype.itemsize, f"{what} ({count} items)")
            values = self.array[begin : self.position]
            if kind == _BOOL:
                if values.max(initial=0) > 1:
                    self.fail(f"{what} has a bool of value {values.max()}, expected 0 or 1")
                return values.view(np.bool_)
            return values.view(dtype)
        if kind == _STRING:
            return self.string_array(count, what)
        if kind == _ARRAY:
            if depth + 1 >= MAX_NESTING:
                self.fail(f"{what} nests arrays {depth + 2} deep, at most {MAX_NESTING} are read")
            self.nested_left -= count
            if self.nested_left < 0:
                self.fail(f"{what}: more than {MAX_NESTED_ARRAYS} nested arrays")
            return [self.array_value(f"{what}[{i}]", depth + 1) for i in range(count)]
        self.fail(f"{what} is an array of value type {kind}, expected 0 to 12")

    def string_array(self, count: int, what: str) -> StringArray:
        # Every string takes 8 bytes of length at least.
        if count > (self.size - self.position) // 8:
            self.fail(
                f"{what} has {count} strings, the file has only {self.size - self.position} bytes "
                "left; truncated file?"
            )
        self.strings_left -= count
        if self.strings_left < 0:
            self.fail(f"{what} has {count} strings, at most {MAX_STRINGS} are read from a file")
        unpack, view, size = _U64.unpack_from, self.view, self.size
        starts, lengths = array("q"), array("q")
        add_start, add_length = starts.append, lengths.append
        position = first = self.position
        last_length = size - 8
        for index in range(count):
            if position > last_length:
                self.fail(f"{what}: string {index} of {count} lies past the end; truncated file?")
            (length,) = unpack(view, position)
            position += 8
            if length > size - position:
                self.fail(
                    f"{what}: string {index} of {count} takes {length} bytes at {position}, "
                    f"the file has {size}; truncated file?"
                )
            add_start(position)
            add_length(length)
            position += length
        self.charge_string_bytes(position - first - 8 * count, what)
        self.position = position
        return StringArray(view, starts, lengths, f"{self.where}: {what}")


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Open a GGUF file.

    The file is mapped; only metadata and tensor table are read. The mapping lives as long as a
    tensor's data or an array of the metadata does.

    Parameters
    ----------
    path : str or os.PathLike
        The file; version 2 or 3, little endian. Of a model split into several files, one part.

    Returns
    -------
    GgufFile

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it breaks the format: magic, version or byte order; a count, length, nesting or offset
        beyond the file or beyond this reader's limits; a key or tensor name that occurs twice; an
        unknown ggml type; a row that is no whole number of blocks; tensors that overlap. The
        message names file, key or tensor, the value and what was expected.
    """
    where = str(Path(path))
    cursor = _Cursor(map_file(path), where)
    version, tensor_count, pair_count = _read_preamble(cursor)
    metadata: dict[str, object] = {}
    for index in range(pair_count):
        key = cursor.string(f"key {index} of {pair_count}", MAX_NAME_BYTES)
        if key in metadata:
            cursor.fail(f"the key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.u32(f"value type of {key!r}"), repr(key))
    alignment = metadata.get("general.alignment", 32)
    if (
        type(alignment) is not int
        or not 0 < alignment <= _MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        cursor.fail(f"general.alignment is {alignment!r}, expected a power of two up to 2^30")
    table = [_read_tensor_entry(cursor, index, tensor_count) for index in range(tensor_count)]
    data_begin = cursor.position + -cursor.position % alignment
    tensors: dict[str, StoredTensor] = {}
    for entry in table:
        name = entry[0]
        if name in tensors:
            cursor.fail(f"the tensor name {name!r} occurs twice")
        tensors[name] = _placed_tensor(cursor, entry, data_begin, alignment)
    _check_overlap(cursor, table, tensors)
    return GgufFile(where, version, metadata, tensors)


def _read_preamble(cursor: _Cursor) -> tuple[int, int, int]:
    magic = bytes(cursor.view[:4])
    if magic != b"GGUF":
        cursor.fail(f"starts with {magic!r}, a GGUF file starts with b'GGUF'")
    cursor.position = 4
    version = cursor.u32("version")
    if version not in (2, 3):
        if version & 0xFFFF == 0 and version:
            cursor.fail("a big-endian GGUF file; convert it to little endian first")
        if version == 1:
            cursor.fail("GGUF version 1, expected 2 or 3; convert the model anew")
        cursor.fail(f"GGUF version {version}, expected 2 or 3")
    tensor_count = cursor.u64("number of tensors")
    pair_count = cursor.u64("number of metadata pairs")
    # The shortest pair takes 13 bytes, the shortest table entry 32.
    left = cursor.size - cursor.position
    if pair_count > min(MAX_PAIRS, left // 13):
        cursor.fail(
            f"{pair_count} metadata pairs, expected at most {MAX_PAIRS} and as many as "
            f"{left} bytes can hold; truncated file?"
        )
    if tensor_count > min(MAX_TENSORS, left // 32):
        cursor.fail(
            f"{tensor_count} tensors, expected at most {MAX_TENSORS} and as many as "
            f"{left} bytes can hold; truncated file?"
        )
    return version, tensor_count, pair_count


def _read_tensor_entry(cursor: _Cursor, index: int, count: int) -> tuple:
    """Read a row of the tensor table: (name, dims with the fastest first, ggml type, offset)."""
    name = cursor.string(f"name of tensor {index} of {count}", MAX_NAME_BYTES)
    rank = cursor.u32(f"rank of tensor {name!r}")
    if not 1 <= rank <= 4:
        cursor.fail(f"tensor {name!r} has {rank} dimensions, expected 1 to 4")
    begin = cursor.skip(8 * rank, f"shape of tensor {name!r}")
    dims = struct.unpack_from(f"<{rank}Q", cursor.view, begin)
    kind = cursor.u32(f"type of tensor {name!r}")
    return name, dims, kind, cursor.u64(f"offset of tensor {name!r}")


def _placed_tensor(cursor: _Cursor, entry: tuple, data_begin: int, alignment: int) -> StoredTensor:
    name, dims, kind, offset = entry
    if kind not in GGML_TYPES:
        cursor.fail(f"tensor {name!r} has {describe_unknown(kind)}")
    dtype, block, block_bytes = GGML_TYPES[kind]
    elements = 1
    for extent in dims:
        elements *= extent
        if extent >= 2**63 or elements >= 2**63:
            cursor.fail(f"tensor {name!r}: shape {dims[::-1]} has 2^63 elements or more")
    if dims[0] % block:
        cursor.fail(
            f"tensor {name!r}: rows of {dims[0]} elements, {dtype} needs a multiple of {block}"
        )
    if offset % alignment:
        cursor.fail(f"tensor {name!r}: offset {offset} is no multiple of {alignment}")
    size = elements // block * block_bytes
    begin = data_begin + offset
    if begin + size > cursor.size and size:
        cursor.fail(
            f"tensor {name!r}: {dtype} of shape {dims[::-1]} takes {size} bytes at {begin}, "
            f"the file has {cursor.size}; truncated file?"
        )
    data = cursor.array[begin : begin + size]
    return StoredTensor(name, dtype, dims[::-1], data, cursor.where)


def _check_overlap(cursor: _Cursor, table: list[tuple], tensors: dict[str, StoredTensor]) -> None:
    end, previous = 0, ""
    for offset, name in sorted((entry[3], entry[0]) for entry in table):
        size = tensors[name].data.size
        if size and offset < end:
            cursor.fail(
                f"tensor {name!r} at offset {offset} overlaps {previous!r}, ending at {end}"
            )
        if size:
            end, previous = offset + size, name
