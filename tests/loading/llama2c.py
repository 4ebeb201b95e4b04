"""Models and tokenizers of llama2.c as Hugging Face folders and Python objects.

The files are those of https://github.com/karpathy/llama2.c, "version 0": seven int32 (dim,
hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len), then float32 tensors, each for all
layers together. Its rotation turns adjacent channels, transformers' the two halves of a head, so
the rows of q and k are permuted.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def convert(source: Path, folder: Path) -> Path:
    """Write the model in `source` (.bin) into `folder` as config.json and model.safetensors."""
    data = Path(source).read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", data)
    tied, vocab = vocab > 0, abs(vocab)
    head_dim = dim // heads
    kv_dim = kv_heads * head_dim
    numbers = np.frombuffer(data, dtype="<f4", offset=28)
    place = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        count = int(np.prod(shape))
        place += count
        return numbers[place - count : place].reshape(shape)

    embedding = take(vocab, dim)
    stacked = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": halves(take(layers, dim, dim), heads),
        "self_attn.k_proj": halves(take(layers, kv_dim, dim), kv_heads),
        "self_attn.v_proj": take(layers, kv_dim, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": take(dim)}
    for name, weights in stacked.items():
        for i in range(layers):
            tensors[f"model.layers.{i}.{name}.weight"] = weights[i]
    place += context * head_dim  # tables of cosines and sines that nobody reads any more
    if not tied:
        tensors["lm_head.weight"] = take(vocab, dim)
    assert place == numbers.size, (place, numbers.size)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def halves(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k ``[layers, heads * head_dim, in]`` from adjacent pairs to split halves."""
    layers, rows, width = weights.shape
    pairs = weights.reshape(layers, heads, rows // heads // 2, 2, width)
    return pairs.swapaxes(2, 3).reshape(layers, rows, width)


class Llama2cTokenizer:
    """SentencePiece BPE of a ``tok512.bin``, as llama2.c's ``encode`` and ``decode`` do it."""

    bos_token_id = 1
    eos_token_id = 2

    def __init__(self, path: Path) -> None:
        data = Path(path).read_bytes()
        place = 4  # the length of the longest token
        self.tokens: list[bytes] = []
        self.scores: list[float] = []
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            self.tokens.append(data[place + 8 : place + 8 + length])
            self.scores.append(score)
            place += 8 + length
        self.ids = {token: i for i, token in reversed(list(enumerate(self.tokens)))}
        self.vocab_size = len(self.tokens)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [self.ids[b" "]] if text else []
        for character in text:
            raw = character.encode("utf-8")
            ids += [self.ids[raw]] if raw in self.ids else [3 + byte for byte in raw]
        while True:
            merges = [
                (self.scores[self.ids[pair]], -i, self.ids[pair])
                for i in range(len(ids) - 1)
                if (pair := self.tokens[ids[i]] + self.tokens[ids[i + 1]]) in self.ids
            ]
            if not merges:
                break
            _, i, merged = max(merges)
            ids[-i : -i + 2] = [merged]
        return [self.bos_token_id, *ids] if add_special_tokens else ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        pieces = []
        previous = None
        for i in ids:
            token = self.tokens[i]
            if i in (1, 2):
                token = b"" if skip_special_tokens else token
            elif 3 <= i < 259:
                token = bytes([i - 3])
            elif previous == self.bos_token_id:
                token = token.removeprefix(b" ")
            pieces.append(token)
            previous = i
        return b"".join(pieces).decode("utf-8", errors="replace")
