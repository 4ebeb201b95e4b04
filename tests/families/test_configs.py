"""config.json as transformers 4 and 5 write it, and switches that are not computed."""

from __future__ import annotations

import pytest

from softprompt.families import family_of, from_gguf, read_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 20, "n_layer": 2, "n_head": 4}
MISTRAL = LLAMA | {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None}
QWEN2 = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 2}


def read(config, **changes):
    return read_config(config | changes, "config.json")


def test_absent_keys_are_what_transformers_assumes():
    spec = read(LLAMA)
    assert (spec.num_kv_heads, spec.head_dim, spec.norm_eps) == (4, 8, 1e-6)
    assert (spec.activation, spec.tied, spec.rope.theta) == ("silu", False, 10000.0)
    assert spec.attention_scale == 8**-0.5
    spec = read(GPT2)
    assert (spec.intermediate_size, spec.max_positions, spec.activation) == (80, 1024, "gelu_tanh")
    assert (spec.tied, spec.norm_eps) == (True, 1e-5)
    assert read({"model_type": "mistral"}, sliding_window=None).num_kv_heads == 8
    assert read({"model_type": "gpt2"}).vocab_size == 50257


def test_null_stands_for_the_derived_value():
    spec = read(MISTRAL, num_key_value_heads=None, head_dim=None)
    assert (spec.num_kv_heads, spec.head_dim) == (4, 8)
    assert read(GPT2, n_inner=None).intermediate_size == 80


def test_rotary_base_of_both_versions():
    version4 = read(LLAMA, rope_theta=5e5, rope_scaling=None)
    version5 = read(LLAMA, rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    assert version4 == version5
    assert version4.rope.theta == 5e5


def test_scalings_of_both_versions():
    llama3 = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    version4 = read(LLAMA, rope_theta=5e5, rope_scaling=llama3 | {"rope_type": "llama3"})
    inner = llama3 | {"rope_type": "llama3", "rope_theta": 5e5}
    assert read(LLAMA, rope_parameters=inner) == version4
    assert version4.rope.scaling == "llama3"
    old = read(LLAMA, rope_scaling={"type": "linear", "factor": 2})
    assert (old.rope.scaling, old.rope.factor) == ("linear", 2.0)


def test_biases():
    spec = read(LLAMA, attention_bias=True, mlp_bias=True)
    assert (spec.qkv_bias, spec.output_bias, spec.mlp_bias) == (True, True, True)
    spec = read(QWEN2)
    assert (spec.qkv_bias, spec.output_bias, spec.mlp_bias, spec.family) == (
        (True, False, False, "qwen2")
    )
    # transformers' Mistral has no such switch, whatever its config says.
    assert not read(MISTRAL, attention_bias=True).qkv_bias


def test_windows_that_no_text_is_longer_than():
    assert read(MISTRAL, sliding_window=128).windows == ()
    assert read(QWEN2, sliding_window=16, use_sliding_window=False).windows == ()
    assert (
        read(QWEN2, sliding_window=16, use_sliding_window=True, max_window_layers=3).windows == ()
    )
    kinds = ["full_attention"] * 3
    given = read(QWEN2, sliding_window=16, use_sliding_window=True, layer_types=kinds)
    assert given.windows == ()


def test_windows():
    assert read(MISTRAL, sliding_window=127).windows == (127,) * 3
    switches = {"sliding_window": 16, "use_sliding_window": True}
    assert read(QWEN2, **switches, max_window_layers=1).windows == (0, 16, 16)
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    assert read(QWEN2, **switches, layer_types=kinds).windows == (16, 0, 0)


def test_gpt2_by_the_other_names():
    config = {"model_type": "gpt2", "vocab_size": 61, "hidden_size": 20, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "max_position_embeddings": 1024}
    assert read(config) == read(GPT2)


def test_scale_of_gpt2_can_be_off():
    assert read(GPT2, scale_attn_weights=False).attention_scale == 1.0


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (
            LLAMA,
            {"model_type": "llama4"},
            "model_type is 'llama4', expected one of .*gpt2, ",
        ),
        (LLAMA, {"model_type": None}, "model_type is None"),
        (LLAMA, {"hidden_act": "xielu"}, "hidden_act is 'xielu', expected one of"),
        (LLAMA, {"hidden_act": ["silu"]}, "hidden_act"),
        (LLAMA, {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        (LLAMA, {"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope_type 'ntk'"),
        (LLAMA, {"rope_scaling": {"type": ["linear"], "factor": 2.0}}, r"rope_type \['linear'\]"),
        (LLAMA, {"rope_parameters": {"rope_type": "yarn"}}, "factor is None"),
        (LLAMA, {"rope_parameters": {"mrope_section": [4, 4]}}, "mrope_section is not known"),
        (LLAMA, {"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is None"),
        (LLAMA, {"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor is -1"),
        (LLAMA, {"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
        (LLAMA, {"rope_parameters": {"full_attention": {}}}, "by layer type"),
        (LLAMA, {"rope_theta": 0}, "rope_theta is 0"),
        (LLAMA, {"rope_theta": 10**400}, "rope_theta"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (LLAMA, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (MISTRAL, {"sliding_window": 0}, "sliding_window is 0"),
        (QWEN2, {"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types"),
        (QWEN2, {"use_sliding_window": True, "layer_types": ["chunked_attention"] * 3}, "chunked"),
        (LLAMA, {"num_attention_heads": 5}, "a multiple of num_attention_heads"),
        (LLAMA, {"num_key_value_heads": 3}, "groups of 3"),
        (LLAMA, {"head_dim": 7}, "even number"),
        (LLAMA, {"hidden_size": 2**31}, "hidden_size"),
        (LLAMA, {"hidden_size": -32}, "hidden_size is -32"),
        (LLAMA, {"hidden_size": True}, "hidden_size is True"),
        (LLAMA, {"hidden_size": "32"}, "hidden_size is '32'"),
        (LLAMA, {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        (LLAMA, {"num_hidden_layers": 10**5000}, "num_hidden_layers"),
        (LLAMA, {"num_attention_heads": 2**30, "head_dim": 2**20}, "too many"),
        (LLAMA, {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        (LLAMA, {"attention_bias": "yes"}, "attention_bias is 'yes', expected true or false"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2, {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention"),
        (GPT2, {"activation_function": "mish"}, "activation_function"),
        (GPT2, {"n_head": 3}, "n_embd is 20, expected a multiple of n_head"),
    ],
)
def test_what_is_not_computed_is_named(config, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(config, **changes)
    assert str(caught.value).startswith("config.json")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("config", [None, [], "llama", 3])
def test_config_that_is_no_object(config):
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_config(config, "config.json")


def test_slots_cover_the_tables():
    for config in (LLAMA, QWEN2, GPT2):
        spec = read(config)
        for kind in ("hf", "gguf"):
            slots = family_of(spec).bound_slots(spec, kind)
            names = [slot.name for slot in slots]
            assert len(set(names)) == len(names)
            assert names[0] == "embedding.weight"
            assert any(name.startswith(f"layers.{spec.num_layers - 1}.") for name in names)
            assert not any("{i}" in slot.name + slot.source for slot in slots)


def test_gguf_without_an_architecture():
    with pytest.raises(ValueError, match=r"general\.architecture is None"):
        from_gguf({}, "x.gguf")
