"""Every stored type that the reference library converts, to the bit; and what has no weights."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from softprompt.families import View
from softprompt.formats import StoredTensor, forget_pages
from softprompt.formats.ggml_types import GGML_TYPES
from softprompt.formats.mapped_file import map_file
from softprompt.model import weights
from softprompt.model.weights import materialise

# Types that the library has no conversion for: its own intermediate ones and integers.
NO_WEIGHTS = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64"}
TYPES = {name: sizes for name, *sizes in GGML_TYPES.values() if name not in NO_WEIGHTS | {"F64"}}


def random_tensor(name, rows, blocks):
    """Random bytes whose values are finite (scales are float16, so random ones may be NaN)."""
    size, width = TYPES[name]
    try:
        kind = gguf.GGMLQuantizationType[name]
        gguf.quants.dequantize(np.zeros((1, width), np.uint8), kind)
    except (KeyError, NotImplementedError):
        pytest.skip(f"the installed gguf library does not convert {name}")
    random = np.random.RandomState(0)
    good: list[np.ndarray] = []
    with np.errstate(all="ignore"):
        while len(good) < rows * blocks:
            block = random.randint(0, 256, width).astype(np.uint8)
            if np.isfinite(gguf.quants.dequantize(block[None], kind)).all():
                good.append(block)
        data = np.concatenate(good)
        values = gguf.quants.dequantize(data.reshape(rows, -1), kind)
    stored = StoredTensor("a.weight", name, (rows, blocks * size), data, "file.gguf")
    return stored, values.reshape(rows, blocks * size).astype(np.float32)


@pytest.mark.parametrize("name", TYPES)
def test_equals_the_reference_library(name, monkeypatch):
    stored, expected = random_tensor(name, rows=6, blocks=3)
    got = materialise(stored, View(), stored.shape)
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    monkeypatch.setattr(weights, "PANEL", 2 * stored.shape[1] + 1)  # two rows at a time
    part = materialise(stored, View(start=2, stride=6), (2, stored.shape[1]))
    np.testing.assert_array_equal(part, expected[2:4])
    by_head = materialise(stored, View(start=1, stride=3, blocks=2), (4, stored.shape[1]))
    np.testing.assert_array_equal(by_head, expected[[1, 2, 4, 5]])
    moved = materialise(stored, View(offset=1.0), stored.shape)
    np.testing.assert_array_equal(moved, expected + np.float32(1))
    turned = materialise(stored, View(transpose=True), stored.shape[::-1])
    np.testing.assert_array_equal(turned, expected.T)
    half = stored.shape[1] // 3
    turned = materialise(stored, View(transpose=True, start=2 * half, stride=3 * half), (half, 6))
    np.testing.assert_array_equal(turned, expected.T[2 * half :])
    view = View(transpose=True, start=half - 1, stride=half, blocks=3)
    turned = materialise(stored, view, (3, 6))
    np.testing.assert_array_equal(turned, expected.T[half - 1 :: half])


@pytest.mark.parametrize("name", [*sorted(NO_WEIGHTS), "BOOL", "U8", "F8_E4M3"])
def test_types_without_weights(name):
    stored = StoredTensor("a.weight", name, (1, 256), np.zeros(292, np.uint8), "file")
    with pytest.raises(ValueError, match=f"file: tensor 'a.weight' has type {name}"):
        materialise(stored, View(), (1, 256))


def test_parts_of_a_vector_of_blocks():
    stored, expected = random_tensor("Q8_0", rows=1, blocks=3)
    vector = StoredTensor("a.bias", "Q8_0", (96,), stored.data, "file.gguf")
    got = materialise(vector, View(start=24, stride=96), (24,))
    np.testing.assert_array_equal(got, expected[0, 24:48])


def test_unaligned_float32_is_copied():
    values = np.arange(12, dtype="<f4")
    data = np.frombuffer(b"x" + values.tobytes(), dtype=np.uint8)[1:]
    got = materialise(StoredTensor("a", "F32", (3, 4), data, "f"), View(), (3, 4))
    assert got.flags.aligned
    np.testing.assert_array_equal(got, values.reshape(3, 4))


@pytest.mark.parametrize("view", [View(), View(transpose=True)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_none(bad, view):
    values = np.zeros((5, 5), dtype=np.float16)
    values[3, 1] = bad
    stored = StoredTensor("a", "F16", (5, 5), values.reshape(-1).view(np.uint8), "f")
    place = "1, 3" if view.transpose else "3, 1"
    with pytest.raises(ValueError, match=rf"f: tensor 'a' holds -?(nan|inf) \(at \[{place}\]"):
        materialise(stored, view, (5, 5))


def test_float64_beyond_float32():
    data = np.array([1e300], dtype="<f8").view(np.uint8)
    with pytest.raises(ValueError, match="holds inf"):
        materialise(StoredTensor("a", "F64", (1,), data, "f"), View(), (1,))


def test_rare_types_name_the_extra(monkeypatch):
    stored = StoredTensor("a.weight", "Q1_0", (1, 128), np.zeros(18, np.uint8), "file.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"'a.weight' has type Q1_0.*softprompt\[gguf\]"):
        materialise(stored, View(), stored.shape)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_a_converted_tensor_leaves_no_pages_of_its_file_behind(tmp_path):
    path = tmp_path / "weights"
    values = np.linspace(-1, 1, 1 << 20, dtype=np.float16)
    path.write_bytes(b"a header" + values.tobytes() + b"a footer")
    mapped = map_file(path)
    data = mapped[8:-8]
    stored = StoredTensor("a.weight", "F16", (1024, 1024), data, str(path))
    assert data.sum() > 0
    assert resident_bytes(path) >= data.nbytes
    got = materialise(stored, View(), (1024, 1024))
    assert resident_bytes(path) <= 2**16
    np.testing.assert_array_equal(got, values.reshape(1024, 1024).astype(np.float32))
    np.testing.assert_array_equal(data.view(np.float16), values)  # the mapping is still there


def test_forgetting_what_is_no_mapping_does_nothing():
    array = np.arange(5, dtype=np.uint8)
    forget_pages(array[1:])
    np.testing.assert_array_equal(array, np.arange(5))


def resident_bytes(path) -> int:
    """Memory that the mapping of a file takes."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return 1024 * int(next(x for x in lines if x.startswith("Rss:")).split()[1])
    raise AssertionError(f"{path} is not mapped")
