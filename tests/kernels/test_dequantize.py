"""Stored number formats against the `gguf` library: equal to the bit, not merely close.

Both multiply and add the same float32 numbers in the same order, so there is no rounding to allow
for. NaNs (from a scale that is NaN or infinite) are compared as NaNs: their payload is the CPU's.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from softprompt import _core

gguf = pytest.importorskip("gguf")
from stored_blocks import BLOCK_TYPES, SCALES, random_blocks  # noqa: E402

PATHS = [name for name in ("generic", "avx2", "avx512") if _core.cpu_supported(name)]


@pytest.fixture(autouse=True, params=PATHS)
def path(request):
    """Every kind of conversions that this CPU has."""
    _core.initialize(request.param)
    yield request.param
    _core.initialize(os.environ.get("SOFTPROMPT_CPU") or None)


def sizes(name: str) -> tuple[int, int]:
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]


def engine(name: str, raw: np.ndarray) -> np.ndarray:
    """The engine's numbers; the array around them shows writing out of bounds."""
    block_size, block_bytes = sizes(name)
    count = raw.size // block_bytes * block_size
    guarded = np.full(count + 32, 7.0, dtype=np.float32)
    _core.dequantize(name, raw, guarded[16:-16])
    assert (guarded[:16] == 7).all()
    assert (guarded[-16:] == 7).all()
    return guarded[16:-16].copy()


def oracle(name: str, raw: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        rows = raw.reshape(-1, sizes(name)[1])
        return gguf.dequantize(rows, gguf.GGMLQuantizationType[name]).reshape(-1)


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    nan = np.isnan(b)
    np.testing.assert_array_equal(np.isnan(a), nan)
    np.testing.assert_array_equal(a.view(np.uint32)[~nan], b.view(np.uint32)[~nan])


# 1: less than a task; 1024: one task exactly; 5001: several tasks and a rest
@pytest.mark.parametrize("count", [1, 3, 1024, 5001])
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_block_types_equal_gguf(name: str, count: int) -> None:
    raw = random_blocks(name, count, np.random.default_rng(count)).reshape(-1)
    assert_same_bits(engine(name, raw), oracle(name, raw))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_every_scale_and_any_bytes(name: str) -> None:
    rng = np.random.default_rng(5)
    raw = rng.integers(0, 256, (65536, sizes(name)[1]), dtype=np.uint8)
    for offset in SCALES[name]:  # every half-precision value: denormals, infinities, NaNs
        values = rng.permutation(65536).astype(np.uint16)
        raw[:, offset : offset + 2] = values.view(np.uint8).reshape(-1, 2)
    if raw.size > 8 << 20:
        raw = raw[::8].copy()
    assert_same_bits(engine(name, raw.reshape(-1)), oracle(name, raw.reshape(-1)))


def test_all_half_values() -> None:
    raw = np.arange(65536, dtype=np.uint16)
    with np.errstate(all="ignore"):
        expected = raw.view(np.float16).astype(np.float32)
    assert_same_bits(engine("F16", raw.view(np.uint8)), expected)


def test_all_bfloat16_values() -> None:
    raw = np.arange(65536, dtype=np.uint16)
    expected = raw.astype(np.uint32) << 16
    np.testing.assert_array_equal(engine("BF16", raw.view(np.uint8)).view(np.uint32), expected)
    assert_same_bits(engine("BF16", raw.view(np.uint8)), oracle("BF16", raw.view(np.uint8)))


@pytest.mark.parametrize("name", ["F16", "BF16", *BLOCK_TYPES])
def test_unaligned_source(name: str) -> None:
    rng = np.random.default_rng(2)
    block_bytes = sizes(name)[1]
    raw = rng.integers(0, 128, 40 * block_bytes + 1, dtype=np.uint8)
    aligned = raw[1:].copy()
    assert_same_bits(engine(name, raw[1:]), engine(name, aligned))
    assert_same_bits(engine(name, aligned), oracle(name, aligned))


@pytest.mark.parametrize("name", ["F16", "Q4_0", "Q6_K"])
def test_nothing_to_do(name: str) -> None:
    assert engine(name, np.empty(0, dtype=np.uint8)).size == 0


@pytest.mark.parametrize(
    ("num_bytes", "num_numbers"),
    [(17, 32), (19, 32), (18, 31), (18, 33), (36, 32), (18, 64), (0, 32), (18, 0)],
)
def test_sizes_that_do_not_fit(num_bytes: int, num_numbers: int) -> None:
    target = np.full(num_numbers, 7.0, dtype=np.float32)
    with pytest.raises(ValueError, match="Q4_0"):
        _core.dequantize("Q4_0", np.zeros(num_bytes, dtype=np.uint8), target)
    assert (target == 7).all()


def test_unknown_type() -> None:
    with pytest.raises(RuntimeError, match="Q9_9"):
        _core.dequantize("Q9_9", np.zeros(18, dtype=np.uint8), np.zeros(32, dtype=np.float32))
