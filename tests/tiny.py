"""Tiny random Hugging Face folders, written without torch.

The folders hold ``config.json`` and ``model.safetensors`` and no tokenizer: everything is done with
ids. Weights come from the frozen legacy generator of NumPy and from uniform numbers only, so that a
seed gives the same bits on every platform and with every NumPy; :func:`weights_sha256` shows when
that is not so.

Norm weights lie away from 1, biases away from 0, and the scales are such that logits spread over
several units: a forgotten bias, a norm weight that is applied twice or a wrong head group shows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


class _Draw:
    """Uniform random numbers, rounded once to float32."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def between(self, low: float, high: float, *shape: int) -> np.ndarray:
        return (low + (high - low) * self._random.random_sample(shape)).astype(np.float32)

    def matrix(self, rows: int, columns: int, *, inputs: int, gain: float = 1.0) -> np.ndarray:
        """Matrix whose outputs have about `gain` times the standard deviation of its inputs."""
        bound = gain * math.sqrt(3.0 / inputs)
        return self.between(-bound, bound, rows, columns)

    def norm_weight(self, size: int) -> np.ndarray:
        return self.between(0.5, 1.6, size)

    def bias(self, size: int) -> np.ndarray:
        return self.between(-0.4, 0.4, size)


def llama_tensors(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Weights of a ``LlamaForCausalLM`` with this configuration, under its own tensor names."""
    draw = _Draw(seed)
    d, f = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or d // config["num_attention_heads"]
    q_size = config["num_attention_heads"] * head_dim
    kv_size = config["num_key_value_heads"] * head_dim
    tensors = {"model.embed_tokens.weight": draw.between(-1.4, 1.4, config["vocab_size"], d)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        tensors[layer + "input_layernorm.weight"] = draw.norm_weight(d)
        tensors[layer + "post_attention_layernorm.weight"] = draw.norm_weight(d)
        for name, rows, columns, gain in (
            ("self_attn.q_proj", q_size, d, 1.4),
            ("self_attn.k_proj", kv_size, d, 1.4),
            ("self_attn.v_proj", kv_size, d, 1.0),
            ("self_attn.o_proj", d, q_size, 1.0),
            ("mlp.gate_proj", f, d, 1.2),
            ("mlp.up_proj", f, d, 1.2),
            ("mlp.down_proj", d, f, 1.0),
        ):
            tensors[f"{layer}{name}.weight"] = draw.matrix(rows, columns, inputs=columns, gain=gain)
            if config["attention_bias" if "self_attn" in name else "mlp_bias"]:
                tensors[f"{layer}{name}.bias"] = draw.bias(rows)
    tensors["model.norm.weight"] = draw.norm_weight(d)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = draw.matrix(config["vocab_size"], d, inputs=d, gain=2.5)
    return tensors


def gpt2_tensors(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Weights of a ``GPT2LMHeadModel`` with this configuration; its linear layers are stored `[in,
    out]`."""
    draw = _Draw(seed)
    d = config["n_embd"]
    f = config["n_inner"] or 4 * d
    tensors = {
        "transformer.wte.weight": draw.between(-1.4, 1.4, config["vocab_size"], d),
        "transformer.wpe.weight": draw.between(-1.4, 1.4, config["n_positions"], d),
    }

    def norm(name: str) -> None:
        tensors[name + ".weight"] = draw.norm_weight(d)
        tensors[name + ".bias"] = draw.bias(d)

    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}."
        norm(layer + "ln_1")
        norm(layer + "ln_2")
        for name, inputs, outputs, gain in (
            ("attn.c_attn", d, 3 * d, 1.6),
            ("attn.c_proj", d, d, 1.8),
            ("mlp.c_fc", d, f, 1.8),
            ("mlp.c_proj", f, d, 1.8),
        ):
            tensors[f"{layer}{name}.weight"] = draw.matrix(
                inputs, outputs, inputs=inputs, gain=gain
            )
            tensors[f"{layer}{name}.bias"] = draw.bias(outputs)
    norm("transformer.ln_f")
    return tensors


_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, dict] = {
    # Tied head, grouped heads, the older way to write the rotary base.
    "llama": _LLAMA
    | {
        "vocab_size": 97,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    },
    # Separate head, biases, heads whose widths do not add up to the hidden size, the newer way to
    # write the base.
    "llama-biases": _LLAMA
    | {
        "vocab_size": 89,
        "hidden_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "intermediate_size": 36,
        "max_position_embeddings": 96,
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 61,
        "n_embd": 20,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "n_ctx": 64,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 60,
    },
}
"""Configurations of the tiny models that tests name, as they stand in ``config.json``."""

_TENSORS: dict[str, Callable[[dict, int], dict[str, np.ndarray]]] = {
    "llama": llama_tensors,
    "gpt2": gpt2_tensors,
}


def write_tiny(folder: Path, name: str, *, seed: int = 0, changes: dict | None = None) -> Path:
    """Write the tiny model `name` of :data:`CONFIGS` into `folder` and return it.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    name : str
        A key of :data:`CONFIGS`.
    seed : int
        Seed of the weights.
    changes : dict, optional
        Entries of ``config.json`` to set besides the named configuration.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIGS[name] | (changes or {})
    tensors = _TENSORS[config["model_type"]](config, seed)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the names, shapes and bytes of all tensors of a folder, in the order of their
    names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(Path(folder) / "model.safetensors").items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def eos_token_ids(name: str) -> tuple[int, ...]:
    """End tokens of a named configuration."""
    return (CONFIGS[name]["eos_token_id"],)
