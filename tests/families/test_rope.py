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
}
EXPECTED = {
    "default": "4b659c349432de9f79dd9cb4ee360c56e20be3809e01d4bbccbf2ebeae925c3d",
    "smollm2": "4dcfda84ce763abe24a92bbf6718c1b03753068a39a15aaf8ae5ac2fdc6ca266",
    "linear": "d04657744c7090f2cf0063d315915dcb4fbecaf4f380e35775f03a26855087d3",
    "llama3.1": "4ae228093081627907bb1abceaa696354a9d187a0202a20492a1105c1ade70e3",
    "llama3.2": "db702e51cd2b99eafedf1b5ded38fb2c5aa1a83425d232df24f8016e434e3bf3",
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
