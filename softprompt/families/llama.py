"""Llama-shaped models: Llama, SmolLM 2 and 3, Mistral, Qwen 2, 2.5 and 3, Granite.

Pre-norm decoder with RMSNorm, rotary positions, grouped heads and a gated MLP (Touvron et al.,
2023, "LLaMA", section 2.2, and "Llama 2", section 2.2). What differs between them is a bias here, a
norm or a scale there.
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
    per_layer,
    read_gguf_sizes,
    read_layer_types,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import RopeReader, read_gguf_rope
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import LLAMA_NAMES, table

# What transformers assumes for keys that config.json leaves out, by model_type.
_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
_QWEN2 = _LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN2,
    "qwen3": _QWEN2 | {"head_dim": 128},
    "smollm3": _LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
    },
    "granite": _LLAMA
    | {
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
    },
}

_ROPE = RopeReader()
_SMOLLM3_ROPE = RopeReader(theta=2000000.0)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a Llama-shaped model.

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
    reader = _SMOLLM3_ROPE if model_type == "smollm3" else _ROPE
    rope, rotary_dim, context = reader.read(fields, sizes["max_positions"], sizes["head_dim"])
    sizes["max_positions"] = context
    # Mistral and Qwen 2 have no such switches in transformers.
    attention_bias = model_type not in ("mistral", "qwen2") and fields.flag("attention_bias")
    mlp_bias = model_type in ("llama", "smollm3", "granite") and fields.flag("mlp_bias")
    switches: dict[str, Any] = {
        "attention_scale": sizes["head_dim"] ** -0.5,
        "windows": layer_windows(fields, _layer_types(fields, model_type, sizes), context),
    }
    if model_type == "qwen3":
        switches["qk_norm"] = "head"
    if model_type == "smollm3":
        switches["ropes"] = _nope_layers(fields, sizes["num_layers"])
    if model_type == "granite":
        switches["attention_scale"] = fields.number("attention_multiplier")
        # transformers multiplies `inputs_embeds`, a prompt's rows too.
        switches["input_scale"] = fields.number("embedding_multiplier")
        switches["residual_scale"] = fields.number("residual_multiplier")
        switches["logit_scale"] = 1.0 / fields.number("logits_scaling")
    return check_spec(
        Spec(
            **sizes,
            **switches,
            intermediate_size=fields.integer("intermediate_size"),
            norm="rms",
            norm_eps=fields.number("rms_norm_eps"),
            positions="rotary",
            rotary_dim=rotary_dim,
            rope_interleaved=False,
            activation=fields.choice("hidden_act", ACTIVATIONS),
            gated=True,
            embedding_scale=1.0,
            family="llama" if model_type == "mistral" else model_type,
            rope=rope,
            tied=fields.flag("tie_word_embeddings"),
            qkv_bias=model_type == "qwen2" or attention_bias,
            output_bias=attention_bias,
            mlp_bias=mlp_bias,
        ),
        where,
    )


def _layer_types(fields: Fields, model_type: str, sizes: Mapping[str, int]) -> list[str]:
    layers = sizes["num_layers"]
    if model_type == "mistral":
        return [FULL if fields.get("sliding_window") is None else SLIDING] * layers
    if model_type in ("llama", "granite") or not fields.flag("use_sliding_window"):
        return [FULL] * layers
    if fields.get("sliding_window") is None:
        return [FULL] * layers
    if model_type == "smollm3":
        turned = _turned_layers(fields, layers)
        return read_layer_types(fields, layers, [FULL if t else SLIDING for t in turned])
    first = fields.integer("max_window_layers", low=0)
    return read_layer_types(fields, layers, [FULL if i < first else SLIDING for i in range(layers)])


def _turned_layers(fields: Fields, num_layers: int) -> list[bool]:
    """Say which layers of a SmolLM 3 have rotary positions."""
    given = fields.get("no_rope_layers")
    if given is None:
        interval = fields.integer("no_rope_layer_interval")
        return [(i + 1) % interval != 0 for i in range(num_layers)]
    good = isinstance(given, list) and len(given) == num_layers
    if not good or any(value not in (0, 1) for value in given):
        raise fields.error("no_rope_layers", f"a list of {num_layers} of 0 and 1")
    return [bool(value) for value in given]


def _nope_layers(fields: Fields, num_layers: int) -> tuple[int, ...]:
    return per_layer([0 if turned else -1 for turned in _turned_layers(fields, num_layers)])


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of a Llama-shaped architecture.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.
    tensors : container of str
        Names of the file's tensors; says which biases exist and whether the head is tied.

    Returns
    -------
    Spec
        With ``rope_interleaved=True`` but for Qwen: llama.cpp's converter permutes the rows of q
        and k so that a rotated pair lies side by side.

    Raises
    ------
    ValueError
        As `read_config`.
    """
    architecture = metadata["general.architecture"]
    fields = Fields(metadata, where, prefix=architecture + ".")
    is_granite = architecture == "granite"
    scales = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
    refuse_gguf_switches(fields, *(scales if is_granite else ()))
    sizes = read_gguf_sizes(fields)
    rotary = gguf_rotary_dim(fields, sizes["head_dim"])
    if rotary != sizes["head_dim"]:
        raise fields.error("rope.dimension_count", f"the size of a head ({sizes['head_dim']})")
    switches: dict[str, Any] = {"attention_scale": sizes["head_dim"] ** -0.5}
    if architecture == "qwen3":
        switches["qk_norm"] = "head"
    if architecture == "smollm3":  # llama.cpp knows this one pattern (its n_no_rope_layer_step)
        layers = range(sizes["num_layers"])
        switches["ropes"] = per_layer([-1 if (i + 1) % 4 == 0 else 0 for i in layers])
    if is_granite:
        switches["attention_scale"] = gguf_number(
            fields, "attention.scale", switches["attention_scale"]
        )
        switches["input_scale"] = gguf_number(fields, "embedding_scale", 1.0)
        switches["residual_scale"] = gguf_number(fields, "residual_scale", 1.0)
        switches["logit_scale"] = 1.0 / gguf_number(fields, "logit_scale", 1.0)
    return check_spec(
        Spec(
            **sizes,
            **switches,
            norm="rms",
            norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            positions="rotary",
            rotary_dim=rotary,
            rope_interleaved=architecture not in ("qwen2", "qwen3"),
            activation="silu",
            gated=True,
            embedding_scale=1.0,
            family=architecture,
            rope=read_gguf_rope(fields),
            tied="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_gate.bias" in tensors,
        ),
        where,
    )


FAMILY = Family(
    model_types=tuple(DEFAULTS),
    architectures=("llama", "qwen2", "qwen3", "smollm3", "granite"),
    slots=table(LLAMA_NAMES),
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("model.", ""),
    hf_ignored=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    gguf_ignored=(r"blk\.\d+\.attn_rot_embd", r"rope_freqs\.weight"),
)
