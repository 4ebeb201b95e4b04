"""A GGUF's SentencePiece unigram vocabulary (``tokenizer.ggml.model`` "t5").

The reference is llama.cpp (``llm_tokenizer_ugm`` in src/llama-vocab.cpp of
https://github.com/ggml-org/llama.cpp), which follows SentencePiece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from softprompt.tokenizer.gguf_vocabulary import read_vocabulary
from softprompt.tokenizer.sentencepiece import SentencePieceTokenizer
from softprompt.tokenizer.sentencepiece_model import UNIGRAM, Normalization, SentencePieceModel


def build_ugm(metadata: Mapping[str, Any], where: str) -> SentencePieceTokenizer:
    """Build the tokenizer of a GGUF with a SentencePiece unigram vocabulary.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.

    Returns
    -------
    SentencePieceTokenizer

    Raises
    ------
    ValueError
        Lists that are missing or do not fit each other, or a damaged character map.
    """
    vocabulary = read_vocabulary(metadata, where)
    unknown = vocabulary.token_id("unknown", 2)
    if unknown is None:
        raise ValueError(f"{where}: tokenizer.ggml.unknown_token_id is no id of the vocabulary")
    bos, eos = vocabulary.token_id("bos"), vocabulary.token_id("eos", 1)
    before, after = vocabulary.added("bos", bos, False), vocabulary.added("eos", eos, True)
    model = SentencePieceModel(
        pieces=vocabulary.tokens,
        scores=vocabulary.scores(),
        types=vocabulary.types,
        model_type=UNIGRAM,
        byte_fallback=False,
        normalization=Normalization(
            charsmap=_charsmap(metadata, where),
            add_dummy_prefix=vocabulary.flag("add_space_prefix", False),
            remove_extra_whitespaces=vocabulary.flag("remove_extra_whitespaces", False),
        ),
        unk_id=unknown,
        bos_id=bos,
        eos_id=eos,
        pad_id=vocabulary.token_id("padding", 0),
        where=where,
    )
    return SentencePieceTokenizer(
        model,
        before=[] if before is None else [before],
        after=[] if after is None else [after],
        bos_token_id=bos,
        eos_token_id=eos,
    )


def _charsmap(metadata: Mapping[str, Any], where: str) -> bytes:
    values = np.asarray(metadata.get("tokenizer.ggml.precompiled_charsmap", ()))
    if values.size and (values.dtype not in (np.int8, np.uint8) or values.ndim != 1):
        raise ValueError(
            f"{where}: tokenizer.ggml.precompiled_charsmap holds {values.dtype}, expected bytes"
        )
    return values.tobytes() if values.size else b""
