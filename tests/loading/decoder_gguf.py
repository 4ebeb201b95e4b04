"""GGUF files of the tiny decoders, written with the reference library `gguf`.

Names come from the library's own map of Hugging Face names. Metadata and what llama.cpp's converter
(convert_hf_to_gguf.py) does to weights is written out here: rows of q and k of architectures that
rotate neighbouring channels are permuted, Gemma's norms get their 1, queries, keys and values that
stand head by head are put one below the other, norms of single heads are stacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import decoders
import gguf
import numpy as np
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "granite": "granite",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi": "phi2",
    "phi3": "phi3",
    "gpt_neox": "gptneox",
    "bloom": "bloom",
    "falcon": "falcon",
    "stablelm": "stablelm",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "cohere": "command-r",
    "cohere2": "cohere2",
}
_PERMUTED = ("llama", "mistral", "smollm3", "granite", "olmo")
_LAYER_NORMS = ("phi", "gpt_neox", "bloom", "falcon", "stablelm", "olmo", "cohere", "cohere2")


def write_decoder_gguf(folder: Path, path: Path, config: Mapping, *, kind: str = "F32") -> Path:
    """Write the model of a folder of `decoders` as a GGUF file; `kind` is the matrices' type."""
    architecture = ARCHITECTURES[config["model_type"]]
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    sizes = _sizes(config)
    names = gguf.get_tensor_name_map(number, sizes["layers"])
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in _metadata(config, sizes).items():
        key = f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    tensors = _converted(config, sizes, load_file(folder / "model.safetensors"))
    for name, array in tensors.items():
        new = name
        if not name.startswith("rope_factors"):
            new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        stored = gguf.GGMLQuantizationType[kind if array.ndim > 1 and "norm" not in new else "F32"]
        array = np.ascontiguousarray(array)
        if stored == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(new, array)
        else:
            writer.add_tensor(new, gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _sizes(config: Mapping) -> dict[str, int]:
    width, heads = decoders.width(config), config.get("num_attention_heads", config.get("n_head"))
    model_type = config["model_type"]
    kv_heads = config.get("num_key_value_heads") or heads
    if model_type in ("gpt_neox", "bloom"):
        kv_heads = heads
    if model_type == "falcon":
        kv_heads = config["num_kv_heads"] if config.get("new_decoder_architecture") else 1
    head_dim = config.get("head_dim") or width // heads
    part = config.get("partial_rotary_factor", config.get("rotary_pct"))
    inner = config.get("rope_parameters") or {}
    part = inner.get("partial_rotary_factor", part)
    if part is None:
        part = {"phi": 0.5, "stablelm": 0.25}.get(model_type, 1.0)
    feed_forward = config.get("ffn_hidden_size") or 4 * width
    if model_type not in ("falcon", "bloom"):
        feed_forward = config["intermediate_size"]
    return {
        "width": width,
        "layers": config.get("num_hidden_layers", config.get("n_layer")),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "rotary": int(head_dim * part),
        "feed_forward": feed_forward,
    }


def _metadata(config: Mapping, sizes: Mapping[str, int]) -> dict[str, object]:
    model_type = config["model_type"]
    rope = config.get("rope_parameters") or {}
    eps = next(
        (
            config[k]
            for k in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
            if k in config
        ),
        {"phi3": 1e-5, "olmo2": 1e-5}.get(model_type, 1e-5 if model_type in _LAYER_NORMS else 1e-6),
    )
    theta = rope.get("rope_theta", config.get("rope_theta", config.get("rotary_emb_base")))
    values: dict[str, object] = {
        "vocab_size": config["vocab_size"],
        "context_length": config.get("max_position_embeddings", config.get("seq_length", 2048)),
        "embedding_length": sizes["width"],
        "block_count": sizes["layers"],
        "feed_forward_length": sizes["feed_forward"],
        "attention.head_count": sizes["heads"],
        "attention.head_count_kv": sizes["kv_heads"],
        "rope.dimension_count": sizes["rotary"],
    }
    norm = "layer_norm" if model_type in _LAYER_NORMS else "layer_norm_rms"
    values[f"attention.{norm}_epsilon"] = float(eps)
    if "head_dim" in config:
        values["attention.key_length"] = values["attention.value_length"] = sizes["head_dim"]
    if theta is not None:
        values["rope.freq_base"] = float(theta)
    elif model_type == "cohere":
        values["rope.freq_base"] = 500000.0
    if model_type == "granite":
        values |= {
            "attention.scale": float(config.get("attention_multiplier", 1.0)),
            "embedding_scale": float(config.get("embedding_multiplier", 1.0)),
            "residual_scale": float(config.get("residual_multiplier", 1.0)),
            "logit_scale": float(config.get("logits_scaling", 1.0)),
        }
    if model_type in ("cohere", "cohere2"):
        values["logit_scale"] = float(config["logit_scale"])
    if model_type in ("gemma2", "gemma3_text", "cohere2"):
        values["attention.sliding_window"] = config["sliding_window"]
        values["attention.sliding_window_pattern"] = 2
    if model_type == "gemma2":
        values["attn_logit_softcapping"] = float(config["attn_logit_softcapping"])
        values["final_logit_softcapping"] = float(config["final_logit_softcapping"])
    if model_type == "gemma3_text":
        values["rope.freq_base_swa"] = float(config["rope_local_base_freq"])
        values["rope.scaling.type"] = "linear"
        values["rope.scaling.factor"] = float(config["rope_scaling"]["factor"])
    if model_type in ("gpt_neox", "stablelm"):
        parallel = config.get("use_parallel_residual", model_type == "gpt_neox")
        values["use_parallel_residual"] = parallel
    if model_type == "olmo" and "clip_qkv" in config:
        values["attention.clamp_kqv"] = float(config["clip_qkv"])
    if model_type == "phi3":
        values["attention.sliding_window"] = config.get("sliding_window") or 0
        values["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
    return values


def _converted(config: Mapping, sizes: Mapping[str, int], tensors: dict) -> dict[str, np.ndarray]:
    model_type, heads, kv_heads = config["model_type"], sizes["heads"], sizes["kv_heads"]
    size = sizes["head_dim"]
    result: dict[str, np.ndarray] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, array in tensors.items():
        name = name if name.startswith(("lm_head", "embed_out")) else _PREFIXES[model_type] + name
        if model_type in _PERMUTED and any(part in name for part in ("q_proj", "k_proj")):
            count = heads if "q_proj" in name else kv_heads
            pairs = array.reshape(count, 2, size // 2, *array.shape[1:])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        if model_type.startswith("gemma") and "norm" in name:
            array = array + np.float32(1)
        if "query_key_value" in name:
            groups = array.reshape(kv_heads, -1, size, *array.shape[1:])
            parts = groups[:, :-2], groups[:, -2:-1], groups[:, -1:]
            array = np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])
        if ".norms." in name:
            before, after = name.split(".norms.")
            stacks.setdefault(f"{before}.{after.split('.')[1]}", []).append(
                (int(after.split(".")[0]), array)
            )
            continue
        result[name] = array
    for name, rows in stacks.items():
        result[name] = np.stack([array for _, array in sorted(rows, key=lambda row: row[0])])
    scaling = config.get("rope_scaling") or {}
    if "long_factor" in scaling:
        for kind in ("long", "short"):
            factors = np.array(scaling[f"{kind}_factor"], dtype=np.float32)
            result[f"rope_factors_{kind}.weight"] = factors
    return result


_PREFIXES = dict.fromkeys(ARCHITECTURES, "model.") | {
    "gpt_neox": "gpt_neox.",
    "bloom": "",
    "falcon": "transformer.",
}
