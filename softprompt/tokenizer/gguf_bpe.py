"""A GGUF's byte-level BPE vocabulary (``tokenizer.ggml.model`` "gpt2"), rebuilt in `tokenizers`.

The reference is llama.cpp's definition of the pre-tokenizer, which agrees with the model's own
tokenizer.json. (transformers' conversion of GGUF vocabularies is not: it knows one way of cutting
texts only.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.tokenizer.fast import FastTokenizer, tokenizers_errors
from softprompt.tokenizer.gguf_vocabulary import read_vocabulary, string_list
from softprompt.tokenizer.normalizer import SPACE
from softprompt.tokenizer.pretokenizers import build_pre_tokenizer, find_pre_tokenizer


def build_bpe(metadata: Mapping[str, Any], where: str) -> FastTokenizer:
    """Build the tokenizer of a GGUF with a byte-level BPE vocabulary.

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
        An unknown pre-tokenizer, or lists that do not fit each other.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    # "gemma4" is both a kind of vocabulary and the pre-tokenizer that goes with it.
    is_gemma = metadata.get("tokenizer.ggml.model") == "gemma4"
    name = "gemma4" if is_gemma else metadata.get("tokenizer.ggml.pre")
    kind = find_pre_tokenizer(name, where)
    vocabulary = read_vocabulary(metadata, where)
    merges = _pairs(string_list(metadata, "tokenizer.ggml.merges", where), vocabulary.ids, where)
    with tokenizers_errors(where):
        options = {"ignore_merges": kind.ignores_merges, "byte_fallback": not kind.is_byte_level}
        backend = Tokenizer(models.BPE(vocabulary.ids, merges, **options))
        backend.pre_tokenizer = build_pre_tokenizer(kind)
        if kind.is_byte_level:
            backend.decoder = decoders.ByteLevel()
        else:
            backend.normalizer = normalizers.Replace(" ", SPACE)
            backend.decoder = decoders.Sequence(
                [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
            )
        vocabulary.add_tokens(backend)
    bos, eos = vocabulary.token_id("bos"), vocabulary.token_id("eos")
    vocabulary.set_specials(backend, bos, eos, kind.adds_bos)
    return FastTokenizer(backend, bos_token_id=bos, eos_token_id=eos)


def _pairs(merges: list[str], ids: Mapping[str, int], where: str) -> list[tuple[str, str]]:
    """Split "left right" and check that left, right and both together are tokens."""
    pairs = []
    for index, merge in enumerate(merges):
        cut = merge.find(" ", 1)  # a token may start with a space in some vocabularies
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or left not in ids or right not in ids or left + right not in ids:
            raise ValueError(
                f"{where}: tokenizer.ggml.merges[{index}] is {merge[:60]!r}, expected two tokens "
                "with a space between them whose concatenation is a token"
            )
        pairs.append((left, right))
    return pairs
