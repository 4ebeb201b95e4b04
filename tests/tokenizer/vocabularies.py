"""Small vocabularies as GGUF metadata, and SentencePiece's merging written out plainly."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def byte_characters() -> list[str]:
    """GPT-2's visible character of each byte (``bytes_to_unicode`` of its encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = iter(range(256, 512))
    return [chr(byte if byte in plain else next(shifted)) for byte in range(256)]


def bpe_metadata(**changes) -> dict:
    """Byte-level BPE of 256 bytes, a few merges and three special tokens."""
    merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "12 3", "Ġ 1"]
    tokens = [*byte_characters(), *(m.replace(" ", "") for m in merges)]
    tokens += ["<|begin|>", "<|end|>", "<tool>"]
    types = np.ones(len(tokens), dtype=np.int32)
    types[-3:] = 3, 3, 4
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens) - 3,
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
    }
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def raw_bpe_metadata(**changes) -> dict:
    """BPE over characters as they are, with U+2581 for a space and the 256 bytes (Gemma 4)."""
    merges = ["h e", "l l", "he ll", "hell o", "\u2581 hello", "\n \n"]
    tokens = ["<pad>", "<eos>", "<bos>", *(f"<0x{i:02X}>" for i in range(256)), *"helo\u2581\n"]
    tokens += [merge.replace(" ", "") for merge in merges]
    types = np.array([3] * 3 + [6] * 256 + [1] * (len(tokens) - 259), dtype=np.int32)
    metadata = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def spm_encode(text: str, tokens: list[str], scores: np.ndarray) -> list[int]:
    """Merge the adjacent pair of the best score, leftmost first, until none is a token."""
    ids = {token: i for i, token in enumerate(tokens)}
    pieces = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    while True:
        pairs = [
            (scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in ids
        ]
        if not pairs:
            break
        i = -max(pairs)[1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    out = []
    for piece in pieces:
        if piece in ids:
            out.append(ids[piece])
        else:
            out += [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return out
