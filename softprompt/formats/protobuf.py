"""Protocol-buffer messages with bounds: the wire format alone, one message at a time.

Source: "Encoding" of the protocol-buffer documentation (https://protobuf.dev/programming-guides/
encoding/). A nested message is handed out as its bytes; whoever knows the schema reads it with
another call, so that a file cannot nest deeper than its schema does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
DEFAULT_MAX_FIELDS = 4_000_000
_MAX_FIELD_NUMBER = 2**29 - 1
_MAX_VARINT_BYTES = 10
_KINDS = {VARINT: "a varint", FIXED64: "8 bytes", BYTES: "a length and bytes", FIXED32: "4 bytes"}


class Field(NamedTuple):
    """One field of a message.

    Attributes
    ----------
    number : int
        The field's number in the schema.
    kind : int
        VARINT, FIXED64, BYTES or FIXED32.
    value : int or bytes
        An unsigned integer for VARINT; the bytes for the others.
    where : str
        File and byte, for messages.
    """

    number: int
    kind: int
    value: int | bytes
    where: str

    def integer(self) -> int:
        """Return a field of kind VARINT as the int64 that it stands for.

        Raises
        ------
        ValueError
            The field is of another kind.
        """
        value = self._of_kind(VARINT)
        return value - 2**64 if value >= 2**63 else value

    def real(self) -> float:
        """Return a field of kind FIXED32 as a float.

        Raises
        ------
        ValueError
            The field is of another kind.
        """
        return struct.unpack("<f", self._of_kind(FIXED32))[0]

    def data(self) -> bytes:
        """Return the bytes of a field of kind BYTES: a blob, a text, a message.

        Raises
        ------
        ValueError
            The field is of another kind.
        """
        return self._of_kind(BYTES)

    def text(self) -> str:
        """Return a field of kind BYTES as text.

        Raises
        ------
        ValueError
            The field is of another kind, or its bytes are no UTF-8.
        """
        try:
            return self.data().decode("utf-8")
        except UnicodeDecodeError as err:
            raise ValueError(f"{self.where}: field {self.number} is no UTF-8 text") from err

    def _of_kind(self, kind: int) -> int | bytes:
        if self.kind != kind:
            raise ValueError(
                f"{self.where}: field {self.number} is {_KINDS[self.kind]}, expected {_KINDS[kind]}"
            )
        return self.value


def read_message(
    data: bytes, where: str, *, max_fields: int = DEFAULT_MAX_FIELDS
) -> Iterator[Field]:
    """Read the fields of one message.

    Parameters
    ----------
    data : bytes
        The message.
    where : str
        What is being read, usually a path: the start of every error message.
    max_fields : int
        Most fields accepted.

    Yields
    ------
    Field
        In the order of the file; a field may occur several times.

    Raises
    ------
    ValueError
        A field that ends beyond the message, a varint of more than 64 bits, a field number out of
        range, a group (which no schema here has), or more than `max_fields` fields.
    """
    at, end, count = 0, len(data), 0
    while at < end:
        place = f"{where}: byte {at}"
        count += 1
        if count > max_fields:
            raise ValueError(f"{where}: more than {max_fields} fields in one message")
        tag, at = _read_varint(data, at, place)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise ValueError(f"{place}: field number {number}, expected 1 to {_MAX_FIELD_NUMBER}")
        if kind not in _KINDS:
            raise ValueError(f"{place}: field {number} is of wire type {kind}, expected 0, 1, 2, 5")
        if kind == VARINT:
            value, at = _read_varint(data, at, place)
            yield Field(number, kind, value, place)
            continue
        if kind == BYTES:
            size, at = _read_varint(data, at, place)
        else:
            size = 4 if kind == FIXED32 else 8
        if size > end - at:
            raise ValueError(
                f"{place}: field {number} has {size} bytes, but the message ends after {end - at}"
            )
        yield Field(number, kind, data[at : at + size], place)
        at += size


def _read_varint(data: bytes, at: int, place: str) -> tuple[int, int]:
    """Return an unsigned integer and the place behind it."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(data):
            raise ValueError(f"{place}: the message ends within a varint")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at + index + 1
    raise ValueError(f"{place}: a varint of more than 64 bits")
