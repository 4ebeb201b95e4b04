"""OLMo and OLMo 2 (Groeneveld et al., 2024, section 2.1; OLMo Team, 2024, "2 OLMo 2 Furious",
section 2.1).

OLMo has LayerNorms without weights and may clamp queries, keys and values; OLMo 2 has RMSNorms
after the halves of a layer, and over all queries and all keys of a row.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import (
    ACTIVATIONS,
    gguf_number,
    gguf_rotary_dim,
    read_gguf_sizes,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import RopeReader, read_gguf_rope
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import LLAMA_NAMES, table

_OLMO = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {"olmo": _OLMO, "olmo2": _OLMO | {"rms_norm_eps": 1e-5}}
"""What transformers assumes for keys that ``config.json`` leaves out."""

_ROPE = RopeReader()


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of an OLMo.

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
    model_type = config["model_type"]
    fields = Fields(config, where, DEFAULTS[model_type])
    sizes = read_sizes(fields)
    rope, _, context = _ROPE.read(fields, sizes["max_positions"], sizes["head_dim"])
    sizes["max_positions"] = context
    switches: dict[str, Any] = {}
    if model_type == "olmo2":
        switches["norm_eps"] = fields.number("rms_norm_eps")
    elif fields.get("clip_qkv") is not None:
        switches["qkv_clip"] = fields.number("clip_qkv")
    bias = fields.flag("attention_bias")
    return _spec(
        where,
        model_type,
        sizes,
        **switches,
        intermediate_size=fields.integer("intermediate_size"),
        activation=fields.choice("hidden_act", ACTIVATIONS),
        rope_interleaved=False,
        rope=rope,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        output_bias=bias,
    )


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architectures ``olmo`` and ``olmo2``.

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
    architecture = metadata["general.architecture"]
    fields = Fields(metadata, where, prefix=architecture + ".")
    refuse_gguf_switches(fields, *(("attention.clamp_kqv",) if architecture == "olmo" else ()))
    sizes = read_gguf_sizes(fields)
    if gguf_rotary_dim(fields, sizes["head_dim"]) != sizes["head_dim"]:
        raise fields.error("rope.dimension_count", f"the size of a head ({sizes['head_dim']})")
    if architecture == "olmo":
        switches = {"qkv_clip": gguf_number(fields, "attention.clamp_kqv", 0.0)}
    else:
        switches = {"norm_eps": fields.number("attention.layer_norm_rms_epsilon")}
    return _spec(
        where,
        architecture,
        sizes,
        **switches,
        activation="silu",
        rope_interleaved=architecture == "olmo",  # its rows of q and k are permuted as Llama's
        rope=read_gguf_rope(fields),
        tied="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
    )


def _spec(where: str, model_type: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    switches: dict[str, Any] = {"norm": "layer", "norm_eps": 1e-5, "norm_weights": False}
    if model_type == "olmo2":
        switches = {"norm": "rms", "norm_place": "output", "qk_norm": "whole"}
    spec = Spec(
        **sizes,
        **(switches | given),
        positions="rotary",
        rotary_dim=sizes["head_dim"],
        gated=True,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family=model_type,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=tuple(DEFAULTS),
    architectures=("olmo", "olmo2"),
    slots=table(
        LLAMA_NAMES
        | {
            "attn_out_norm": "layers.{i}.post_attention_layernorm",
            "mlp_out_norm": "layers.{i}.post_feedforward_layernorm",
        }
    ),
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("model.", ""),
)
