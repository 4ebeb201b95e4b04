"""What the two kinds of GGUF vocabulary share: tokens, their types, and the special ids.

Source: ``llama_vocab::impl::load`` in src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.tokenizer.huggingface import set_specials

# Values of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True)
class GgufVocabulary:
    """The vocabulary of a GGUF file.

    Attributes
    ----------
    tokens : list of str
        By id.
    ids : dict of str to int
        The inverse.
    types : ndarray of int, shape [len(tokens)]
        NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE.
    metadata : mapping
        The file's metadata.
    where : str
        The file's name.
    """

    tokens: list[str]
    ids: dict[str, int]
    types: np.ndarray
    metadata: Mapping[str, Any]
    where: str

    def token_id(self, name: str, default: int | None = None) -> int | None:
        """Return a special id, such as ``"bos"``; ids beyond the vocabulary count as absent."""
        value = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(value, int) and 0 <= value < len(self.tokens):
            return value
        return default if default is not None and default < len(self.tokens) else None

    def add_tokens(self, backend: Any) -> None:
        """Let control and user-defined tokens be matched in texts, as llama.cpp does."""
        from tokenizers import AddedToken

        added = []
        for token_id in np.flatnonzero(np.isin(self.types, (CONTROL, USER_DEFINED, UNKNOWN))):
            special = self.types[token_id] != USER_DEFINED
            added.append(AddedToken(self.tokens[token_id], special=bool(special), normalized=False))
        backend.add_tokens(added)

    def set_specials(self, backend: Any, bos: int | None, eos: int | None, adds_bos: bool) -> None:
        """Let the tokenizer add what the metadata says, `adds_bos` where it is silent."""
        for name, token_id, default in (("bos", bos, adds_bos), ("eos", eos, False)):
            key = f"tokenizer.ggml.add_{name}_token"
            wanted = self.metadata.get(key, default)
            if not isinstance(wanted, bool):
                raise ValueError(f"{self.where}: {key} is {wanted!r}, expected true or false")
            if wanted and token_id is None:
                raise ValueError(
                    f"{self.where}: texts get a {name} token (tokenizer.ggml.pre or {key}), but "
                    f"tokenizer.ggml.{name}_token_id is no id of the vocabulary"
                )
            if not wanted and name == "bos":
                bos = None
            elif not wanted:
                eos = None
        set_specials(backend, bos, eos)


def read_vocabulary(metadata: Mapping[str, Any], where: str) -> GgufVocabulary:
    """Read tokens and token types from GGUF metadata.

    Raises
    ------
    ValueError
        Lists that are missing, of another kind or length, or a token that occurs twice.
    """
    tokens = string_list(metadata, "tokenizer.ggml.tokens", where)
    # llama.cpp gives empty tokens a name of their own; they cannot occur in a text.
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise ValueError(f"{where}: tokenizer.ggml.tokens has the token {twice!r} twice")
    types = np.asarray(metadata.get("tokenizer.ggml.token_type", ()))
    if types.size == 0:
        types = np.full(len(tokens), NORMAL)
    if types.shape != (len(tokens),) or types.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: tokenizer.ggml.token_type has {types.size} values, expected "
            f"{len(tokens)} integers (one a token)"
        )
    return GgufVocabulary(tokens, ids, types, metadata, where)


def string_list(metadata: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return a list of texts from GGUF metadata."""
    values = metadata.get(key)
    if values is None or isinstance(values, (str, np.ndarray)) or not hasattr(values, "__iter__"):
        raise ValueError(f"{where}: {key} is {type(values).__name__}, expected an array of texts")
    values = list(values)
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{where}: {key} is empty or holds something else than texts")
    return values
