"""GGUF files give the models of the Hugging Face folders that they were made of."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import tiny
from loading.gguf_files import write_gguf
from safetensors.numpy import load_file, save_file

import softprompt

IDS = [[1, 7, 30, 2, 55, 4, 19, 60], [3]]


@pytest.fixture(params=["llama", "llama-biases", "gpt2"])
def folder(request, tmp_path):
    return tiny.write_tiny(tmp_path / "folder", request.param)


def logits(model):
    return np.concatenate(model.logits(IDS))


def assert_equal_logits(first, second):
    # The same weights in another order of rows: only the rounding of sums differs. Logits go up to
    # 10, and three layers add their units in the last place (1e-6 there).
    np.testing.assert_allclose(logits(first), logits(second), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_same_model_and_same_fingerprint(folder, tmp_path, kind):
    file = write_gguf(folder, tmp_path / "model.gguf", kind=kind)
    if kind != "F32":  # the folder gets weights that the type holds exactly
        number = gguf.GGMLQuantizationType[kind]
        tensors = load_file(folder / "model.safetensors")
        for name, array in tensors.items():
            if array.ndim > 1:
                packed = gguf.quants.quantize(array, number)
                tensors[name] = gguf.quants.dequantize(packed, number).reshape(array.shape)
        save_file(tensors, folder / "model.safetensors")
    from_folder, from_file = softprompt.load_model(folder), softprompt.load_model(file)
    assert_equal_logits(from_file, from_folder)
    assert from_file.fingerprint == from_folder.fingerprint


def test_qwen2(tmp_path):
    changes = {"model_type": "llama", "attention_bias": True, "head_dim": 4}
    folder = tiny.write_tiny(tmp_path / "folder", "llama", changes=changes)
    tensors = load_file(folder / "model.safetensors")
    tensors = {k: v for k, v in tensors.items() if not k.endswith("o_proj.bias")}
    save_file(tensors, folder / "model.safetensors")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        text.replace('"model_type": "llama"', '"model_type": "qwen2"')
    )
    model = softprompt.load_model(folder)
    assert model.config.family == "qwen2"
    assert not model.spec.output_bias
    from_file = softprompt.load_model(write_gguf(folder, tmp_path / "model.gguf"))
    assert not from_file.spec.rope_interleaved
    np.testing.assert_array_equal(logits(from_file), logits(model))
    assert from_file.fingerprint == model.fingerprint


def test_quantised_types_of_the_engine_and_of_the_gguf_library(tmp_path):
    # Rows of 64 and 256 numbers, which all of these types can hold.
    changes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
    changes |= {"num_key_value_heads": 2, "head_dim": 16}
    folder = tiny.write_tiny(tmp_path / "folder", "llama", changes=changes)
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        model = softprompt.load_model(write_gguf(folder, tmp_path / f"{kind}.gguf", kind=kind))
        reader = gguf.GGUFReader(tmp_path / f"{kind}.gguf")
        stored = next(t for t in reader.tensors if t.name == "blk.1.ffn_gate.weight")
        expected = gguf.quants.dequantize(stored.data, stored.tensor_type)
        np.testing.assert_array_equal(model.weights["layers.1.gate.weight"], expected)


def test_rope_factors_divide_the_frequencies(tmp_path):
    folder = tiny.write_tiny(tmp_path / "folder", "llama")
    plain = softprompt.load_model(write_gguf(folder, tmp_path / "plain.gguf"))
    factors = np.array([1.0, 8.0], dtype=np.float32)
    file = write_gguf(folder, tmp_path / "scaled.gguf", extra={"rope_freqs.weight": factors})
    np.testing.assert_array_equal(
        softprompt.load_model(file).weights["rope.inv_freq"],
        plain.weights["rope.inv_freq"] / factors,
    )
    for bad, message in ((np.float32([1, 0]), "above 0"), (np.float32([1, 1, 1]), r"\[2\]")):
        file = write_gguf(folder, tmp_path / "bad.gguf", extra={"rope_freqs.weight": bad})
        with pytest.raises(ValueError, match=f"rope_freqs.weight.*{message}"):
            softprompt.load_model(file)


def test_head_that_repeats_the_embedding_is_tied(tmp_path):
    folder = tiny.write_tiny(tmp_path / "folder", "gpt2")
    embedding = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    tied = softprompt.load_model(write_gguf(folder, tmp_path / "a.gguf"))
    file = write_gguf(folder, tmp_path / "b.gguf", extra={"output.weight": embedding})
    assert softprompt.load_model(file).config.tie_word_embeddings
    assert softprompt.load_model(file).fingerprint == tied.fingerprint
    file = write_gguf(folder, tmp_path / "c.gguf", extra={"output.weight": 2 * embedding})
    separate = softprompt.load_model(file)
    assert not separate.config.tie_word_embeddings
    np.testing.assert_allclose(logits(separate), 2 * logits(tied), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": ("blk.1.attn_v.weight",)}, "'blk.1.attn_v.weight' is missing"),
        ({"extra": {"blk.0.attn_q_norm.weight": np.ones(4, np.float32)}}, "unexpected"),
        ({"extra": {"output_norm.weight": np.ones(5, np.float32)}}, r"shape \[5\].*\[24\]"),
        ({"extra": {"output_norm.weight": np.full(24, np.nan, np.float32)}}, "nan"),
        ({"metadata": {"llama.block_count": 4}}, "blk.3.attn_norm.weight"),
        ({"metadata": {"llama.block_count": 2**31}}, "llama.block_count"),
        ({"metadata": {"llama.embedding_length": 0}}, "llama.embedding_length"),
        ({"metadata": {"llama.expert_count": 8}}, "mixture of experts"),
        ({"metadata": {"llama.attention.sliding_window": 16}}, "windows"),
        ({"metadata": {"llama.attention.head_count_kv": 4}}, "groups"),
        ({"metadata": {"llama.attention.head_count_kv": [2, 2, 1]}}, "every layer"),
        ({"metadata": {"llama.rope.scaling.type": "ntk"}}, "'ntk'"),
        ({"metadata": {"llama.rope.dimension_count": 2}}, "rope.dimension_count"),
        ({"metadata": {"llama.context_length": None}}, "llama.context_length"),
        ({"metadata": {"llama.vocab_size": None}}, "llama.vocab_size"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts"),
        ({"metadata": {"split.count": [1, 2]}}, "split.count"),
        ({"metadata": {"llama.rope.scaling.type": [1, 2]}}, "rope.scaling.type"),
        ({"metadata": {"llama.expert_count": [0, 0]}}, "mixture of experts"),
        ({"metadata": {"llama.context_length": 2**31}}, r"llama.context_length.*16777216"),
        ({"metadata": {"llama.attention.layer_norm_rms_epsilon": float("inf")}}, "float32"),
        ({"metadata": {"tokenizer.ggml.model": [1.5, 2.5]}}, "tokenizer.ggml.model"),
        ({"metadata": {"tokenizer.ggml.tokens": 7, "llama.vocab_size": None}}, "vocab_size"),
        ({"metadata": {"tokenizer.ggml.model": "plamo2"}}, "tokenizer.ggml.model"),
    ],
)
def test_what_is_not_right_is_named(tmp_path, change, message):
    folder = tiny.write_tiny(tmp_path / "folder", "llama")
    file = write_gguf(folder, tmp_path / "model.gguf", **change)
    with pytest.raises(ValueError, match=message):
        softprompt.load_model(file)


def test_heads_listed_by_layer(tmp_path):
    folder = tiny.write_tiny(tmp_path / "folder", "llama")
    per_layer = {"llama.attention.head_count_kv": [2, 2, 2], "llama.feed_forward_length": [40] * 3}
    file = write_gguf(folder, tmp_path / "model.gguf", metadata=per_layer)
    assert_equal_logits(softprompt.load_model(file), softprompt.load_model(folder))


def test_linear_scaling(tmp_path):
    scaling = {"rope_scaling": {"type": "linear", "factor": 4.0}}
    folder = tiny.write_tiny(tmp_path / "folder", "llama", changes=scaling)
    expected = softprompt.load_model(folder)
    for metadata in (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scale_linear": 4.0},
    ):
        file = write_gguf(folder, tmp_path / "model.gguf", metadata=metadata)
        model = softprompt.load_model(file)
        assert_equal_logits(model, expected)
        assert model.fingerprint == expected.fingerprint


def test_unknown_architecture_is_named(tmp_path):
    folder = tiny.write_tiny(tmp_path / "folder", "llama")
    file = write_gguf(folder, tmp_path / "model.gguf")
    data = file.read_bytes().replace(b"llama", b"glama")
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"general\.architecture is 'glama', expected one of"):
        softprompt.load_model(file)
