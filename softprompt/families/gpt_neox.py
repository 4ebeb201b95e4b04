"""GPT-NeoX and Pythia (Black et al., 2022, section 2): parallel residuals with a LayerNorm each, a
part of every head rotated; queries, keys and values head by head in one matrix.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import (
    ACTIVATIONS,
    gguf_rotary_dim,
    read_gguf_sizes,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import RopeReader, read_gguf_rope
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import by_group, stacked, table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

_ROPE = RopeReader(theta_key="rotary_emb_base", partial_key="rotary_pct", partial=0.25)
_Q, _K, _V = stacked("q", "kv", "kv")


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a GPT-NeoX.

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
    fields = Fields(config, where, DEFAULTS)
    sizes = read_sizes(fields, kv_heads=None, head_dim=None)
    rope, rotary_dim, context = _ROPE.read(fields, sizes["max_positions"], sizes["head_dim"])
    sizes["max_positions"] = context
    bias = fields.flag("attention_bias")
    return _spec(
        where,
        sizes,
        intermediate_size=fields.integer("intermediate_size"),
        norm_eps=fields.number("layer_norm_eps"),
        rotary_dim=rotary_dim,
        activation=fields.choice("hidden_act", ACTIVATIONS),
        parallel_residual=fields.flag("use_parallel_residual"),
        rope=rope,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        output_bias=bias,
    )


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architecture ``gptneox``.

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
    fields = Fields(metadata, where, {"use_parallel_residual": True}, prefix="gptneox.")
    refuse_gguf_switches(fields, "use_parallel_residual")
    sizes = read_gguf_sizes(fields)
    return _spec(
        where,
        sizes,
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        rotary_dim=gguf_rotary_dim(fields, sizes["head_dim"]),
        activation="gelu_erf",
        parallel_residual=fields.flag("use_parallel_residual"),
        rope=read_gguf_rope(fields),
        tied="output.weight" not in tensors,
        qkv_bias="blk.0.attn_qkv.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
    )


def _spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="layer",
        positions="rotary",
        rope_interleaved=False,
        gated=False,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="gpt_neox",
        mlp_bias=True,
        norm_bias=True,
        **given,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=("gpt_neox",),
    architectures=("gptneox",),
    slots=table(
        {
            "embedding": "embed_in",
            "attn_norm": "layers.{i}.input_layernorm",
            **dict.fromkeys("qkv", "layers.{i}.attention.query_key_value"),
            "o": "layers.{i}.attention.dense",
            "mlp_norm": "layers.{i}.post_attention_layernorm",
            "up": "layers.{i}.mlp.dense_h_to_4h",
            "down": "layers.{i}.mlp.dense_4h_to_h",
            "final_norm": "final_layer_norm",
            "head": "embed_out",
        },
        gguf=dict.fromkeys("qkv", "blk.{i}.attn_qkv"),
        hf_views={part: by_group(number) for number, part in enumerate("qkv")},
        gguf_views={"q": _Q, "k": _K, "v": _V},
    ),
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("gpt_neox.", ""),
    hf_ignored=(
        r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
        r"rotary_emb\.inv_freq",
    ),
)
