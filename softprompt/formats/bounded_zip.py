"""Zip archives with bounds: every entry in its own place, none larger than it says.

The central directory alone decides (as in PKWARE's APPNOTE.TXT 6.3); each local header has to agree
with it on the name. Entries are stored or deflated, which is what `torch.save` and NumPy write.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from .mapped_file import map_file

MAX_ENTRIES = 100_000
MAX_INFLATED_BYTES = 256 * 1024 * 1024
"""Of one deflated entry; stored ones are views of the file."""

STORED, DEFLATED = 0, 8
_ENCRYPTED = 0x1 | 0x40
_MAX_COMMENT = 2**16 - 1
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL_16, _FULL_32 = 2**16 - 1, 2**32 - 1


@dataclass(frozen=True, eq=False)
class ZipEntry:
    """One file of an archive.

    Attributes
    ----------
    name : str
        With the archive's own folders, separated by slashes.
    method : int
        `STORED` or `DEFLATED`.
    size : int
        Bytes of the content.
    crc : int
        CRC-32 of the content.
    data : numpy.ndarray
        uint8, read-only: the bytes as they are in the archive.
    source : str
        The archive, for messages.
    """

    name: str
    method: int
    size: int
    crc: int
    data: np.ndarray = field(repr=False)
    source: str

    def read(self) -> np.ndarray:
        """Return the content, checked.

        Returns
        -------
        numpy.ndarray
            uint8 `[size]`, read-only; of a stored entry a view of the mapped file.

        Raises
        ------
        ValueError
            If it is damaged, of another size than it says, or inflates beyond
            `MAX_INFLATED_BYTES`.
        """
        content = self.data if self.method == STORED else self._inflated()
        if zlib.crc32(content) != self.crc:
            raise ValueError(
                f"{self.source}: {self.name!r} has another CRC-32 than the archive says: "
                "a damaged file"
            )
        return content

    def _inflated(self) -> np.ndarray:
        where = f"{self.source}: {self.name!r}"
        if self.size > MAX_INFLATED_BYTES:
            raise ValueError(
                f"{where} inflates to {self.size} bytes, expected at most {MAX_INFLATED_BYTES}"
            )
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflater.decompress(self.data, self.size + 1)
        except zlib.error as err:
            raise ValueError(f"{where} is damaged: {err}") from err
        if len(content) != self.size or not inflater.eof:
            raise ValueError(f"{where} does not inflate to the {self.size} bytes that it says")
        return np.frombuffer(content, dtype=np.uint8)


class ZipArchive(Mapping[str, ZipEntry]):
    """An open archive: names, in the directory's order, to `ZipEntry`.

    Attributes
    ----------
    path : str
        The file.
    """

    def __init__(self, path: str, entries: dict[str, ZipEntry]) -> None:
        self.path = path
        self._entries = entries

    def __getitem__(self, name: str) -> ZipEntry:
        """Return an entry, or raise a `KeyError` that names the archive."""
        try:
            return self._entries[name]
        except KeyError:
            raise KeyError(f"{self.path}: no {name!r} in the archive") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def open_zip(path: str | os.PathLike[str]) -> ZipArchive:
    """Open a zip archive.

    The file is mapped; only its directory is read.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    ZipArchive

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is no zip archive, is truncated, has several parts or encrypted entries, or if entries
        overlap, lie outside the file, repeat a name or disagree with their local headers.
    """
    where = str(Path(path))
    content = map_file(path)
    first, end, count = _directory(content, where)
    entries: dict[str, ZipEntry] = {}
    extents: list[tuple[int, int, str]] = []
    position = first
    for _ in range(count):
        position, name, entry, extent = _read_entry(content, position, first, end, where)
        if name in entries:
            raise ValueError(f"{where}: the archive holds {_short(name)} twice")
        entries[name] = entry
        extents.append((*extent, name))
    if position != end:
        raise ValueError(f"{where}: the archive's directory ends at {position}, expected {end}")
    extents.sort()
    for (_, earlier, one), (later, _, other) in pairwise(extents):
        if later < earlier:
            raise ValueError(f"{where}: {_short(one)} and {_short(other)} overlap in the archive")
    return ZipArchive(where, entries)


def _unpack(form: struct.Struct, content: np.ndarray, at: int, what: str, where: str) -> tuple:
    if not 0 <= at <= content.size - form.size:
        raise ValueError(f"{where}: {what} at {at} is outside the file's {content.size} bytes")
    return form.unpack(content[at : at + form.size].tobytes())


def _directory(content: np.ndarray, where: str) -> tuple[int, int, int]:
    """First byte of the directory, byte after it, number of entries."""
    tail_start = max(0, content.size - _END.size - _MAX_COMMENT)
    tail = content[tail_start:].tobytes()
    at = len(tail)
    while True:
        at = tail.rfind(b"PK\5\6", 0, at)
        if at < 0:
            raise ValueError(f"{where}: no end of a zip archive; truncated, or no archive")
        if at + _END.size <= len(tail):
            fields = _END.unpack_from(tail, at)
            if at + _END.size + fields[7] == len(tail):
                break
    end = tail_start + at
    _, disk, first_disk, here, count, size, first, _ = fields
    # torch writes a zip64 end even where none is needed
    is_full = _FULL_16 in (disk, here, count) or _FULL_32 in (size, first)
    if is_full or content[max(0, end - _LOCATOR_64.size) :][:4].tobytes() == b"PK\6\7":
        end, disk, first_disk, here, count, size, first = _directory_64(content, end, where)
    if disk or first_disk or here != count:
        raise ValueError(f"{where}: one part of an archive of several, expected a whole one")
    if count > MAX_ENTRIES:
        raise ValueError(f"{where}: {count} entries, expected at most {MAX_ENTRIES}")
    if first + size != end:
        raise ValueError(
            f"{where}: the archive's directory of {size} bytes at {first} does not end at {end}, "
            "where its end is described"
        )
    return first, end, count


def _directory_64(content: np.ndarray, end: int, where: str) -> tuple[int, ...]:
    locator_at = end - _LOCATOR_64.size
    mark, _, at, _ = _unpack(_LOCATOR_64, content, locator_at, "the zip64 locator", where)
    if mark != b"PK\6\7":
        raise ValueError(f"{where}: no zip64 locator before the archive's end")
    fields = _unpack(_END_64, content, at, "the zip64 end", where)
    if fields[0] != b"PK\6\6" or at + _END_64.size > locator_at:
        raise ValueError(f"{where}: no zip64 end of the archive at {at}")
    return at, fields[4], fields[5], fields[6], fields[7], fields[8], fields[9]


def _read_entry(
    content: np.ndarray, at: int, first: int, end: int, where: str
) -> tuple[int, str, ZipEntry, tuple[int, int]]:
    """Place of the next directory entry; name, entry, and bytes from header to end of data."""
    fields = _unpack(_CENTRAL, content, at, "an entry of the archive's directory", where)
    mark, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
    packed, size, name_bytes, extra_bytes, comment_bytes = fields[8:13]
    header = fields[16]
    following = at + _CENTRAL.size + name_bytes + extra_bytes + comment_bytes
    if mark != b"PK\1\2" or following > end:
        raise ValueError(f"{where}: no entry of the archive's directory at {at}; damaged?")
    raw_name = content[at + _CENTRAL.size : at + _CENTRAL.size + name_bytes].tobytes()
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError as err:
        raise ValueError(f"{where}: the archive's name {_short(raw_name)} is not UTF-8") from err
    extra_at = at + _CENTRAL.size + name_bytes
    extra = content[extra_at : extra_at + extra_bytes].tobytes()
    size, packed, header = _wide(extra, size, packed, header)
    where_entry = f"{where}: {_short(name)}"
    if flags & _ENCRYPTED:
        raise ValueError(f"{where_entry} is encrypted")
    if method not in (STORED, DEFLATED):
        raise ValueError(f"{where_entry} is packed by method {method}, expected 0 or 8 (deflate)")
    if method == STORED and packed != size:
        raise ValueError(f"{where_entry}: {packed} bytes are stored of {size}")
    local = _unpack(_LOCAL, content, header, f"the local header of {_short(name)}", where)
    name_at = header + _LOCAL.size
    begin = name_at + local[9] + local[10]
    if local[0] != b"PK\3\4" or content[name_at : name_at + local[9]].tobytes() != raw_name:
        raise ValueError(f"{where_entry}: its local header at {header} is of another entry")
    if not begin <= begin + packed <= first:
        raise ValueError(
            f"{where_entry}: bytes {begin} to {begin + packed} are outside the archive's {first}"
        )
    entry = ZipEntry(name, method, size, crc, content[begin : begin + packed], where)
    return following, name, entry, (header, begin + packed)


def _wide(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Replace the 32-bit fields that are full by those of the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
            values = list(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
            take = [value if value != _FULL_32 or not values else values.pop(0)
                    for value in (size, packed, header)]  # fmt: skip
            return take[0], take[1], take[2]
        at += 4 + length
    return size, packed, header


def _short(name: str | bytes) -> str:
    return repr(name if len(name) <= 60 else name[:60])
