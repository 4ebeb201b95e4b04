"""GGUF files of tiny Hugging Face folders, written with the reference library `gguf`.

Names and layout are those of llama.cpp's converter (convert_hf_to_gguf.py): rows of q and k of
Llama models permuted, GPT-2's projections transposed. Written out here a second time, so that an
error in `softprompt.families` cannot hide in both places.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

_LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(
    folder: Path,
    path: Path,
    *,
    kind: str = "F32",
    metadata: Mapping[str, object] | None = None,
    without: tuple[str, ...] = (),
    extra: Mapping[str, np.ndarray] | None = None,
    packed: Callable[[str, tuple[int, ...]], tuple[np.ndarray, str] | None] | None = None,
) -> Path:
    """Write the model of `folder` as a GGUF file.

    Parameters
    ----------
    folder : Path
        config.json and model.safetensors of a tiny model.
    path : Path
        The file to write.
    kind : str
        ggml type of the matrices; vectors stay F32.
    metadata : mapping, optional
        Values that replace or join the metadata; None removes a key.
    without : tuple of str
        Names of tensors (as in the GGUF) to leave out.
    extra : mapping, optional
        Tensors to add or replace.
    packed : callable, optional
        Name and shape of a matrix to its bytes, uint8 [rows, bytes of a row], and their type; None
        for the matrix itself as `kind`.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors")
    architecture = config["model_type"]
    values, named = (_gpt2 if architecture == "gpt2" else _llama)(config, tensors)
    values |= dict(metadata or {})
    named = {name: array for name, array in named.items() if name not in without}
    named |= dict(extra or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, array in named.items():
        given = packed(name, array.shape) if packed and array.ndim > 1 else None
        if given is not None:
            writer.add_tensor(name, given[0], raw_dtype=gguf.GGMLQuantizationType[given[1]])
            continue
        stored = gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
        if stored == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, np.ascontiguousarray(array))
        else:
            data = gguf.quants.quantize(np.ascontiguousarray(array), stored)
            writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _llama(config: dict, tensors: dict[str, np.ndarray]) -> tuple[dict, dict]:
    arch = config["model_type"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    values = {
        f"{arch}.vocab_size": config["vocab_size"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.key_length": head_dim,
        f"{arch}.attention.value_length": head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{arch}.rope.dimension_count": head_dim,
        f"{arch}.rope.freq_base": float(theta),
    }
    named = {}
    for name, array in tensors.items():
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            slot, kind = rest.rsplit(".", 1)
            count = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(slot)
            if count and arch == "llama":
                pairs = array.reshape(count, 2, head_dim // 2, *array.shape[1:])
                array = pairs.swapaxes(1, 2).reshape(array.shape)
            named[f"blk.{layer}.{_LLAMA[slot]}.{kind}"] = array
        else:
            outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            slot, kind = name.rsplit(".", 1)
            named[f"{outer.get(slot, 'output')}.{kind}"] = array
    return values, named


def _gpt2(config: dict, tensors: dict[str, np.ndarray]) -> tuple[dict, dict]:
    values = {
        "gpt2.vocab_size": config["vocab_size"],
        "gpt2.context_length": config["n_positions"],
        "gpt2.embedding_length": config["n_embd"],
        "gpt2.block_count": config["n_layer"],
        "gpt2.feed_forward_length": config["n_inner"] or 4 * config["n_embd"],
        "gpt2.attention.head_count": config["n_head"],
        "gpt2.attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
    }
    named = {}
    for name, array in tensors.items():
        slot, kind = name.removeprefix("transformer.").rsplit(".", 1)
        if slot.startswith("h."):
            _, layer, slot = slot.split(".", 2)
            transposed = slot.split(".")[-1].startswith("c_") and array.ndim == 2
            named[f"blk.{layer}.{_GPT2[slot]}.{kind}"] = array.T if transposed else array
        else:
            outer = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
            named[f"{outer[slot]}.{kind}"] = array
    return values, named
