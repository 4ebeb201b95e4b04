"""Cohere's Command R and Command R7B: parallel residuals after one LayerNorm without a bias,
rotation of neighbouring channels, scaled logits. Command R7B (Cohere 2) rotates in windowed layers
alone.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import (
    ACTIVATIONS,
    FULL,
    SLIDING,
    gguf_layer_types,
    gguf_number,
    gguf_rotary_dim,
    layer_windows,
    per_layer,
    read_gguf_sizes,
    read_layer_types,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import RopeReader, read_gguf_rope
from softprompt.families.spec import Family, Spec, View, check_spec
from softprompt.families.tables import GGUF_NAMES, LLAMA_NAMES, table

_COHERE = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "logit_scale": 0.0625,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "cohere": _COHERE | {"use_qk_norm": False},
    "cohere2": _COHERE | {"sliding_window": 4096, "sliding_window_pattern": 4},
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

_ROPES = {"cohere": RopeReader(theta=500000.0), "cohere2": RopeReader()}


def _heads(spec: Spec) -> View:
    return View(split=spec.head_dim)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a Cohere or Cohere 2.

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
    sizes = read_sizes(fields, head_dim=None)
    reader = _ROPES[model_type]
    rope, _, context = reader.read(fields, sizes["max_positions"], sizes["head_dim"])
    sizes["max_positions"] = context
    switches: dict[str, Any] = {}
    if model_type == "cohere":
        switches["qk_norm"] = "heads" if fields.flag("use_qk_norm") else "none"
    else:
        layers = sizes["num_layers"]
        pattern = fields.integer("sliding_window_pattern")
        usual = [SLIDING if (i + 1) % pattern else FULL for i in range(layers)]
        kinds = read_layer_types(fields, layers, usual)
        if fields.get("sliding_window") is None:  # then no layer is rotated
            kinds = [FULL] * layers
        switches |= _windowed(fields, kinds, context, "sliding_window")
    bias = fields.flag("attention_bias")
    return _spec(
        where,
        model_type,
        sizes,
        **switches,
        intermediate_size=fields.integer("intermediate_size"),
        norm_eps=fields.number("layer_norm_eps"),
        activation=fields.choice("hidden_act", ACTIVATIONS),
        logit_scale=fields.number("logit_scale"),
        rope=rope,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        output_bias=bias,
    )


def _windowed(fields: Fields, kinds: list[str], context: int, key: str) -> dict[str, Any]:
    return {
        "windows": layer_windows(fields, kinds, context, key),
        "ropes": per_layer([0 if kind == SLIDING else -1 for kind in kinds]),
    }


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architectures ``command-r`` and ``cohere2``.

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
    key = "attention.sliding_window"
    refuse_gguf_switches(fields, "logit_scale", *((key,) if architecture == "cohere2" else ()))
    sizes = read_gguf_sizes(fields)
    if gguf_rotary_dim(fields, sizes["head_dim"]) != sizes["head_dim"]:
        raise fields.error("rope.dimension_count", f"the size of a head ({sizes['head_dim']})")
    switches: dict[str, Any] = {}
    if architecture == "cohere2":
        kinds = gguf_layer_types(fields, sizes["num_layers"], 4)
        switches |= _windowed(fields, kinds, sizes["max_positions"], key)
    else:
        normed = "blk.0.attn_q_norm.weight" in tensors
        switches["qk_norm"] = "heads" if normed else "none"
    return _spec(
        where,
        "cohere" if architecture == "command-r" else architecture,
        sizes,
        **switches,
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        activation="silu",
        logit_scale=gguf_number(fields, "logit_scale", 1.0),
        rope=read_gguf_rope(fields),
        tied="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
    )


def _spec(where: str, model_type: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="layer",
        positions="rotary",
        rotary_dim=sizes["head_dim"],
        rope_interleaved=True,
        gated=True,
        parallel_residual=True,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family=model_type,
        **given,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=tuple(DEFAULTS),
    architectures=("command-r", "cohere2"),
    slots=table(
        LLAMA_NAMES | {"mlp_norm": LLAMA_NAMES["attn_norm"]},
        gguf={"mlp_norm": GGUF_NAMES["attn_norm"]},
        hf_views={"q_norm": _heads, "k_norm": _heads},
        gguf_views={"q_norm": _heads, "k_norm": _heads},
    ),
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("model.", ""),
    hf_ignored=(r"rotary_emb\.inv_freq",),
)
