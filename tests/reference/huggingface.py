"""Spec and weight slots of a Hugging Face folder for the twin.

Written independently of `softprompt.families`, from the models' published definitions, so that an
error in the tables there cannot hide in both places.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from reference.twin import Twin
from safetensors.numpy import load_file

_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def read_twin(folder: Path) -> Twin:
    """Twin of the Llama or GPT-2 model in a folder."""
    return Twin(*read_folder(folder))


def read_folder(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Spec and slots of the Llama or GPT-2 model in a folder with one safetensors file."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(Path(folder) / "model.safetensors")
    return {"llama": _llama, "gpt2": _gpt2}[config["model_type"]](config, tensors)


def _llama(config: dict, tensors: dict) -> tuple[dict, dict]:
    d, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or d // heads
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    spec = {
        "vocab_size": config["vocab_size"],
        "hidden_size": d,
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config["num_key_value_heads"],
        "head_dim": head_dim,
        "intermediate_size": config["intermediate_size"],
        "max_positions": config["max_position_embeddings"],
        "norm": "rms",
        "norm_eps": config["rms_norm_eps"],
        "positions": "rotary",
        "rotary_dim": head_dim,
        "rope_interleaved": False,
        "activation": _ACTIVATIONS[config["hidden_act"]],
        "gated": True,
        "attention_scale": 1.0 / math.sqrt(head_dim),
        "embedding_scale": 1.0,
    }
    # float32 powers, as transformers computes them.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    slots = {
        "embedding.weight": tensors["model.embed_tokens.weight"],
        "rope.inv_freq": np.float32(1.0) / np.float32(theta) ** exponents,
        "final_norm.weight": tensors["model.norm.weight"],
    }
    if not config["tie_word_embeddings"]:
        slots["head.weight"] = tensors["lm_head.weight"]
    names = {
        "attn_norm": "input_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    for i in range(spec["num_layers"]):
        for slot, name in names.items():
            for part in ("weight", "bias"):
                tensor = tensors.get(f"model.layers.{i}.{name}.{part}")
                if tensor is not None:
                    slots[f"layers.{i}.{slot}.{part}"] = tensor
    return spec, slots


def _gpt2(config: dict, tensors: dict) -> tuple[dict, dict]:
    d, heads = config["n_embd"], config["n_head"]
    spec = {
        "vocab_size": config["vocab_size"],
        "hidden_size": d,
        "num_layers": config["n_layer"],
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": d // heads,
        "intermediate_size": config["n_inner"] or 4 * d,
        "max_positions": config["n_positions"],
        "norm": "layer",
        "norm_eps": config["layer_norm_epsilon"],
        "positions": "learned",
        "rotary_dim": 0,
        "rope_interleaved": False,
        "activation": _ACTIVATIONS[config["activation_function"]],
        "gated": False,
        "attention_scale": 1.0 / math.sqrt(d // heads) if config["scale_attn_weights"] else 1.0,
        "embedding_scale": 1.0,
    }
    slots = {
        "embedding.weight": tensors["transformer.wte.weight"],
        "position.weight": tensors["transformer.wpe.weight"],
        "final_norm.weight": tensors["transformer.ln_f.weight"],
        "final_norm.bias": tensors["transformer.ln_f.bias"],
    }
    for i in range(spec["num_layers"]):
        theirs, ours = f"transformer.h.{i}.", f"layers.{i}."
        for part in ("weight", "bias"):
            slots[f"{ours}attn_norm.{part}"] = tensors[f"{theirs}ln_1.{part}"]
            slots[f"{ours}mlp_norm.{part}"] = tensors[f"{theirs}ln_2.{part}"]
            fused = np.split(tensors[f"{theirs}attn.c_attn.{part}"], 3, axis=-1)
            for slot, tensor in (
                *zip("qkv", fused, strict=True),
                ("o", tensors[f"{theirs}attn.c_proj.{part}"]),
                ("up", tensors[f"{theirs}mlp.c_fc.{part}"]),
                ("down", tensors[f"{theirs}mlp.c_proj.{part}"]),
            ):
                slots[f"{ours}{slot}.{part}"] = np.ascontiguousarray(tensor.T)
    return spec, slots
