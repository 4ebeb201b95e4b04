"""Phi 1, 1.5 and 2 (Li et al., 2023, section 2): parallel residuals after one LayerNorm, half of
every head rotated, biases everywhere. Phi 3 and 4 (Abdin et al., 2024, section 2): Llama's layer
with queries, keys and values in one matrix, gate and up in another, and LongRoPE.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import (
    ACTIVATIONS,
    FULL,
    SLIDING,
    gguf_number,
    gguf_rotary_dim,
    layer_windows,
    read_gguf_sizes,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import Rope, RopeReader, longrope_scale, read_gguf_rope
from softprompt.families.spec import WHOLE, Family, Spec, check_spec
from softprompt.families.tables import GGUF_NAMES, LLAMA_NAMES, stacked, table

PHI_DEFAULTS: dict[str, Any] = {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "qk_layernorm": False,
}
PHI3_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": None,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

_PHI_ROPE = RopeReader(partial_key="partial_rotary_factor", partial=0.5)
_PHI3_ROPE = RopeReader(
    partial_key="partial_rotary_factor",
    scalings=("default", "longrope"),
    renamed=(("su", "longrope"), ("yarn", "longrope")),
)

_Q, _K, _V = stacked("q", "kv", "kv")
_GATE, _UP = stacked("f", "f")
_QKV_VIEWS = {"q": _Q, "k": _K, "v": _V}


def read_phi(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a Phi 1, 1.5 or 2.

    Parameters
    ----------
    config : mapping
        As transformers 4 or 5 writes it.
    where : str
        The file's name, for messages.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        A value out of range, or a switch that changes the function and is not computed here.
    """
    fields = Fields(config, where, PHI_DEFAULTS)
    sizes = read_sizes(fields)
    rope, rotary_dim, context = _PHI_ROPE.read(fields, sizes["max_positions"], sizes["head_dim"])
    sizes["max_positions"] = context
    normed = fields.flag("qk_layernorm")
    return _phi_spec(
        where,
        sizes,
        intermediate_size=fields.integer("intermediate_size"),
        norm_eps=fields.number("layer_norm_eps"),
        rotary_dim=rotary_dim,
        activation=fields.choice("hidden_act", ACTIVATIONS),
        rope=rope,
        tied=fields.flag("tie_word_embeddings"),
        qk_norm="head" if normed else "none",
        qk_norm_bias=normed,
    )


def read_phi2_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architecture ``phi2``.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.
    tensors : container of str
        Names of the file's tensors.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        As `read_config`.
    """
    fields = Fields(metadata, where, prefix="phi2.")
    refuse_gguf_switches(fields)
    sizes = read_gguf_sizes(fields)
    return _phi_spec(
        where,
        sizes,
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        rotary_dim=gguf_rotary_dim(fields, sizes["head_dim"]),
        activation="gelu_tanh",
        rope=read_gguf_rope(fields),
        tied="output.weight" not in tensors,
        layout=("fused",) if "blk.0.attn_qkv.weight" in tensors else (),
    )


def _phi_spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="layer",
        positions="rotary",
        rope_interleaved=False,
        gated=False,
        parallel_residual=True,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="phi",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        norm_bias=True,
        **given,
    )
    return check_spec(spec, where)


def read_phi3(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a Phi 3 or 4.

    Parameters
    ----------
    config : mapping
        As transformers 4 or 5 writes it.
    where : str
        The file's name, for messages.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        A value out of range, or a switch that changes the function and is not computed here.
    """
    fields = Fields(config, where, PHI3_DEFAULTS)
    sizes = read_sizes(fields)
    rope, rotary_dim, context = _PHI3_ROPE.read(fields, sizes["max_positions"], sizes["head_dim"])
    kind = FULL if fields.get("sliding_window") is None else SLIDING
    return _phi3_spec(
        where,
        sizes,
        intermediate_size=fields.integer("intermediate_size"),
        norm_eps=fields.number("rms_norm_eps"),
        rotary_dim=rotary_dim,
        activation=fields.choice("hidden_act", ACTIVATIONS),
        rope=rope,
        tied=fields.flag("tie_word_embeddings"),
        windows=layer_windows(fields, [kind] * sizes["num_layers"], context),
    )


def read_phi3_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architecture ``phi3``.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.
    tensors : container of str
        Names of the file's tensors.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        As `read_config`.
    """
    fields = Fields(metadata, where, prefix="phi3.")
    key = "attention.sliding_window"
    refuse_gguf_switches(fields, key)
    sizes = read_gguf_sizes(fields)
    kind = FULL if fields.get(key) in (None, 0) else SLIDING
    rope = read_gguf_rope(fields)
    if "rope_factors_long.weight" in tensors:
        original = fields.integer("rope.scaling.original_context_length")
        usual = longrope_scale(sizes["max_positions"] / original, original)
        scale = gguf_number(fields, "rope.scaling.attn_factor", usual)
        rope = Rope(rope.theta, "longrope", original_context=original, scale=scale)
    return _phi3_spec(
        where,
        sizes,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        rotary_dim=gguf_rotary_dim(fields, sizes["head_dim"]),
        activation="silu",
        rope=rope,
        tied="output.weight" not in tensors,
        windows=layer_windows(fields, [kind] * sizes["num_layers"], sizes["max_positions"], key),
    )


def _phi3_spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="rms",
        positions="rotary",
        rope_interleaved=False,
        gated=True,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="phi3",
        **given,
    )
    return check_spec(spec, where)


def _fused(name: str) -> Any:
    return lambda spec: "blk.{i}.attn_qkv" if "fused" in spec.layout else name


def _fused_view(view: Any) -> Any:
    return lambda spec: view(spec) if "fused" in spec.layout else WHOLE


PHI = Family(
    model_types=("phi",),
    architectures=("phi2",),
    slots=table(
        {
            "embedding": "embed_tokens",
            "attn_norm": "layers.{i}.input_layernorm",
            "q": "layers.{i}.self_attn.q_proj",
            "k": "layers.{i}.self_attn.k_proj",
            "v": "layers.{i}.self_attn.v_proj",
            "q_norm": "layers.{i}.self_attn.q_layernorm",
            "k_norm": "layers.{i}.self_attn.k_layernorm",
            "o": "layers.{i}.self_attn.dense",
            "mlp_norm": "layers.{i}.input_layernorm",
            "up": "layers.{i}.mlp.fc1",
            "down": "layers.{i}.mlp.fc2",
            "final_norm": "final_layernorm",
            "head": "lm_head",
        },
        gguf={
            "mlp_norm": GGUF_NAMES["attn_norm"],
            **{part: _fused(f"blk.{{i}}.attn_{part}") for part in "qkv"},
        },
        gguf_views={part: _fused_view(view) for part, view in _QKV_VIEWS.items()},
    ),
    read_config=read_phi,
    read_gguf=read_phi2_gguf,
    hf_prefixes=("model.", ""),
    hf_ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)

PHI3 = Family(
    model_types=("phi3",),
    architectures=("phi3",),
    slots=table(
        {name: hf for name, hf in LLAMA_NAMES.items() if name not in ("q_norm", "k_norm")}
        | dict.fromkeys("qkv", "layers.{i}.self_attn.qkv_proj")
        | dict.fromkeys(("gate", "up"), "layers.{i}.mlp.gate_up_proj"),
        gguf=dict.fromkeys("qkv", "blk.{i}.attn_qkv")
        | dict.fromkeys(("gate", "up"), "blk.{i}.ffn_up"),
        hf_views={**_QKV_VIEWS, "gate": _GATE, "up": _UP},
        gguf_views={**_QKV_VIEWS, "gate": _GATE, "up": _UP},
    ),
    read_config=read_phi3,
    read_gguf=read_phi3_gguf,
    hf_prefixes=("model.", ""),
    hf_ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    gguf_ignored=(r"rope_factors_(long|short)\.weight",),
)
