"""GGUF files of all architectures that llama.cpp writes for the decoder families give the models of
the folders that they were made of.
"""

from __future__ import annotations

import decoders
import gguf
import numpy as np
import pytest
from loading.decoder_gguf import ARCHITECTURES, write_decoder_gguf
from safetensors.numpy import load_file, save_file

import softprompt

# What a GGUF cannot say, llama.cpp fixes: there the tiny configurations follow it.
CHANGES: dict[str, dict] = {
    "llama-llama3": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "mistral-whole": {},
    "qwen2-whole": {},
    "qwen3": {},
    "smollm3": {"num_hidden_layers": 5, "no_rope_layer_interval": 4},
    "granite": {},
    "granite-biases": {"hidden_act": "silu"},
    "gemma": {},
    "gemma-one-group": {"tie_word_embeddings": True, "attention_bias": False},
    "gemma2": {"query_pre_attn_scalar": 6},
    "gemma3": {"query_pre_attn_scalar": 6},
    "phi": {},
    "phi3": {},
    "phi4": {},
    "gpt_neox": {},
    "gpt_neox-sequential": {"hidden_act": "gelu", "attention_bias": True},
    "bloom": {},
    "bloom-older": {},
    "falcon": {},
    "falcon-groups": {"bias": False},
    "stablelm": {},
    "stablelm-parallel": {},
    "olmo": {},
    "olmo-unclipped": {"attention_bias": False},
    "olmo2": {},
    "olmo2-one-group": {"attention_bias": False},
    "cohere": {},
    "cohere2": {},
}


def files(tmp_path, name, kind="F32"):
    config = decoders.CONFIGS[name] | CHANGES[name]
    folder = decoders.write_decoder(
        tmp_path / "folder", config, decoders.table_shapes(config), seed=9
    )
    if kind != "F32":  # the folder gets weights that the type holds exactly
        number = gguf.GGMLQuantizationType[kind]
        tensors = load_file(folder / "model.safetensors")
        for slot, array in tensors.items():
            if array.ndim > 1 and "norm" not in slot:
                packed = gguf.quants.quantize(array, number)
                tensors[slot] = gguf.quants.dequantize(packed, number).reshape(array.shape)
        save_file(tensors, folder / "model.safetensors")
    return config, folder, write_decoder_gguf(folder, tmp_path / "model.gguf", config, kind=kind)


@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("name", list(CHANGES))
def test_same_model_and_same_fingerprint(tmp_path, name, kind):
    config, folder, file = files(tmp_path, name, kind)
    from_folder, from_file = softprompt.load_model(folder), softprompt.load_model(file)
    prompt = decoders.prompt(config, 4)
    texts = [i + t for i, t in decoders.examples(config)]
    for ours, theirs in zip(
        from_file.logits(texts, prompt), from_folder.logits(texts, prompt), strict=True
    ):
        # The same weights, some in another order of rows: only the rounding of sums differs.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert from_file.fingerprint == from_folder.fingerprint
    assert from_file.spec.tied == from_folder.spec.tied


def test_every_architecture_is_written():
    written = {decoders.CONFIGS[name]["model_type"] for name in CHANGES}
    assert written == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("gemma3", "attn_logit_softcapping", 3.0, "gemma3.attn_logit_softcapping is 3.0"),
        ("gemma", "attention.sliding_window", 8, "attention in windows"),
        ("qwen3", "expert_count", 8, "mixture of experts"),
        ("bloom", "attention.max_alibi_bias", 4.0, "ALiBi"),
        ("cohere2", "attention.sliding_window_pattern", [True], "sliding_window_pattern"),
        ("olmo", "attention.clamp_kqv", -1.0, "qkv_clip"),
        ("phi3", "rope.scaling.attn_factor", "much", "rope.scaling.attn_factor"),
        ("granite", "logit_scale", float("nan"), "logit_scale"),
        ("falcon", "logit_scale", 2.0, "scaled logits"),
        ("gpt_neox", "rope.dimension_count", 100, "rotated channels"),
    ],
)
def test_what_is_not_right_is_named(tmp_path, name, key, value, message):
    from loading import decoder_gguf

    metadata = decoder_gguf._metadata
    config, folder, _ = files(tmp_path, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_gguf, "_metadata", lambda c, s: metadata(c, s) | {key: value})
        file = write_decoder_gguf(folder, tmp_path / "bad.gguf", config)
    with pytest.raises(ValueError, match=message):
        softprompt.load_model(file)


def test_longrope_without_its_factors(tmp_path):
    from loading import decoder_gguf

    converted = decoder_gguf._converted
    config, folder, _ = files(tmp_path, "phi3")

    def without(*arguments):
        tensors = converted(*arguments)
        del tensors["rope_factors_short.weight"]
        return tensors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_gguf, "_converted", without)
        file = write_decoder_gguf(folder, tmp_path / "bad.gguf", config)
    with pytest.raises(ValueError, match=r"'rope_factors_short\.weight' is missing"):
        softprompt.load_model(file)
