import copy
import gc
import os
import pickle
import re
import struct

import gguf as oracle
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from gguf_bytes import ARRAY, BOOL, STRING, U32, array, gguf, pair, string, tensor, u32, u64
from hostile import bounded_memory, mutations, survives
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.formats import StringArray, open_gguf
from softprompt.formats.ggml_types import GGML_TYPES, REMOVED_TYPES

RNG = np.random.default_rng(7)


def opened(tmp_path, data):
    (tmp_path / "m.gguf").write_bytes(data)
    return open_gguf(tmp_path / "m.gguf")


def test_the_table_of_types_is_the_libraries():
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    # A later library may know more types.
    assert {kind: theirs[kind] for kind in GGML_TYPES if kind in theirs} == GGML_TYPES
    assert not REMOVED_TYPES.keys() & GGML_TYPES.keys()


def assert_same_as_library(path):
    theirs, ours = oracle.GGUFReader(path), open_gguf(path)
    keys = [key for key in theirs.fields if not key.startswith("GGUF.")]
    assert list(ours.metadata) == keys
    for key in keys:
        expected, value = theirs.fields[key].contents(), ours.metadata[key]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, np.array(expected, value.dtype), err_msg=key)
        else:
            assert value == expected, key
    assert list(ours) == [t.name for t in theirs.tensors]
    for expected in theirs.tensors:
        stored = ours[expected.name]
        assert stored.dtype == expected.tensor_type.name
        assert stored.shape == tuple(int(n) for n in reversed(expected.shape))
        assert stored.data.size == expected.n_bytes
        np.testing.assert_array_equal(stored.data, expected.data.reshape(-1).view(np.uint8))


def write_with_library(path, alignment=None):
    writer = oracle.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_string("text", "ü 語 \n")
    for add, value in [
        (writer.add_uint8, 255),
        (writer.add_int8, -128),
        (writer.add_uint16, 65535),
        (writer.add_int16, -32768),
        (writer.add_int32, -(2**31)),
        (writer.add_uint64, 2**64 - 1),
        (writer.add_int64, -(2**63)),
        (writer.add_float32, 0.1),
        (writer.add_float64, 0.1),
        (writer.add_bool, True),
    ]:
        add(add.__name__, value)
    writer.add_array("strings", ["", "a", "ü", "x" * 1000])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [1.5, -2.5])
    writer.add_array("bools", [True, False])
    writer.add_tensor("f32", RNG.normal(size=(2, 3, 5, 4)).astype("f4"))
    writer.add_tensor("f16", RNG.normal(size=(7, 3)).astype("f2"))
    writer.add_tensor("i64", np.arange(3))
    for kind in ("Q4_0", "Q8_0", "BF16"):
        quant = oracle.GGMLQuantizationType[kind]
        rows = oracle.quants.quantize(RNG.normal(size=(5, 64)).astype("f4"), quant)
        writer.add_tensor(kind, rows, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_reads_what_the_library_writes(tmp_path, alignment):
    write_with_library(tmp_path / "m.gguf", alignment)
    assert_same_as_library(tmp_path / "m.gguf")


def test_smollm2_as_the_library_reads_it(smollm2_path):
    assert_same_as_library(smollm2_path)


@pytest.mark.parametrize(
    "name",
    ["gpt2/ggml-vocab-gpt-2", "gpt-neox/ggml-vocab-gpt-neox", "llama-spm/ggml-vocab-llama-spm"],
)
def test_vocabularies_as_the_library_reads_them(shared_dir, name):
    path = shared_dir / "models" / "tokenizers" / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    assert_same_as_library(path)


def test_version_2_and_no_tensors(tmp_path):
    file = opened(tmp_path, gguf([pair("a", U32, u32(7))], version=2, align=1))
    assert (file.version, file.metadata, len(file)) == (2, {"a": 7}, 0)


def test_data_outlive_file_object_and_folder_entry(tmp_path):
    data = opened(tmp_path, gguf((), [tensor("a")], bytes(range(16))))["a"].data
    os.unlink(tmp_path / "m.gguf")
    gc.collect()
    np.testing.assert_array_equal(data, range(16))
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1


def test_missing_tensor_names_the_file(tmp_path):
    with pytest.raises(KeyError, match=r"m\.gguf: no tensor 'b' among 1 tensors"):
        opened(tmp_path, gguf((), [tensor("a")], bytes(16)))["b"]


def string_array(tmp_path, texts):
    items = b"".join(map(string, texts))
    return opened(tmp_path, gguf([pair("a", ARRAY, array(STRING, len(texts), items))])).metadata[
        "a"
    ]


@given(st.lists(st.text(max_size=5)), st.slices(20))
def test_a_string_array_is_a_sequence(tmp_path, texts, part):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    ours = string_array(tmp_path, texts)
    assert isinstance(ours, StringArray)
    assert ours == texts
    assert list(ours) == texts
    assert len(ours) == len(texts)
    assert ours[part] == texts[part]
    assert [ours[i - len(texts)] for i in range(len(texts))] == texts
    assert list(reversed(ours)) == texts[::-1]
    assert ours != [*texts, "more"]
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert copied == texts
        assert type(copied) is list
    with pytest.raises(IndexError, match=f"'a': index {len(texts)} of {len(texts)} strings"):
        ours[len(texts)]


def test_a_string_that_is_not_utf8_is_named_when_it_is_read(tmp_path):
    ours = string_array(tmp_path, ["a", b"\xff\xfe", "b"])
    assert ours[0] == "a"
    with pytest.raises(ValueError, match=r"m\.gguf: 'a': string 1 is not UTF-8"):
        ours[1]
    with pytest.raises(ValueError, match="string 1 is not UTF-8"):
        list(ours)


def test_a_large_vocabulary_costs_little(tmp_path):
    """Bounds the memory of 300,000 strings: offsets, not objects."""
    texts = [f"token number {i}" for i in range(300_000)]
    items = b"".join(map(string, texts))
    (tmp_path / "m.gguf").write_bytes(gguf([pair("a", ARRAY, array(STRING, len(texts), items))]))
    with bounded_memory(12_000_000):
        ours = open_gguf(tmp_path / "m.gguf").metadata["a"]
    assert ours == texts


def test_nested_arrays(tmp_path):
    inner = array(U32, 2, u32(1) + u32(2)), array(STRING, 1, string("x"))
    nested = opened(tmp_path, gguf([pair("a", ARRAY, array(ARRAY, 2, b"".join(inner)))]))
    first, second = nested.metadata["a"]
    assert first.tolist() == [1, 2]
    assert second == ["x"]


def nested(depth):
    value = array(U32, 0, b"")
    for _ in range(depth - 1):
        value = array(ARRAY, 1, value)
    return gguf([pair("a", ARRAY, value)])


FOUR = bytes(16)  # The bytes of four F32.
BAD = {
    "empty": (b"", "empty"),
    "magic": (gguf(magic=b"GGML"), "starts with b'GGML'"),
    "only magic": (b"GGUF", "version takes 4 bytes at 4"),
    "version 1": (gguf(version=1), "version 1"),
    "version 4": (gguf(version=4), "version 4, expected 2 or 3"),
    "version 0": (gguf(version=0), "version 0"),
    "big endian": (gguf(version=3 << 24), "big-endian"),
    "no counts": (gguf()[:12], "number of tensors"),
    "tensor count": (gguf(counts=(2**64 - 1, 0)), "18446744073709551615 tensors"),
    "small tensor count": (gguf(counts=(1, 0), align=1), "1 tensors"),
    "pair count": (gguf(counts=(0, 2**63)), "9223372036854775808 metadata pairs"),
    "too many pairs": (gguf(counts=(0, 65_537)) + bytes(2_000_000), "65537 metadata pairs"),
    "key length": (gguf([u64(2**64 - 1) + bytes(20)]), "key 0 of 1 is 18446744073709551615 bytes"),
    "key beyond file": (gguf([u64(60) + bytes(20)]), "key 0 of 1 takes 60 bytes"),
    "key not UTF-8": (gguf([string(b"\xff") + u32(U32) + u32(1)]), "key 0 of 1 is not UTF-8"),
    "duplicate key": (gguf([pair("a", U32, u32(1))] * 2), "the key 'a' occurs twice"),
    "value type": (gguf([pair("a", 13, u32(1))]), "'a' has value type 13"),
    "bool": (gguf([pair("a", BOOL, b"\2")]), "'a' is a bool of value 2"),
    "bool array": (gguf([pair("a", ARRAY, array(BOOL, 3, b"\0\1\7"))]), "bool of value 7"),
    "string length": (gguf([pair("a", STRING, u64(2**62))]), "'a' takes 4611686018427387904"),
    "array length": (gguf([pair("a", ARRAY, array(U32, 2**62, b""))]), "'a' (46116860184"),
    "array overflow": (gguf([pair("a", ARRAY, array(12, 2**61, b""))]), "'a' (23058430092"),
    "array type": (gguf([pair("a", ARRAY, array(99, 1, b""))]), "array of value type 99"),
    "string count": (gguf([pair("a", ARRAY, array(STRING, 2**60, b""))]), "1152921504606846976"),
    "string in array": (
        gguf([pair("a", ARRAY, array(STRING, 2, string("x") + u64(2**63) + bytes(9)))]),
        "'a': string 1 of 2 takes 9223372036854775808",
    ),
    "string past the end": (
        gguf([pair("a", ARRAY, array(STRING, 2, u64(5) + bytes(8)))], align=1),
        "'a': string 1 of 2 lies past the end",
    ),
    "too many strings": (
        gguf([pair("a", ARRAY, array(STRING, 4_194_305, bytes(8 * 4_194_305)))]),
        "at most 4194304",
    ),
    "nesting": (nested(5), "nests arrays 5 deep, at most 4"),
    "deep nesting": (nested(50_000), "nests arrays 5 deep"),
    "many nested": (
        gguf([pair("a", ARRAY, array(ARRAY, 65_537, array(U32, 0, b"") * 65_537))]),
        "more than 65536 nested",
    ),
    "nested count": (gguf([pair("a", ARRAY, array(ARRAY, 2**63, b""))]), "nested arrays"),
    "alignment 0": (gguf([pair("general.alignment", U32, u32(0))]), "alignment is 0"),
    "alignment 3": (gguf([pair("general.alignment", U32, u32(3))]), "alignment is 3"),
    "alignment 2^31": (gguf([pair("general.alignment", U32, u32(2**31))]), "alignment is 2147"),
    "alignment text": (gguf([pair("general.alignment", STRING, string("8"))]), "alignment is '8'"),
    "alignment bool": (gguf([pair("general.alignment", BOOL, b"\1")]), "alignment is True"),
    "duplicate tensor": (gguf((), [tensor("a"), tensor("a", offset=32)], bytes(64)), "'a' occurs"),
    "no dims": (gguf((), [tensor("a", ())], FOUR), "0 dimensions, expected 1 to 4"),
    "five dims": (gguf((), [tensor("a", (1,) * 5)], FOUR), "5 dimensions"),
    "2^32-1 dims": (
        gguf((), [string("a") + u32(2**32 - 1) + bytes(40)], FOUR),
        "4294967295 dimensions",
    ),
    "unknown type": (gguf((), [tensor("a", kind=77)], FOUR), "unknown ggml type 77"),
    "removed type": (gguf((), [tensor("a", kind=4)], FOUR), "ggml type 4 (Q4_2), which ggml has"),
    "block": (gguf((), [tensor("a", (33,), 2)], bytes(36)), "Q4_0 needs a multiple of 32"),
    "offset alignment": (gguf((), [tensor("a", offset=16)], bytes(64)), "no multiple of 32"),
    "offset past the end": (gguf((), [tensor("a", offset=2**63)], FOUR), "truncated"),
    "offset overflow": (gguf((), [tensor("a", offset=2**64 - 32)], FOUR), "truncated"),
    "data truncated": (gguf((), [tensor("a")], bytes(15)), "takes 16 bytes at 64, the file has 79"),
    "dims overflow": (gguf((), [tensor("a", (2**32, 2**32))], FOUR), "2^63"),
    "dims wrap to zero": (gguf((), [tensor("a", (2**62, 4, 0))], FOUR), "2^63"),
    "dim of 2^63": (gguf((), [tensor("a", (2**63,))], FOUR), "2^63"),
    "overlap": (
        gguf((), [tensor("a", (16,)), tensor("b", offset=32)], bytes(64)),
        "'b' at offset 32 overlaps 'a', ending at 64",
    ),
    "name not UTF-8": (gguf((), [tensor("a").replace(b"a", b"\xff")], FOUR), "is not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name, tmp_path):
    data, message = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with (
        bounded_memory(12_000_000),
        pytest.raises(ValueError, match=re.escape(message)) as err,
    ):
        open_gguf(path)
    assert str(path) in str(err.value)


def test_huge_sparse_files_are_bounded(tmp_path):
    """Counts and lengths that fit a file of a tebibyte are still refused."""
    heads = {
        "at most 4194304": pair("a", ARRAY, array(STRING, 2**30, b"")),
        "more than 268435456 bytes of strings": pair("a", STRING, u64(2**35)),
        "at most 65535 are read": u64(2**35),
    }
    for message, head in heads.items():
        with open(tmp_path / "m.gguf", "wb") as file:
            file.write(gguf([head]))
            file.truncate(2**40)
        with bounded_memory(2_000_000), pytest.raises(ValueError, match=message):
            open_gguf(tmp_path / "m.gguf")


def test_empty_tensors_are_tolerated(tmp_path):
    file = opened(tmp_path, gguf((), [tensor("a", (0, 3)), tensor("b")], FOUR))
    assert file["a"].shape == (3, 0)
    assert file["a"].data.size == 0


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_gguf(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        open_gguf(tmp_path)


def test_mutated_files_are_refused_or_read_whole(tmp_path):
    write_with_library(tmp_path / "m.gguf")
    data = (tmp_path / "m.gguf").read_bytes()
    with bounded_memory(20_000_000):
        read = [
            survives(open_gguf, tmp_path / "bad", bad) for bad in mutations(data, 1500, head=1500)
        ]
    assert 0 < sum(read) < len(read)


def test_every_truncation_is_refused(tmp_path):
    data = gguf(
        [pair("a", ARRAY, array(STRING, 2, string("x") + string("yz"))), pair("b", U32, u32(1))],
        [tensor("t"), tensor("u", offset=32)],
        bytes(48),
    )
    assert survives(open_gguf, tmp_path / "m", data)
    for length in range(len(data)):
        assert not survives(open_gguf, tmp_path / "m", data[:length])


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from([u64(1), u64(0), u32(ARRAY), u32(STRING), string("k"), u32(U32)]),
            st.integers(0, 2**64 - 1).map(u64),
            st.integers(0, 12).map(u32),
        ),
        max_size=12,
    ),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_random_bodies(tmp_path, parts, tensor_count, pair_count):
    data = gguf(parts, counts=(tensor_count, pair_count), align=1)
    survives(open_gguf, tmp_path / "m", data + struct.pack("<4x"))
