import json
import os
import time

import pytest
from hostile import bounded_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.formats import load_json, parse_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(VALUES)
def test_reads_what_json_writes(value):
    for ascii_only in (True, False):
        try:
            data = json.dumps(value, ensure_ascii=ascii_only).encode()
        except UnicodeEncodeError:  # A lone surrogate.
            continue
        assert parse_json(data, where="t") == json.loads(data)


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text('[]{}",:\\ 01e.-nulltrfas', max_size=60).map(str.encode))
def test_any_bytes_give_a_value_or_a_value_error(data):
    message = "the file: "
    try:
        parse_json(data, where="the file", max_depth=4, max_values=10)
    except ValueError as err:
        message = str(err)
    assert message.startswith("the file: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' occurs twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e999]", "'1e999' is not finite"),
        (b'"\xff"', "not UTF-8 text at byte 1"),
        (b"\xff\xfe1\x00", "not UTF-8"),
        (b"9" * 10_000, "digits"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b"[" * 3_000_000, "nested more than 64 deep"),
        (b'{"a":' * 100_000, "nested more than 64 deep"),
        (b"[" + b"1," * 4_000_000 + b"1]", "more than 4000000 JSON values"),
        (b"[" + b'"",,' * 5_000_000, "more than 4000000 JSON values"),
        (b"[" + b"{}," * 2_100_000 + b"1]", "more than 4000000 JSON values"),
    ],
)
def test_refuses(text, message):
    # Far below what parsing the larger ones would take.
    with (
        bounded_memory(40_000_000),
        pytest.raises(ValueError, match=message) as err,
    ):
        parse_json(text, where="x.json")
    assert str(err.value).startswith("x.json: ")


def test_brackets_and_commas_in_strings_do_not_count():
    value = {"a": '[{,\\"' * 1000, 'b\\"[[[': ["\\", "]", "[" * 100]}
    data = json.dumps(value).encode()
    assert parse_json(data, where="t", max_depth=2, max_values=8) == value


@pytest.mark.parametrize("length", [1, 262_130, 999_990, 3_000_001])
def test_strings_across_the_chunks_of_the_scan(length):
    value = ['[{,\\"' * (length // 5), ["]" * length, {"k": ["," * length]}], "\\" * length]
    data = json.dumps(value).encode()
    assert parse_json(data, where="t", max_depth=4, max_values=8) == value
    with pytest.raises(ValueError, match="more than 3 deep"):
        parse_json(data, where="t", max_depth=3)


def test_depth_is_exact():
    assert parse_json(b"[[[1]]]", where="t", max_depth=3) == [[[1]]]
    with pytest.raises(ValueError, match="nested more than 2 deep"):
        parse_json(b"[[[1]]]", where="t", max_depth=2)


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 400_000, b'"\\' * 400_000, b'"' * 800_001])
def test_hostile_quotes_take_linear_time(text):
    # Quadratic time would be many minutes; the limit only tells the two apart.
    start = time.process_time()
    with pytest.raises(ValueError, match="deep"):
        parse_json(b"[" * 70 + text, where="t")
    assert time.process_time() - start < 20


def test_files(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'{"a": 1}')
    assert load_json(file) == {"a": 1}
    with pytest.raises(ValueError, match=r"a\.json: 8 bytes of JSON, at most 7"):
        load_json(file, max_bytes=7)
    with pytest.raises(FileNotFoundError):
        load_json(tmp_path / "none.json")
    with pytest.raises(IsADirectoryError):
        load_json(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular file"):
        load_json(tmp_path / "pipe")


def test_a_huge_sparse_file_is_not_read(tmp_path):
    with open(tmp_path / "big.json", "wb") as file:
        file.truncate(2**40)
    with bounded_memory(1_000_000), pytest.raises(ValueError, match="1099511627776 bytes"):
        load_json(tmp_path / "big.json")
