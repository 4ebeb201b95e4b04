"""Inverse frequencies against those of transformers 5.23 with torch 2.13, to the bit.

The bytes were printed by ``LlamaRotaryEmbedding(config).inv_freq``; the SHA-256 stand for them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from softprompt.families.rope import Rope

CASES = {
    "default": (Rope(10000.0), 128),
    "smollm2": (Rope(100000.0), 64),
    "linear": (Rope(10000.0, "linear", 4.0), 128),
    "llama3.1": (Rope(500000.0, "llama3", 8.0, 1.0, 4.0, 8192), 128),
    "llama3.2": (Rope(500000.0, "llama3", 32.0, 1.0, 4.0, 8192), 64),
    "yarn": (
        Rope(
            10000.0,
            "yarn",
            8.0,
            original_context=2048,
            beta_fast=24.0,
            beta_slow=2.0,
            truncate=False,
        ),
        64,
    ),
    "longrope": (
        Rope(
            10000.0,
            "longrope",
            original_context=4096,
            short_factor=tuple(1.0 + 0.01 * k for k in range(48)),
            long_factor=(1.0,) * 48,
        ),
        96,
    ),
}
EXPECTED = {
    "default": "4b659c349432de9f79dd9cb4ee360c56e20be3809e01d4bbccbf2ebeae925c3d",
    "smollm2": "4dcfda84ce763abe24a92bbf6718c1b03753068a39a15aaf8ae5ac2fdc6ca266",
    "linear": "d04657744c7090f2cf0063d315915dcb4fbecaf4f380e35775f03a26855087d3",
    "llama3.1": "4ae228093081627907bb1abceaa696354a9d187a0202a20492a1105c1ade70e3",
    "llama3.2": "db702e51cd2b99eafedf1b5ded38fb2c5aa1a83425d232df24f8016e434e3bf3",
    "yarn": "8641534098301f662e0299ef42897a2666efa01765534b05c7858a37c0d54284",
    "longrope": "5734306de323de0b96c91070656da8608d51bd1fa47f8989c8c15ad1c14fa68e",
}


@pytest.mark.parametrize("name", CASES)
def test_to_the_bit(name):
    rope, dim = CASES[name]
    got = rope.inverse_frequencies(dim)
    assert got.dtype == np.float32
    assert got.shape == (dim // 2,)
    assert hashlib.sha256(got.astype("<f4").tobytes()).hexdigest() == EXPECTED[name]


def test_definition():
    got = Rope(10000.0).inverse_frequencies(8)
    np.testing.assert_allclose(got, 10000.0 ** (-np.arange(4) / 4), rtol=1e-7)
    np.testing.assert_array_equal(Rope(10000.0, "linear", 2.0).inverse_frequencies(8), got / 2)


def test_dynamic_grows_its_base_with_the_length():
    rope = Rope(10000.0, "dynamic", 2.0, original_context=4096)
    np.testing.assert_array_equal(rope.inverse_frequencies(128), Rope(1e4).inverse_frequencies(128))
    base = 10000.0 * (2 * 6000 / 4096 - 1) ** (128 / 126)
    got = rope.inverse_frequencies(128, rope.length_class(6000))
    np.testing.assert_allclose(got, base ** (-np.arange(64) / 64), rtol=3e-7)


def test_longrope_has_other_divisors_for_long_texts():
    factors = (1.0, 1.5), (2.0, 8.0)
    rope = Rope(
        100.0, "longrope", original_context=8, short_factor=factors[0], long_factor=factors[1]
    )
    plain = np.array([1.0, 0.1])
    for length, divisors in ((8, factors[0]), (9, factors[1])):
        got = rope.inverse_frequencies(4, rope.length_class(length))
        np.testing.assert_allclose(got, plain / divisors, rtol=3e-7)


def test_yarn_keeps_fast_channels_and_divides_slow_ones():
    rope = Rope(1e6, "yarn", 4.0, original_context=32768)
    plain, got = Rope(1e6).inverse_frequencies(128), rope.inverse_frequencies(128)
    turns = 32768 * plain.astype(np.float64) / (2 * np.pi)
    np.testing.assert_array_equal(got[turns > 40], plain[turns > 40])
    np.testing.assert_allclose(got[turns < 0.9], plain[turns < 0.9] / 4, rtol=3e-7)
    between = (turns < 30) & (turns > 1.2)
    assert np.all((got < plain)[between])
    assert np.all((got > plain / 4)[between])
