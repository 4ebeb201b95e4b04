"""torch's files: those that torch wrote (tests/golden/prompts), and hand-made, hostile ones."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch_bytes as tb
from golden import cases
from hostile import ALLOWED, bounded_memory, mutations

from softprompt.formats import torch_file
from softprompt.formats.torch_file import open_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
VALUES = cases.prompt("gpt2", 3)
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}


def array(stored) -> np.ndarray:
    return stored.data.view(NUMPY[stored.dtype]).reshape(stored.shape)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("zip.pt", "prompt_embeddings"),
        ("legacy.pt", "tensor"),
        ("parameter.pt", "tensor"),
        ("legacy_parameter.pt", "prompt_embeddings"),
        ("transposed.pt", "tensor"),
        ("strided.pt", "tensor"),
        ("float16.pt", "tensor"),
        ("float64.pt", "tensor"),
    ],
)
def test_files_of_torch(file, name):
    opened = open_torch(GOLDEN / file)
    assert list(opened) == [name]
    stored = opened[name]
    assert stored.source == str(GOLDEN / file)
    assert not stored.data.flags.writeable
    np.testing.assert_array_equal(array(stored), VALUES.astype(array(stored).dtype))


def test_bfloat16():
    stored = open_torch(GOLDEN / "bfloat16.pt")["tensor"]
    assert stored.dtype == "BF16"
    upper = (stored.data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    # rounded to 8 significant bits
    np.testing.assert_allclose(upper.reshape(3, 20), VALUES, rtol=2**-8)


def test_a_whole_state():
    opened = open_torch(GOLDEN / "state_dict.pt")
    assert set(opened) == {"prompt_embedding.weight", "position_ids"}
    np.testing.assert_array_equal(array(opened["prompt_embedding.weight"]), VALUES)
    np.testing.assert_array_equal(array(opened["position_ids"]), [0, 1, 2, 3])
    opened = open_torch(GOLDEN / "openprompt.ckpt")
    assert set(opened) == {
        "state_dict.template.soft_embeds",
        "state_dict.verbalizer.label_words_ids",
    }
    assert opened.values["best_score"] == 0.75
    assert opened.values["optimizer.0.param_groups.0.lr"] == 0.3
    with pytest.raises(KeyError, match=r"openprompt\.ckpt: no tensor 'x' among 2"):
        opened["x"]


def both_layouts(data_pickle: bytes) -> list[bytes]:
    return [tb.archive(data_pickle), tb.legacy(data_pickle)]


def read_all(path: Path) -> list:
    opened = open_torch(path)
    return [opened[name] for name in opened]


def written(tmp_path, data: bytes) -> Path:
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((3, 4), (4, 1), 0),
        ((2, 4), (4, 1), 4),
        ((4, 3), (1, 4), 0),
        ((2, 2), (8, 2), 1),
        ((1, 4), (100, 1), 3),
        ((12,), (1,), 0),
        ((), (), 7),
        ((2, 0), (5, 1), 3),
    ],
)
def test_shapes_and_strides(tmp_path, shape, strides, offset):
    bytes_of = [4 * step for step in strides]
    expected = np.lib.stride_tricks.as_strided(tb.VALUES[offset:], shape, bytes_of)
    for data in both_layouts(tb.state(a=tb.tensor(shape, strides, offset))):
        stored = open_torch(written(tmp_path, data))["a"]
        np.testing.assert_array_equal(array(stored), expected)


@pytest.mark.parametrize("layout", [0, 1])
def test_code_in_a_file_is_named_and_not_run(tmp_path, layout):
    class Runs:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    data_pickle = pickle.dumps({"prompt_embeddings": Runs()}, 2)
    path = written(tmp_path, both_layouts(data_pickle)[layout])
    with pytest.raises(ValueError, match=r"x\.bin: pickle: asks for '.*getattr'.*could run code"):
        open_torch(path)
    assert not (tmp_path / "ran").exists()


GOOD = tb.state(a=tb.tensor())
SELF_LIST = tb.PROTO + b"]q\x00h\x00a."
SELF_DICT = tb.PROTO + b"}q\x00" + tb.text("a") + b"h\x00s."
# each of 40 dicts holds the one before it twice
LAUGHS = tb.PROTO + b"Nq\x000" + b"".join(
    b"}(" + tb.text("a") + b"h\x00" + tb.text("b") + b"h\x00uq\x000" for _ in range(40)
) + b"h\x00."  # fmt: skip
LONG_NAMES = tb.PROTO + b"}(" + tb.text("k" * 10_000) + b"](" + b"N" * 5_000 + b"eu."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4", "no end of a zip archive"),
        (b"\x80\x04N.", "expected a file of torch.save; other pickles are not read"),
        (b"cos\nsystem\n(S'true'\ntR.", "expected a file of torch.save"),
        (tb.archive(GOOD, folder="a").replace(b"a/data.pkl", b"a/data.pkx"), "0 files data.pkl"),
        (tb.archive(GOOD, {}), "storage '0': no bytes, expected 48"),
        (tb.archive(GOOD, {"0": b"x" * 47}), "storage '0': 47 bytes, expected 48"),
        (tb.archive(GOOD, {"1": b"x" * 48}), "storage '0': no bytes"),
        (tb.archive(GOOD, method=zipfile.ZIP_DEFLATED), "not compressed"),
        (tb.archive(GOOD, byteorder=b"big"), "byteorder is not 'little'"),
        (tb.archive(GOOD, byteorder=b"little" * 9), "byteorder is not 'little'"),
        (tb.archive(tb.state(a=tb.storage())), "'a' is a storage or a type"),
        (tb.archive(tb.state(a=tb.name("torch", "FloatStorage"))), "'a' is a storage or a type"),
        (tb.archive(SELF_LIST), "nested more than 16 deep"),
        (tb.archive(SELF_DICT), "nested more than 16 deep"),
        (tb.archive(LAUGHS), "nested more than 16 deep"),
        (tb.archive(LONG_NAMES), "characters of their names"),
        (tb.archive(tb.PROTO + b"}(K\x01N" + tb.text("1") + b"Nu."), "two values are called '1'"),
        (tb.archive(tb.PROTO + tb.text("x" * 5 * 2**20) + b"."), "data.pkl of 5242"),
        (tb.legacy(GOOD, version=1002), "protocol version 1002, expected 1001"),
        (tb.legacy(GOOD, machine={"little_endian": False}), "little_endian is not True"),
        (tb.legacy(GOOD, machine=5), "little_endian is not True"),
        (tb.legacy(GOOD, keys={}), "no list of storage keys"),
        (tb.legacy(GOOD, keys=[5]), "no list of storage keys"),
        (tb.legacy(GOOD, keys=["0", "0"]), "'0' is listed twice"),
        (tb.legacy(GOOD, keys=["7"]), "listed twice, or no tensor uses it"),
        (tb.legacy(GOOD, keys=[]), "storage '0' is not in the file"),
        (tb.legacy(GOOD, storages=b""), "is cut off"),
        (tb.legacy(GOOD, storages=struct.pack("<q", 12) + b"x" * 47), "is cut off"),
        (tb.legacy(GOOD, storages=struct.pack("<q", 11) + b"x" * 48), "another size"),
        (tb.legacy(GOOD, storages=struct.pack("<q", -1) + b"x" * 48), "another size"),
    ],
)
def test_hostile_files(tmp_path, data, message):
    path = written(tmp_path, data)
    with pytest.raises(ValueError, match=message) as err:
        read_all(path)
    assert str(path) in str(err.value)


def test_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "_MAX_VALUES", 100)
    with pytest.raises(ValueError, match="more than 100 values"):
        open_torch(written(tmp_path, tb.archive(tb.PROTO + b"](" + b"N" * 101 + b"e.")))


def test_a_storage_beyond_the_file_takes_no_memory(tmp_path):
    big = tb.state(a=tb.tensor(shape=(2**20, 2**20), strides=(2**20, 1), of=tb.storage(size=2**40)))
    for data in both_layouts(big):
        path = written(tmp_path, data)
        with bounded_memory(2**22), pytest.raises(ValueError, match=r"expected 4398|cut off"):
            open_torch(path)["a"]


def assert_opens_or_refuses(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    message = None
    with bounded_memory(2**25):  # a legacy file's first 8 MiB are copied
        try:
            opened = open_torch(path)
            for name in opened:
                assert opened[name].data.sum() >= 0
        except ALLOWED as err:
            message = str(err)
    assert message is None or str(path) in message
    return message is None


@pytest.mark.parametrize("layout", [0, 1])
def test_mutations(tmp_path, layout):
    data = both_layouts(tb.state(a=tb.tensor(), b=tb.tensor((4, 3), (1, 4))))[layout]
    results = [
        assert_opens_or_refuses(tmp_path / "x", each)
        for each in mutations(data, 500, head=len(data))
    ]
    assert not all(results)


@pytest.mark.parametrize("file", ["zip.pt", "legacy_parameter.pt"])
def test_every_truncation_is_refused(tmp_path, file):
    data = (GOLDEN / file).read_bytes()
    for length in range(len(data)):
        assert not assert_opens_or_refuses(tmp_path / "x", data[:length])


@pytest.mark.parametrize("file", ["zip.pt", "openprompt.ckpt"])
def test_a_flipped_bit_in_an_archive_changes_no_number(tmp_path, file):
    """Every entry has a checksum: bits outside them (padding, dates) are all that may flip."""
    data = (GOLDEN / file).read_bytes()
    whole = {name: array(open_torch(GOLDEN / file)[name]) for name in open_torch(GOLDEN / file)}
    for where in range(0, len(data), 3):
        changed = bytearray(data)
        changed[where] ^= 1 << (where % 8)
        if assert_opens_or_refuses(tmp_path / "x", bytes(changed)):
            opened = open_torch(tmp_path / "x")
            assert set(opened) == set(whole)
            for name, values in whole.items():
                np.testing.assert_array_equal(array(opened[name]), values)
