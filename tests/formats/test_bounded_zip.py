"""Zip archives as Python writes them, and those that nobody should open."""

import io
import struct
import zipfile
import zlib

import pytest
from hostile import ALLOWED, bounded_memory, mutations
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.formats import bounded_zip
from softprompt.formats.bounded_zip import open_zip


def zipped(
    files: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def opened(tmp_path, data: bytes) -> dict[str, bytes]:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    return {name: entry.read().tobytes() for name, entry in open_zip(path).items()}


NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=40)
@given(
    st.dictionaries(NAMES, st.binary(max_size=300), max_size=5),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.binary(max_size=40),
)
def test_reads_what_python_writes(tmp_path, files, method, comment):
    data = zipped(files, method, comment)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # which changes some names
        expected = {name: archive.read(name) for name in archive.namelist()}
    assert opened(tmp_path, data) == expected


def test_sizes_of_64_bits(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"content")
    assert opened(tmp_path, buffer.getvalue()) == {"a": b"content"}


def test_a_directory_of_64_bits(tmp_path):
    """The end as torch writes it: the fields once more, in the longer form."""
    data = zipped({"a": b"content"})
    end = data.rindex(b"PK\5\6")
    count, size, first = struct.unpack_from("<HLL", data, end + 10)
    longer = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, first)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    full = data[end : end + 8] + b"\xff" * 12 + b"\0\0"
    for last in (data[end:], full):
        assert opened(tmp_path, data[:end] + longer + locator + last) == {"a": b"content"}
        for spoiled in (longer.replace(b"PK\6\6", b"PK\6\5"), longer[:24] + b"\xff" * 32):
            with pytest.raises(ValueError, match=r"zip64|outside|entries|several"):
                opened(tmp_path, data[:end] + spoiled + locator + last)


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def spoil(data: bytes, record: bytes, at: int, value: bytes, *, last: bool = False) -> bytes:
    """Write bytes into the first (or last) record of a kind."""
    where = (data.rindex(record) if last else data.index(record)) + at
    return data[:where] + value + data[where + len(value) :]


TWO = zipped({"a": b"x" * 100, "b": b"y" * 100})
PACKED = zipped({"a": b"x" * 1000}, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\5\6", "no end of a zip archive"),
        (b"x" * 70_000, "no end of a zip archive"),
        (TWO[:-1], "no end of a zip archive"),
        (TWO + b"x", "no end of a zip archive"),
        (b"x" + TWO, "does not end at"),
        (spoil(TWO, END, 4, b"\1"), "one part of an archive"),
        (spoil(TWO, END, 8, b"\1"), "one part of an archive"),
        (spoil(TWO, END, 8, b"\1\0\1\0"), "directory ends at"),
        (spoil(TWO, END, 8, b"\3\0\3\0"), "an entry of the archive's directory"),
        (spoil(TWO, END, 12, b"\xff\xff\xff\x7f"), "does not end at"),
        (spoil(TWO, END, 8, b"\xff\xff\xff\xff"), "zip64"),
        (spoil(TWO, CENTRAL, 0, b"PK\1\3"), "no entry of the archive's directory"),
        (spoil(TWO, CENTRAL, 8, b"\1"), "'a' is encrypted"),
        (spoil(TWO, CENTRAL, 10, b"\x0c"), "method 12, expected 0 or 8"),
        (spoil(TWO, CENTRAL, 16, b"\0\0\0\0"), "another CRC-32"),
        (spoil(TWO, CENTRAL, 20, b"\x63\0\0\0"), "99 bytes are stored of 100"),
        (spoil(TWO, CENTRAL, 24, b"\xff\xff\xff\x7f"), "are stored of 2147483647"),
        (spoil(TWO, CENTRAL, 20, b"\xff\xff\xff\x7f\xff\xff\xff\x7f"), "outside"),
        (spoil(TWO, CENTRAL, 28, b"\xff\xff"), "no entry of the archive's directory"),
        (spoil(TWO, CENTRAL, 42, b"\1\0\0\0"), "is of another entry"),
        (spoil(TWO, CENTRAL, 42, b"\xff\xff\xff\x7f"), "outside the file"),
        (spoil(TWO, CENTRAL, 46, b"\xff"), "not UTF-8"),
        (spoil(TWO, CENTRAL, 46, b"b"), "is of another entry"),
        (spoil(TWO, LOCAL, 0, b"PK\3\5"), "is of another entry"),
        (spoil(TWO, LOCAL, 28, b"\xff\xff"), "outside the archive"),
        (spoil(PACKED, CENTRAL, 24, b"\xe7\3\0\0"), "does not inflate to the 999 bytes"),
        (spoil(PACKED, CENTRAL, 24, b"\xe9\3\0\0"), "does not inflate to the 1001 bytes"),
        (spoil(PACKED, CENTRAL, 24, b"\xff\xff\xff\x7f"), "expected at most"),
        (spoil(PACKED, LOCAL, 31, b"\xff\xff"), "is damaged"),
    ],
)
def test_hostile_archives(tmp_path, data, message):
    with bounded_memory(2**20), pytest.raises(ValueError, match=message) as err:
        opened(tmp_path, data)
    assert str(tmp_path / "a.zip") in str(err.value)


def test_entries_that_overlap(tmp_path):
    """Two names for the same bytes, as in zip bombs without recursion."""
    data = zipped({"a": b"x" * 100, "b": b"y" * 100})
    second = data.index(LOCAL, 4)
    overlapping = spoil(data, CENTRAL, 42, b"\0\0\0\0", last=True)
    overlapping = overlapping[:second] + overlapping[second:]
    overlapping = spoil(overlapping, CENTRAL, 46, b"a", last=True)
    with pytest.raises(ValueError, match="holds 'a' twice"):
        opened(tmp_path, overlapping)
    # the first entry reaches into the second
    whole = spoil(data, CENTRAL, 20, struct.pack("<LL", 180, 180))
    with pytest.raises(ValueError, match="'a' and 'b' overlap"):
        opened(tmp_path, whole)


def test_a_bomb_is_not_inflated(tmp_path, monkeypatch):
    zeros = 64 * 2**20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(zeros)) + packer.flush()
    data = zipped({"a": packed})
    for size in (10, 2**20):  # says less than it holds
        lies = spoil(data, CENTRAL, 10, b"\x08")
        lies = spoil(lies, CENTRAL, 24, struct.pack("<L", size))
        with bounded_memory(4 * 2**20), pytest.raises(ValueError, match="does not inflate to"):
            opened(tmp_path, lies)
    monkeypatch.setattr(bounded_zip, "MAX_INFLATED_BYTES", zeros - 1)
    honest = spoil(spoil(data, CENTRAL, 10, b"\x08"), CENTRAL, 24, struct.pack("<L", zeros))
    with bounded_memory(4 * 2**20), pytest.raises(ValueError, match="expected at most"):
        opened(tmp_path, honest)


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_zip, "MAX_ENTRIES", 1)
    with pytest.raises(ValueError, match="2 entries, expected at most 1"):
        opened(tmp_path, TWO)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_mutations_and_truncations(tmp_path, method):
    data = zipped({"archive/data.pkl": b"abc" * 50, "archive/data/0": b"x" * 90}, method)
    path = tmp_path / "a.zip"
    changed = [*mutations(data, 400, head=len(data)), *(data[:n] for n in range(len(data)))]
    for each in changed:
        path.write_bytes(each)
        with bounded_memory(4 * 2**20):
            message = None
            try:
                archive = open_zip(path)
                for name in archive:
                    archive[name].read()
            except ALLOWED as err:
                message = str(err)
        assert message is None or str(path) in message
