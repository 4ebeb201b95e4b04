"""A GGUF's SentencePiece BPE vocabulary (``tokenizer.ggml.model`` "llama"), in `tokenizers`.

The reference is llama.cpp (``llm_tokenizer_spm`` in src/llama-vocab.cpp of
https://github.com/ggml-org/llama.cpp), which normalises nothing and puts the dummy prefix behind
every special token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.tokenizer.fast import FastTokenizer, tokenizers_errors
from softprompt.tokenizer.gguf_vocabulary import GgufVocabulary, read_vocabulary
from softprompt.tokenizer.normalizer import SPACE
from softprompt.tokenizer.sentencepiece import merges_by_score
from softprompt.tokenizer.sentencepiece_model import NORMAL


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
    prefix = vocabulary.flag("add_space_prefix", True)
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
        steps = [normalizers.Prepend(SPACE)] if prefix else []
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
        parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if prefix:
            parts.append(decoders.Strip(" ", 1, 0))
        backend.decoder = decoders.Sequence(parts)
        vocabulary.add_tokens(backend)
    bos, eos = vocabulary.token_id("bos", 1), vocabulary.token_id("eos", 2)
    vocabulary.set_specials(backend, bos, eos, adds_bos=True)
    return FastTokenizer(backend, bos_token_id=bos, eos_token_id=eos)


def _merges(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    is_normal = vocabulary.types == NORMAL
    where = f"{vocabulary.where}: tokenizer.ggml.tokens"
    return merges_by_score(vocabulary.tokens, vocabulary.scores(), is_normal, where)
