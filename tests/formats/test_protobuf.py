"""The reader of protocol-buffer messages: values, and what is no message."""

from __future__ import annotations

import math

import pytest
from formats.protobuf_bytes import field, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.formats.protobuf import read_message


def read(data, **options):
    return list(read_message(data, "x.model", **options))


@given(value=st.integers(-(2**63), 2**63 - 1), number=st.integers(1, 2**29 - 1))
@settings(max_examples=100)
def test_integers(value, number):
    (found,) = read(field(number, value))
    assert (found.number, found.integer()) == (number, value)


@given(value=st.floats(width=32))
def test_reals(value):
    (found,) = read(field(3, value))
    assert found.real() == value or math.isnan(value)


@given(text=st.text(st.characters(exclude_categories=["Cs"])), data=st.binary(max_size=300))
def test_texts_and_bytes(text, data):
    first, second = read(field(1, text) + field(2, data))
    assert first.text() == text
    assert second.data() == data


def test_a_message_in_a_message():
    (outer,) = read(field(1, field(2, "inside") + field(3, 7)))
    assert [(f.number, f.value) for f in read(outer.data())] == [(2, b"inside"), (3, 7)]


def test_eight_bytes_and_unknown_fields_are_stepped_over():
    eight, text = read(varint(900 << 3 | 1) + b"12345678" + field(1, "a"))
    assert (eight.number, eight.value, text.text()) == (900, b"12345678", "a")
    assert read(b"") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80", "byte 0: the message ends within a varint"),
        (b"\x08", "byte 0: the message ends within a varint"),
        (b"\x08\x01\x08", "byte 2: the message ends within a varint"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "a varint of more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "a varint of more than 64 bits"),
        (b"\x80" * 40, "a varint of more than 64 bits"),
        (b"\x00\x01", "field number 0, expected 1 to 536870911"),
        (varint(2**29 << 3) + b"\x01", "field number 536870912"),
        (b"\x0b", "field 1 is of wire type 3, expected 0, 1, 2, 5"),
        (b"\x0c", "wire type 4"),
        (b"\x0e", "wire type 6"),
        (b"\x0f", "wire type 7"),
        (b"\x0a\x05abc", "field 1 has 5 bytes, but the message ends after 3"),
        (b"\x0a" + varint(2**63) + b"abc", "field 1 has 9223372036854775808 bytes"),
        (b"\x0a" + varint(-1) + b"abc", "field 1 has 18446744073709551615 bytes"),
        (b"\x0d\x00\x00\x00", "field 1 has 4 bytes, but the message ends after 3"),
        (b"\x09\x00", "field 1 has 8 bytes, but the message ends after 1"),
    ],
)
def test_what_is_no_message(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(data)
    assert str(caught.value).startswith("x.model: ")


def test_too_many_fields():
    data = field(1, 1) * 11
    assert len(read(data, max_fields=11)) == 11
    with pytest.raises(ValueError, match="more than 10 fields"):
        read(data, max_fields=10)


def test_values_of_another_kind():
    number, text = read(field(1, 7) + field(2, b"\xff"))
    for call in (number.real, number.data, number.text):
        with pytest.raises(ValueError, match="field 1 is a varint, expected"):
            call()
    with pytest.raises(ValueError, match="field 2 is a length and bytes, expected a varint"):
        text.integer()
    with pytest.raises(ValueError, match="field 2 is no UTF-8 text"):
        text.text()


@given(data=st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(data):
    try:
        fields = read(data)
    except ValueError as err:
        assert str(err).startswith("x.model: ")  # noqa: PT017
    else:
        assert sum(len(f.value) for f in fields if isinstance(f.value, bytes)) <= len(data)
