"""Gemma 1, 2 and 3 (text): RMSNorms whose weight is stored without its 1, scaled embeddings, a
gated MLP with GELU (Gemma Team, 2024, section 2; "Gemma 2", section 2; 2025, "Gemma 3", section 2).

Gemma 2 has norms on both sides of a layer's halves, soft caps and windows in every second layer;
Gemma 3 has norms of queries and keys instead of caps, and two sets of rotary frequencies.
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
    layer_windows,
    per_layer,
    read_gguf_sizes,
    read_layer_types,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import Rope, RopeReader, read_gguf_rope
from softprompt.families.spec import Family, Spec, View, check_spec
from softprompt.families.tables import LLAMA_NAMES, table

_PLUS_ONE = View(offset=1.0)
_NORMS = (
    "attn_norm",
    "attn_out_norm",
    "mlp_norm",
    "mlp_out_norm",
    "q_norm",
    "k_norm",
    "final_norm",
)
_SANDWICH = {
    "attn_out_norm": "layers.{i}.post_attention_layernorm",
    "mlp_norm": "layers.{i}.pre_feedforward_layernorm",
    "mlp_out_norm": "layers.{i}.post_feedforward_layernorm",
}

# What transformers assumes for keys that config.json leaves out, by model_type.
_GEMMA2 = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "attention_bias": False,
    },
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2
    | {
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "sliding_window_pattern": 6,
    },
}

_ROPE = RopeReader()
_GLOBAL_ROPE = RopeReader(theta=1000000.0, scalings=("default", "linear", "llama3", "yarn"))
_LOCAL_ROPE = RopeReader(
    theta_key="rope_local_base_freq", scalings=("default", "linear", "llama3", "yarn")
)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a Gemma.

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
    if config["model_type"] == "gemma3":  # with a vision tower, whose tensors are left out
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise ValueError(f"{where}: text_config is {text!r:.80}, expected an object")
        config = {**text, "model_type": "gemma3_text"}
    model_type = config["model_type"]
    fields = Fields(config, where, DEFAULTS[model_type])
    fields.neutral("use_bidirectional_attention", (False,), "attention in both directions")
    sizes = read_sizes(fields)
    switches: dict[str, Any] = {"attention_scale": sizes["head_dim"] ** -0.5}
    if model_type == "gemma":
        # transformers takes "gelu", which the first files had, for the tanh form.
        fields.neutral("hidden_activation", ("gelu_pytorch_tanh",), "another activation")
        activation = fields.choice("hidden_act", ACTIVATIONS | {"gelu": "gelu_tanh"})
    else:
        activation = fields.choice("hidden_activation", ACTIVATIONS)
        switches["norm_place"] = "sandwich"
        switches["attention_scale"] = fields.number("query_pre_attn_scalar") ** -0.5
        switches["logit_soft_cap"] = _cap(fields, "final_logit_softcapping")
    if model_type == "gemma2":
        switches["attention_soft_cap"] = _cap(fields, "attn_logit_softcapping")
    if model_type == "gemma3_text":
        fields.neutral("attn_logit_softcapping", (), "a cap that transformers does not apply")
        switches |= {"qk_norm": "head", "num_ropes": 2}
        rope, local, context = _read_ropes(fields, sizes)
        switches["local_rope"] = local
    else:
        rope, _, context = _ROPE.read(fields, sizes["max_positions"], sizes["head_dim"])
    sizes["max_positions"] = context
    if model_type != "gemma":
        kinds = _layer_types(fields, model_type, sizes["num_layers"])
        switches["windows"] = layer_windows(fields, kinds, context)
        if model_type == "gemma3_text":
            switches["ropes"] = per_layer([int(kind == SLIDING) for kind in kinds])
    bias = fields.flag("attention_bias")
    return _spec(
        where,
        sizes,
        **switches,
        intermediate_size=fields.integer("intermediate_size"),
        norm_eps=fields.number("rms_norm_eps"),
        activation=activation,
        family=model_type,
        rope=rope,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        output_bias=bias,
    )


def _cap(fields: Fields, key: str) -> float:
    return 0.0 if fields.get(key) is None else fields.number(key)


def _layer_types(fields: Fields, model_type: str, num_layers: int) -> list[str]:
    pattern = 2 if model_type == "gemma2" else fields.integer("sliding_window_pattern")
    usual = [SLIDING if (i + 1) % pattern else FULL for i in range(num_layers)]
    return read_layer_types(fields, num_layers, usual)


def _read_ropes(fields: Fields, sizes: Mapping[str, int]) -> tuple[Rope, Rope, int]:
    """Read the frequencies of Gemma 3's global and local layers."""
    given = fields.mapping("rope_parameters") or {}
    unknown = sorted(str(key) for key in given if key not in (FULL, SLIDING))
    if unknown:
        raise ValueError(f"{fields.where}: rope_parameters: {unknown[0]} is not known")
    scaling = fields.mapping("rope_scaling") or {}

    def read(reader: RopeReader, kind: str, beside: Mapping[str, Any]) -> tuple[Rope, int, int]:
        inner = Fields(given, f"{fields.where}: rope_parameters").mapping(kind) or {}
        return reader.read_object(
            fields,
            Fields(
                {**inner, **beside},
                f"{fields.where}: rope_parameters: {kind}",
                {"rope_theta": fields.get(reader.theta_key)},
            ),
            sizes["max_positions"],
            sizes["head_dim"],
        )

    rope, _, context = read(_GLOBAL_ROPE, FULL, scaling)
    local, _, _ = read(_LOCAL_ROPE, SLIDING, {})
    return rope, local, context


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architectures ``gemma``, ``gemma2`` and ``gemma3``.

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
    computed = {
        "gemma": (),
        "gemma2": (
            "attention.sliding_window",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ),
        "gemma3": ("attention.sliding_window", "final_logit_softcapping"),
    }[architecture]
    refuse_gguf_switches(fields, *computed)
    sizes = read_gguf_sizes(fields)
    layers, head_dim = sizes["num_layers"], sizes["head_dim"]
    rope = read_gguf_rope(fields)
    switches: dict[str, Any] = {"attention_scale": head_dim**-0.5}
    if architecture != "gemma":
        # The largest models scale by the width of a head as if all heads made up the model's; the
        # files do not say it, and llama.cpp knows them by their layers.
        if layers == {"gemma2": 46, "gemma3": 62}[architecture]:
            switches["attention_scale"] = (sizes["hidden_size"] / sizes["num_heads"]) ** -0.5
        switches["norm_place"] = "sandwich"
        pattern = 2 if architecture == "gemma2" else 6
        kinds = gguf_layer_types(fields, layers, pattern)
        key = "attention.sliding_window"
        if fields.get(key) is None and architecture == "gemma2":
            fields = Fields(metadata, where, {key: 4096}, prefix=architecture + ".")
        if fields.get(key) in (None, 0):
            kinds = [FULL] * layers
        switches["windows"] = layer_windows(fields, kinds, sizes["max_positions"], key)
    if architecture == "gemma2":
        switches["attention_soft_cap"] = gguf_number(fields, "attn_logit_softcapping", 50.0)
        switches["logit_soft_cap"] = gguf_number(fields, "final_logit_softcapping", 30.0)
    if architecture == "gemma3":
        switches["logit_soft_cap"] = gguf_number(fields, "final_logit_softcapping", 0.0)
        theta = gguf_number(fields, "rope.freq_base_swa", 10000.0)
        switches |= {"qk_norm": "head", "num_ropes": 2, "local_rope": Rope(theta)}
        switches["ropes"] = per_layer([int(kind == SLIDING) for kind in kinds])
    return _spec(
        where,
        sizes,
        **switches,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        activation="gelu_tanh",
        family=architecture if architecture != "gemma3" else "gemma3_text",
        rope=rope,
        tied="output.weight" not in tensors,
    )


def _spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="rms",
        positions="rotary",
        rotary_dim=sizes["head_dim"],
        rope_interleaved=False,
        gated=True,
        embedding_scale=sizes["hidden_size"] ** 0.5,
        **given,
    )
    return check_spec(spec, where)


def _family(names: Mapping[str, Any], **given: Any) -> Family:
    return Family(
        slots=table(names, hf_views=dict.fromkeys(_NORMS, _PLUS_ONE)),
        read_config=read_config,
        read_gguf=read_gguf,
        gguf_ignored=(r"rope_freqs\.weight",),
        **given,
    )


FAMILY_1 = _family(
    {key: name for key, name in LLAMA_NAMES.items() if key not in ("q_norm", "k_norm")},
    model_types=("gemma",),
    architectures=("gemma",),
    hf_prefixes=("model.", ""),
)
FAMILY = _family(
    LLAMA_NAMES | _SANDWICH,
    model_types=("gemma2", "gemma3_text", "gemma3"),
    architectures=("gemma2", "gemma3"),
    hf_prefixes=(
        "language_model.model.",
        "model.language_model.",
        "language_model.",
        "model.",
        "",
    ),
    hf_ignored=(r"vision_tower\..*", r"multi_modal_projector\..*"),
)
