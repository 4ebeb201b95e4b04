"""Tokenizers: tokenizer.json, vocabularies of GGUF files, and objects that the user brings.

All of them are used through the same methods: ``encode``, ``encode_batch``, ``decode``,
``id_to_token``, and the attributes ``bos_token_id``, ``eos_token_id`` and ``vocab_size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.tokenizer.chat import ChatFrame, ChatTemplate
from softprompt.tokenizer.fast import FastTokenizer
from softprompt.tokenizer.gguf_bpe import build_bpe
from softprompt.tokenizer.gguf_spm import build_spm
from softprompt.tokenizer.gguf_ugm import build_ugm
from softprompt.tokenizer.huggingface import load_folder_tokenizer
from softprompt.tokenizer.languages import TranslationTokenizer
from softprompt.tokenizer.user import UserTokenizer
from softprompt.tokenizer.wordpiece import build_wpm

__all__ = [
    "ChatFrame",
    "ChatTemplate",
    "FastTokenizer",
    "TranslationTokenizer",
    "UserTokenizer",
    "added_specials",
    "gguf_tokenizer",
    "load_folder_tokenizer",
    "source_side",
    "wrap_tokenizer",
]

_GGUF_MODELS = {
    "gpt2": build_bpe,
    "gemma4": build_bpe,
    "llama": build_spm,
    "t5": build_ugm,
    "bert": build_wpm,
}

_NAMES = {"unknown": "unk", "padding": "pad"}  # as Hugging Face calls them


def gguf_tokenizer(metadata: Mapping[str, Any], where: str) -> FastTokenizer | None:
    """Build the tokenizer of a GGUF file.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.

    Returns
    -------
    FastTokenizer or None
        None if the file has no vocabulary.

    Raises
    ------
    ValueError
        A kind of vocabulary or pre-tokenizer that is not known, or lists that do not fit.
    """
    kind = metadata.get("tokenizer.ggml.model", "none")
    if isinstance(kind, str) and kind in ("none", "no_vocab"):
        return None
    if not isinstance(kind, str) or kind not in _GGUF_MODELS:
        raise ValueError(
            f"{where}: tokenizer.ggml.model is {kind!r}, expected one of "
            f"{', '.join(_GGUF_MODELS)}. Load the model with tokenizer= (any object with encode "
            "and decode) to use it all the same"
        )
    tokenizer = _GGUF_MODELS[kind](metadata, where)
    for name in ("bos", "eos", "unknown", "padding"):
        token = tokenizer.id_to_token(_special_id(metadata, name))
        if token is not None:
            tokenizer.named_tokens[f"{_NAMES.get(name, name)}_token"] = token
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.chat_template = ChatTemplate(template, tokenizer.named_tokens, where)
    return tokenizer


def _special_id(metadata: Mapping[str, Any], name: str) -> int:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return value if isinstance(value, int) else -1


def wrap_tokenizer(tokenizer: Any) -> FastTokenizer | UserTokenizer:
    """Return `tokenizer` as softprompt uses it.

    Parameters
    ----------
    tokenizer : object
        A softprompt tokenizer (returned as it is), or any object with ``encode`` and ``decode``.

    Raises
    ------
    TypeError
        One of the two methods is missing.
    """
    if isinstance(tokenizer, (FastTokenizer, UserTokenizer)):
        return tokenizer
    return UserTokenizer(tokenizer)


def source_side(tokenizer: Any) -> Any:
    """Return the half of a tokenizer that cuts what a model reads; mostly it has but one.

    Parameters
    ----------
    tokenizer : object
    """
    return getattr(tokenizer, "source", tokenizer)


def added_specials(tokenizer: FastTokenizer | UserTokenizer | None) -> tuple[bool, bool]:
    """Say whether a tokenizer puts its begin token in front of a text, its end token behind it."""
    if tokenizer is None:
        return False, False
    with_specials = tokenizer.encode("a")
    without = tokenizer.encode("a", add_special_tokens=False)
    if len(with_specials) <= len(without):
        return False, False
    return with_specials[0] == tokenizer.bos_token_id, with_specials[-1] == tokenizer.eos_token_id
