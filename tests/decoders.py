"""Tiny random folders of all decoder families: configurations as they stand in ``config.json``,
some as transformers 4 writes them and some as transformers 5, and weights by the names of tensors.

Sizes are uneven (heads that are no powers of two, heads whose widths do not add up to the model's),
windows are shorter than the texts, scales lie away from 1, norms' weights away from 1 and biases
away from 0, so that a switch that is left out or applied twice shows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from softprompt.families import family_of, read_config

_SIZES = {
    "vocab_size": 71,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA = _SIZES | {"model_type": "llama", "rms_norm_eps": 1e-5, "torch_dtype": "float32"}
_GPT = {
    "vocab_size": 67,
    "n_embd": 20,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 66,
    "pad_token_id": 1,
}
_GEMMA3_4 = {
    "model_type": "gemma3_text",
    "head_dim": 6,
    "query_pre_attn_scalar": 10,
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "rope_theta": 300.0,
    "rope_local_base_freq": 20.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}
_LONG = [1.0, 2.5], [1.5, 4.0]

CONFIGS: dict[str, dict] = {
    "llama-linear": _LLAMA
    | {"rope_theta": 200.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "head_dim": 6},
    "llama-dynamic": _LLAMA
    | {
        "max_position_embeddings": 12,
        "rope_theta": 200.0,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
        "tie_word_embeddings": True,
    },
    "llama-llama3": _LLAMA
    | {
        "head_dim": 8,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama-yarn": _LLAMA
    | {
        "head_dim": 16,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 24,
            "beta_fast": 4.0,
        },
    },
    "llama-longrope": _LLAMA
    | {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 300.0,
            "short_factor": _LONG[0],
            "long_factor": _LONG[1],
            "original_max_position_embeddings": 13,
            "factor": 4.0,
        },
    },
    "mistral": _LLAMA
    | {"model_type": "mistral", "sliding_window": 5, "head_dim": 6, "rope_theta": 100.0},
    "mistral-whole": _LLAMA
    | {"model_type": "mistral", "sliding_window": None, "tie_word_embeddings": True},
    "qwen2": _LLAMA
    | {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        "rope_theta": 1000.0,
        "tie_word_embeddings": True,
    },
    "qwen2-whole": _LLAMA | {"model_type": "qwen2", "rms_norm_eps": 1e-3},
    "qwen3": _LLAMA
    | {"model_type": "qwen3", "head_dim": 6, "attention_bias": True, "rope_theta": 1000.0},
    "qwen3-windows": _LLAMA
    | {
        "model_type": "qwen3",
        "head_dim": 10,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "smollm3": _LLAMA
    | {"model_type": "smollm3", "no_rope_layer_interval": 2, "rope_theta": 5000.0},
    "smollm3-windows": _LLAMA
    | {
        "model_type": "smollm3",
        "no_rope_layers": [0, 1, 1],
        "use_sliding_window": True,
        "sliding_window": 4,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
    "granite": _LLAMA
    | {
        "model_type": "granite",
        "embedding_multiplier": 1.7,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.4,
        "tie_word_embeddings": True,
    },
    "granite-biases": _LLAMA
    | {
        "model_type": "granite",
        "embedding_multiplier": 0.5,
        "residual_multiplier": 1.3,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu",
    },
    "gemma": _SIZES
    | {"model_type": "gemma", "head_dim": 6, "hidden_act": "gelu", "rope_theta": 400.0},
    "gemma-one-group": _SIZES
    | {
        "model_type": "gemma",
        "head_dim": 8,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 90.0},
    },
    "gemma2": _SIZES
    | {
        "model_type": "gemma2",
        "head_dim": 6,
        "query_pre_attn_scalar": 9,
        "sliding_window": 5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma2-uncapped": _SIZES
    | {
        "model_type": "gemma2",
        "head_dim": 4,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 3,
        "query_pre_attn_scalar": 5,
    },
    "gemma3": _SIZES | _GEMMA3_4,
    "gemma3-version5": _SIZES
    | {
        "model_type": "gemma3_text",
        "head_dim": 10,
        "query_pre_attn_scalar": 7,
        "sliding_window": 4,
        "final_logit_softcapping": 5.0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 700.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    },
    "phi": _SIZES
    | {"model_type": "phi", "partial_rotary_factor": 0.5, "num_key_value_heads": None},
    "phi-norms": _SIZES
    | {
        "model_type": "phi",
        "hidden_size": 36,
        "qk_layernorm": True,
        "layer_norm_eps": 1e-3,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 80.0,
            "partial_rotary_factor": 0.7,
        },
    },
    "phi3": _SIZES
    | {
        "model_type": "phi3",
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 13,
        "sliding_window": 7,
        "rope_theta": 200.0,
        "rope_scaling": {"type": "longrope", "short_factor": _LONG[0], "long_factor": _LONG[1]},
    },
    "phi4": _SIZES
    | {
        "model_type": "phi3",
        "hidden_size": 48,
        "original_max_position_embeddings": 96,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
    },
    "gpt_neo": {
        "model_type": "gpt_neo",
        "vocab_size": 67,
        "hidden_size": 20,
        "num_layers": 3,
        "num_heads": 2,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1], [["local"], 1]],
        "window_size": 5,
        "bos_token_id": 0,
        "eos_token_id": 66,
        "pad_token_id": 1,
    },
    "gpt_neo-wide": {
        "model_type": "gpt_neo",
        "vocab_size": 67,
        "hidden_size": 24,
        "num_layers": 2,
        "num_heads": 3,
        "intermediate_size": 31,
        "max_position_embeddings": 48,
        "attention_types": [[["global"], 2]],
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-3,
        "bos_token_id": 0,
        "eos_token_id": 66,
        "pad_token_id": 1,
    },
    "gptj": _GPT | {"model_type": "gptj", "rotary_dim": 6},
    "gptj-tied": _GPT
    | {
        "model_type": "gptj",
        "n_embd": 24,
        "n_head": 3,
        "n_layer": 3,
        "n_inner": 29,
        "rotary_dim": 8,
        "tie_word_embeddings": True,
    },
    "gpt_neox": _SIZES | {"model_type": "gpt_neox", "hidden_size": 48, "rotary_pct": 0.25},
    "gpt_neox-sequential": _SIZES
    | {
        "model_type": "gpt_neox",
        "use_parallel_residual": False,
        "attention_bias": False,
        "hidden_act": "gelu_fast",
        "rotary_pct": 1.0,
        "rotary_emb_base": 500,
        "tie_word_embeddings": True,
    },
    "opt": {
        "model_type": "opt",
        "vocab_size": 67,
        "hidden_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "ffn_dim": 33,
        "max_position_embeddings": 48,
        "word_embed_proj_dim": 20,
        "bos_token_id": 2,
        "eos_token_id": 66,
        "pad_token_id": 1,
    },
    "opt-post": {
        "model_type": "opt",
        "vocab_size": 67,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "ffn_dim": 40,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 24,
        "do_layer_norm_before": False,
        "enable_bias": False,
        "activation_function": "gelu",
        "bos_token_id": 2,
        "eos_token_id": 66,
        "pad_token_id": 1,
    },
    "opt-plain": {
        "model_type": "opt",
        "vocab_size": 67,
        "hidden_size": 18,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "ffn_dim": 25,
        "max_position_embeddings": 48,
        "layer_norm_elementwise_affine": False,
        "_remove_final_layer_norm": True,
        "tie_word_embeddings": False,
        "bos_token_id": 2,
        "eos_token_id": 66,
        "pad_token_id": 1,
    },
    "bloom": {
        "model_type": "bloom",
        "vocab_size": 67,
        "hidden_size": 24,
        "n_layer": 3,
        "n_head": 6,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    },
    "bloom-older": {
        "model_type": "bloom",
        "vocab_size": 61,
        "n_embed": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "seq_length": 64,
        "layer_norm_epsilon": 1e-3,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    },
    "falcon": _SIZES | {"model_type": "falcon", "rope_theta": 300.0},
    "falcon-groups": _SIZES
    | {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 3,
        "bias": True,
        "ffn_hidden_size": 41,
        "rope_parameters": {"rope_type": "default", "rope_theta": 70.0},
    },
    "falcon-one-norm": _SIZES
    | {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 1,
        "tie_word_embeddings": False,
    },
    "falcon-alibi": _SIZES
    | {
        "model_type": "falcon",
        "alibi": True,
        "multi_query": False,
        "parallel_attn": False,
        "bias": True,
    },
    "stablelm": _SIZES
    | {"model_type": "stablelm", "hidden_size": 48, "use_qkv_bias": True, "rope_theta": 500.0},
    "stablelm-parallel": _SIZES
    | {
        "model_type": "stablelm",
        "qk_layernorm": True,
        "use_parallel_residual": True,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": True,
    },
    "olmo": _SIZES | {"model_type": "olmo", "clip_qkv": 0.8, "rope_theta": 500.0},
    "olmo-unclipped": _SIZES
    | {
        "model_type": "olmo",
        "hidden_size": 36,
        "num_key_value_heads": 3,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "olmo2": _SIZES | {"model_type": "olmo2", "rms_norm_eps": 1e-6, "rope_theta": 500.0},
    "olmo2-one-group": _SIZES
    | {
        "model_type": "olmo2",
        "hidden_size": 36,
        "num_key_value_heads": None,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "cohere": _SIZES
    | {"model_type": "cohere", "logit_scale": 0.4, "use_qk_norm": True, "rope_theta": 300.0},
    "cohere-plain": _SIZES
    | {
        "model_type": "cohere",
        "hidden_size": 36,
        "logit_scale": 1.6,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "cohere2": _SIZES
    | {
        "model_type": "cohere2",
        "logit_scale": 0.3,
        "sliding_window": 5,
        "sliding_window_pattern": 2,
        "rope_theta": 300.0,
    },
    "cohere2-version5": _SIZES
    | {
        "model_type": "cohere2",
        "hidden_size": 36,
        "logit_scale": 0.8,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 90.0},
        "attention_bias": True,
    },
}


def table_shapes(config: Mapping) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a configuration's tensors by softprompt's own tables, without prefixes.

    The parity tests compare these tables with transformers' models.
    """
    spec = read_config(config, "config.json")
    shapes = {}
    for slot in family_of(spec).bound_slots(spec, "hf"):
        shape = slot.view.stored_shape(slot.shape)
        if "{h}" in slot.source:
            names = [slot.source.replace("{h}", str(head)) for head in range(shape[0])]
            shapes |= dict.fromkeys(names, shape[1:])
        else:
            shapes[slot.source] = shape
    return shapes


def draw_weights(shapes: Mapping[str, tuple[int, ...]], model_type: str, seed: int) -> dict:
    """Draw weights for tensors of these names and shapes, in the order of the names.

    Numbers are uniform, from NumPy's frozen legacy generator: the same bits everywhere.
    """
    random = np.random.RandomState(seed)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        uniform = 2.0 * random.random_sample(tuple(shape)) - 1.0
        if name.endswith(".bias"):
            values = 0.4 * uniform
        elif len(shape) == 1 or "norm" in ".".join(name.split(".")[-2:-1]):
            values = 1.05 + 0.55 * uniform - (1.0 if model_type.startswith("gemma") else 0.0)
        elif any(part in name for part in ("embed_", "wte", "wpe", "word_embeddings")):
            values = (0.3 if model_type.startswith("gemma") else 1.4) * uniform
        else:
            gain = 2.5 if "head" in name else 1.3
            values = gain * math.sqrt(3.0 / shape[1]) * uniform
        tensors[name] = values.astype(np.float32)
    return tensors


def write_decoder(
    folder: Path, config: Mapping, shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0
) -> Path:
    """Write ``config.json`` and ``model.safetensors`` into `folder` and return it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = draw_weights(shapes, config["model_type"], seed)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_config(folder, config)
    return folder


def write_config(folder: Path, config: Mapping) -> None:
    """Write ``config.json``."""
    text = json.dumps(config, indent=2) + "\n"
    (Path(folder) / "config.json").write_text(text, encoding="utf-8")


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the names, shapes and bytes of a folder's tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(Path(folder) / "model.safetensors").items()):
        digest.update(f"{name} {tensor.shape}\n".encode() + tensor.tobytes())
    return digest.hexdigest()


def width(config: Mapping) -> int:
    """Width of a configuration's prompts."""
    return next(config[key] for key in ("hidden_size", "n_embd", "n_embed") if key in config)


def examples(config: Mapping, seed: int = 1) -> list[tuple[list[int], list[int]]]:
    """A batch of uneven length: common beginnings, one input of one token, one of 21."""
    random = np.random.RandomState(seed)
    vocab = config["vocab_size"]

    def ids(count: int) -> list[int]:
        return (random.random_sample(count) * vocab).astype(int).tolist()

    start = ids(4)
    return [
        (start + ids(5), ids(1)),
        (start + ids(2), ids(3)),
        (ids(1), ids(2)),
        (start, ids(1)),
        ([vocab - 1, 4, *ids(19)], ids(4)),
    ]


def prompt(config: Mapping, rows: int, seed: int = 2) -> np.ndarray:
    """A prompt `[rows, d]` float32 at the scale of the embeddings."""
    random = np.random.RandomState(seed + rows)
    return (2.8 * random.random_sample((rows, width(config))) - 1.4).astype(np.float32)
