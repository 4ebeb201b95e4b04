"""config.json of the decoder families: what transformers 4 and 5 write, absent keys, and switches
that are not computed.
"""

from __future__ import annotations

import pytest

from softprompt.families import FAMILIES, family_of, read_config

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def read(model_type, **changes):
    return read_config(SIZES | {"model_type": model_type} | changes, "config.json")


MODEL_TYPES = sorted(name for family in FAMILIES for name in family.model_types if name != "gemma3")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_configuration_of_defaults(model_type):
    """All keys are absent: transformers builds its default model, and so does softprompt."""
    spec = read_config({"model_type": model_type}, "config.json")
    family = family_of(spec)
    assert model_type in family.model_types
    slots = family.bound_slots(spec, "hf")
    assert len({slot.name for slot in slots}) == len(slots)
    assert any(slot.name == f"layers.{spec.num_layers - 1}.down.weight" for slot in slots)
    assert not any("{i}" in slot.source for slot in slots)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_dtype_of_both_versions_changes_nothing(model_type):
    base = read_config({"model_type": model_type}, "config.json")
    for key in ("torch_dtype", "dtype"):
        assert read_config({"model_type": model_type, key: "bfloat16"}, "config.json") == base


@pytest.mark.parametrize(
    ("model_type", "theta"),
    [
        ("llama", 1e4),
        ("smollm3", 2e6),
        ("granite", 1e4),
        ("gemma", 1e4),
        ("gemma2", 1e4),
        ("gemma3_text", 1e6),
        ("phi", 1e4),
        ("phi3", 1e4),
        ("gpt_neox", 1e4),
        ("gptj", 1e4),
        ("falcon", 1e4),
        ("stablelm", 1e4),
        ("olmo2", 1e4),
        ("cohere", 5e5),
        ("cohere2", 1e4),
    ],
)
def test_rotary_base_of_an_absent_key(model_type, theta):
    assert read_config({"model_type": model_type}, "config.json").rope.theta == theta


def test_rotary_parameters_of_both_versions():
    for model_type in ("llama", "mistral", "qwen2", "qwen3", "granite", "gemma2", "falcon", "olmo"):
        version4 = read(model_type, rope_theta=5e5, rope_scaling=None)
        inner = {"rope_theta": 5e5, "rope_type": "default"}
        assert read(model_type, rope_parameters=inner) == version4
        assert version4.rope.theta == 5e5
    version4 = read("phi", rope_theta=700.0, partial_rotary_factor=0.25)
    inner = {"rope_theta": 700.0, "rope_type": "default", "partial_rotary_factor": 0.25}
    assert read("phi", rope_parameters=inner) == version4
    assert version4.rotary_dim == 2
    version4 = read("gpt_neox", rotary_emb_base=700, rotary_pct=0.5)
    inner = {"rope_theta": 700, "rope_type": "default", "partial_rotary_factor": 0.5}
    assert read("gpt_neox", rope_parameters=inner) == version4
    assert version4.rotary_dim == 4


def test_gemma3_of_both_versions():
    old = read(
        "gemma3_text",
        head_dim=8,
        rope_theta=5e5,
        rope_local_base_freq=700.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window=16,
        sliding_window_pattern=2,
    )
    kinds = ["sliding_attention", "full_attention"] * 2
    new = read(
        "gemma3_text",
        head_dim=8,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
        },
        sliding_window=16,
        layer_types=kinds,
    )
    assert new == old
    assert (old.windows, old.ropes, old.num_ropes) == ((16, 0, 16, 0), (1, 0, 1, 0), 2)
    assert (old.rope.factor, old.local_rope.factor) == (8.0, 1.0)
    nested = {"model_type": "gemma3", "text_config": SIZES | {"head_dim": 8}}
    assert read_config(nested, "config.json") == read("gemma3_text", head_dim=8)


def test_scalings():
    yarn = read("llama", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert (yarn.rope.original_context, yarn.max_positions) == (128, 512)
    assert yarn.rope.scale == pytest.approx(1.138629436111989)  # 0.1 ln 4 + 1
    dynamic = read("llama", rope_scaling={"type": "dynamic", "factor": 2.0})
    assert (dynamic.rope.original_context, dynamic.max_positions) == (128, 256)
    assert [dynamic.rope.length_class(n) for n in (1, 128, 129)] == [0, 0, 129]
    lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    long = read(
        "phi3",
        original_max_position_embeddings=32,
        rope_scaling=lists | {"type": "su"},
    )
    assert [long.rope.length_class(n) for n in (32, 33, 128)] == [0, 1, 1]
    assert long.rope.scale == pytest.approx((1 + 2 / 5) ** 0.5)  # log 4 / log 32
    version5 = lists | {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 32,
    }
    given = {"original_max_position_embeddings": 32, "rope_parameters": version5}
    assert read("phi3", **given) == long


def test_layers_without_positions():
    assert read("smollm3").ropes == (0, 0, 0, -1)
    assert read("smollm3", no_rope_layers=[1, 0, 1, 1]).ropes == (0, -1, 0, 0)
    spec = read("cohere2", sliding_window=16, sliding_window_pattern=2)
    assert (spec.ropes, spec.windows) == ((0, -1, 0, -1), (16, 0, 16, 0))


def test_falcon_old_and_new():
    old = read("falcon")
    assert (old.num_kv_heads, old.parallel_residual, old.layout) == (1, True, ())
    new = read("falcon", new_decoder_architecture=True, num_kv_heads=2)
    assert (new.num_kv_heads, new.layout) == (2, ("two norms",))
    rw = read("falcon", alibi=True, multi_query=False, parallel_attn=False, bias=True)
    assert (rw.positions, rw.num_kv_heads, rw.parallel_residual) == ("alibi", 4, False)


def test_opt_after_and_before():
    assert read("opt").norm_place == "pre"
    spec = read("opt", do_layer_norm_before=False)
    assert (spec.norm_place, spec.final_norm) == ("post", False)


def test_gemmas_first_activation():
    assert read("gemma", hidden_act="gelu").activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1.0}}, "rope_theta is not known"),
        ("gemma3_text", {"rope_parameters": {"full_attention": 3}}, "full_attention is 3"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim is 16"),
        ("opt", {"enable_bias": 1}, "enable_bias is 1"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm is True"),
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 4}, "slow_but_exact is True"),
        ("bloom", {"seq_length": 2**20}, "at most 65536 with ALiBi"),
        ("bloom", {"num_attention_heads": 3}, "a multiple of n_head"),
        ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn"),
        ("falcon", {"multi_query": False, "num_kv_heads": 2}, "num_kv_heads is 2"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "attention_types"),
        ("gpt_neo", {"attention_types": [["global", 24]]}, "attention_types"),
        ("gpt_neo", {"attention_types": [[["random"], 24]]}, "attention_types"),
        ("gpt_neo", {"attention_types": [[["global"], 10**9]]}, "attention_types"),
        ("gptj", {"rotary_dim": None, "n_embd": 32}, "rotary_dim is None"),
        ("gptj", {"rotary_dim": 300}, "rotary_dim is 300"),
        ("gptj", {"rotary_dim": 7}, "even number"),
        ("phi", {"partial_rotary_factor": 0.4}, "partial_rotary_factor is 0.4"),
        ("phi", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ("phi3", {"rope_scaling": {"type": "longrope"}}, "short_factor is None"),
        (
            "phi3",
            {"rope_scaling": {"type": "su", "short_factor": [1.0] * 4, "long_factor": [0.0] * 4}},
            "long_factor",
        ),
        ("stablelm", {"qk_layernorm": "yes"}, "qk_layernorm is 'yes'"),
        ("olmo", {"clip_qkv": -1.0}, "clip_qkv is -1.0"),
        ("olmo2", {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ("granite", {"logits_scaling": 0}, "logits_scaling is 0"),
        ("granite", {"residual_multiplier": "1"}, "residual_multiplier is '1'"),
        ("cohere", {"use_qk_norm": None, "logit_scale": None}, "use_qk_norm is None"),
        ("cohere2", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ("smollm3", {"no_rope_layers": [1, 2, 1, 1]}, "no_rope_layers"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        ("qwen3", {"attention_bias": "no"}, "attention_bias is 'no'"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 0.5}}, "beta_fast"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 1e39}}, "factor is 1e"),
    ],
)
def test_what_is_not_computed_is_named(model_type, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(model_type, **changes)
    assert str(caught.value).startswith("config.json")
    assert len(str(caught.value)) < 500


def test_gemma3_without_its_text():
    with pytest.raises(ValueError, match="text_config is None"):
        read_config({"model_type": "gemma3"}, "config.json")
