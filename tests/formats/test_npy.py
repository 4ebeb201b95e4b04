"""NumPy's files: those that NumPy writes, and headers that lie."""

from pathlib import Path

import numpy as np
import pytest
from golden import cases
from hostile import bounded_memory, mutations, survives
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from softprompt.formats import npy
from softprompt.formats.npy import open_npy, open_npz, write_npy

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def array(stored) -> np.ndarray:
    return stored.data.view(NUMPY[stored.dtype]).reshape(stored.shape)


def test_files_of_numpy():
    values = cases.prompt("gpt2", 3)
    for name in ("prompt.npy", "fortran.npy", "big_endian.npy"):
        np.testing.assert_array_equal(array(open_npy(GOLDEN / name)["array"]), values)
    opened = open_npz(GOLDEN / "prompt.npz")
    assert list(opened) == ["prompt_embeddings", "loss"]
    np.testing.assert_array_equal(array(opened["prompt_embeddings"]), values)
    np.testing.assert_array_equal(array(open_npz(GOLDEN / "compressed.npz")["arr_0"]), values)


dtypes = st.sampled_from(["f2", "f4", "f8", ">f4", ">f8", "i1", "i2", ">i8", "u1", ">u4", "?"])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)


@settings(max_examples=80)
@given(arrays, st.sampled_from("CF"), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_any_array(tmp_path, values, order, version):
    values = np.asarray(values, order=order)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=version)
    stored = open_npy(tmp_path / "a.npy")["array"]
    assert stored.shape == values.shape
    assert not stored.data.flags.writeable
    np.testing.assert_array_equal(array(stored), values)


def test_bfloat16_of_jax(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "a.npy", values)
    stored = open_npy(tmp_path / "a.npy")["array"]
    assert stored.dtype == "BF16"
    np.testing.assert_array_equal(stored.data, values.reshape(-1).view(np.uint8))


def test_writing_is_numpys(tmp_path):
    values = cases.prompt("gpt2", 3)
    write_npy(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), values)
    assert (tmp_path / "a.npy").read_bytes() == (GOLDEN / "prompt.npy").read_bytes()
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_npy(tmp_path / "a.npy", np.array([None]))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)  # as it was


def with_header(header: str | bytes, data: bytes = b"\0" * 24, version: bytes = b"\1\0") -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    width = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text + data


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        "{'shape': (2, 3), 'descr': '<f4', 'fortran_order': False}",
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}\n",
        "{ 'descr' : '<f4' , 'fortran_order' : False , 'shape' : (2L, 3L) , } \n",
        GOOD.replace("<", "="),
    ],
)
def test_headers_as_others_write_them(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(with_header(header))
    assert open_npy(tmp_path / "a.npy")["array"].shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x93NUMPY", "starts with"),
        (b"\x93NUMPX\1\0", "starts with"),
        (with_header(GOOD, version=b"\4\0"), r"version \(4, 0\), expected 1.0"),
        (b"\x93NUMPY\1\0\xff\xff", "header of 65535 bytes"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", "header of 4294967295 bytes"),
        (with_header(GOOD + " " * 10_000), "expected at most 10000"),
        (with_header(GOOD, b"\0" * 23), "23 bytes, expected 24"),
        (with_header(GOOD, b"\0" * 25), "25 bytes, expected 24"),
        (with_header(GOOD.replace("<f4", "|O")), "objects, which are a pickle"),
        (with_header(GOOD.replace("<f4", "<U4")), "is another type"),
        (with_header(GOOD.replace("<f4", "<c8")), "is another type"),
        (with_header(GOOD.replace("<f4", "<M8[ns]")), "is another type"),
        (with_header(GOOD.replace("'<f4'", "[('a', '<f4')]")), "expected a dict of"),
        (with_header(GOOD.replace("False", "0")), "expected a dict of"),
        (with_header(GOOD.replace("(2, 3)", "(-2, -3)")), "expected a dict of"),
        (with_header(GOOD.replace("(2, 3)", "[2, 3]")), "expected a dict of"),
        (with_header(GOOD.replace("(2, 3)", "(2.0, 3)")), "expected a dict of"),
        (with_header(GOOD.replace("(2, 3)", "(" + "1, " * 65 + ")")), "expected a dict of"),
        (with_header(GOOD.replace("(2, 3)", "(" + "9" * 30 + ",)")), "expected a dict of"),
        (with_header(GOOD.replace("(2, 3)", "(9223372036854775808,)")), "expected a dict of"),
        (with_header(GOOD.replace("(2, 3)", "(4611686018427387904, 4)")), "expected 7378"),
        (with_header(GOOD.replace("}", "'shape': (2, 3), }")), "expected a dict of"),
        (with_header("{'descr': '<f4', 'shape': (2, 3)}"), "expected a dict of"),
        (with_header("__import__('os').system('true')"), "expected a dict of"),
        (with_header("(" * 9000), "expected a dict of"),
        (with_header(b"\xff" * 50), "expected a dict of"),
        (with_header(""), "expected a dict of"),
    ],
)
def test_hostile_headers(tmp_path, data, message):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with bounded_memory(2**20), pytest.raises(ValueError, match=message) as err:
        open_npy(path)
    assert str(path) in str(err.value)


def test_pickled_objects_are_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects, which are a pickle"):
        open_npy(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", x=np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"array 'x': .*objects, which are a pickle"):
        open_npz(tmp_path / "a.npz")


def test_archives_of_something_else(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.ones(2))
    monkeypatch.setattr(npy, "_MAX_NPZ_BYTES", 100)
    with pytest.raises(ValueError, match="bytes of arrays, expected at most 100"):
        open_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="arrays alone"):
        open_npz(GOLDEN / "zip.pt")


def test_every_truncation_is_refused(tmp_path):
    for name, open_file in (("prompt.npy", open_npy), ("prompt.npz", open_npz)):
        data = (GOLDEN / name).read_bytes()
        for length in range(len(data)):
            (tmp_path / "x").write_bytes(data[:length])
            with pytest.raises(ValueError, match=str(tmp_path / "x")):
                open_file(tmp_path / "x")


@pytest.mark.parametrize("name", ["prompt.npy", "fortran.npy", "prompt.npz", "compressed.npz"])
def test_mutations(tmp_path, name):
    data = (GOLDEN / name).read_bytes()
    open_file = open_npz if name.endswith("z") else open_npy

    def opened(path):
        file = open_file(path)
        file.metadata = {}
        return file

    with bounded_memory(2**22):
        results = [
            survives(opened, tmp_path / "x", each) for each in mutations(data, 300, head=len(data))
        ]
    assert not all(results)


def test_nothing_is_left_of_a_failed_write(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"before")
    with pytest.raises(ValueError, match="Object arrays"):
        write_npy(tmp_path / "a.npy", np.array([None]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert (tmp_path / "a.npy").read_bytes() == b"before"
