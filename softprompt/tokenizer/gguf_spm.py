"""A GGUF's SentencePiece BPE vocabulary (``tokenizer.ggml.model`` "llama"), in `tokenizers`.

SentencePiece merges the adjacent pair whose concatenation has the best score until none is a token
(``llm_tokenizer_spm`` in src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp). The same
as a list of merges: all splits of all tokens into two tokens, the best token first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from softprompt.tokenizer.fast import FastTokenizer, tokenizers_errors
from softprompt.tokenizer.gguf_vocabulary import NORMAL, GgufVocabulary, read_vocabulary

MAX_TOKEN_CHARACTERS = 1024
"""Longest token accepted: every split of every token is looked at."""

_SPACE = "\u2581"


def build_spm(metadata: Mapping[str, Any], where: str) -> FastTokenizer:
    """Build the tokenizer of a GGUF with a SentencePiece BPE vocabulary.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.

    Returns
    -------
    FastTokenizer

    Raises
    ------
    ValueError
        Lists that are missing or do not fit each other.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = read_vocabulary(metadata, where)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    if not isinstance(prefix, bool):
        raise ValueError(f"{where}: tokenizer.ggml.add_space_prefix is {prefix!r}")
    unknown, merges = vocabulary.token_id("unknown", 0), _merges(vocabulary)
    with tokenizers_errors(where):
        backend = Tokenizer(
            models.BPE(
                vocabulary.ids,
                merges,
                unk_token=vocabulary.tokens[unknown],
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        steps = [normalizers.Prepend(_SPACE)] if prefix else []
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
        parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if prefix:
            parts.append(decoders.Strip(" ", 1, 0))
        backend.decoder = decoders.Sequence(parts)
        vocabulary.add_tokens(backend)
    bos, eos = vocabulary.token_id("bos", 1), vocabulary.token_id("eos", 2)
    vocabulary.set_specials(backend, bos, eos, adds_bos=True)
    return FastTokenizer(backend, bos_token_id=bos, eos_token_id=eos)


def _merges(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    tokens, ids, where = vocabulary.tokens, vocabulary.ids, vocabulary.where
    scores = np.asarray(vocabulary.metadata.get("tokenizer.ggml.scores", ()))
    if scores.shape != (len(tokens),) or scores.dtype.kind != "f":
        raise ValueError(
            f"{where}: tokenizer.ggml.scores has {scores.size} values, expected {len(tokens)} "
            "numbers (one a token)"
        )
    merges = []
    # Equal scores: the earlier token first, as in SentencePiece's own order.
    for token_id in np.argsort(-scores, kind="stable"):
        token = tokens[token_id]
        if vocabulary.types[token_id] != NORMAL or len(token) < 2:
            continue
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise ValueError(
                f"{where}: tokenizer.ggml.tokens[{token_id}] has {len(token)} characters, "
                f"expected at most {MAX_TOKEN_CHARACTERS}"
            )
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges
