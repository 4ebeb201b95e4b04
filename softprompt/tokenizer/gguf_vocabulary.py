"""What the kinds of GGUF vocabulary share: tokens, their types and scores, and the special ids.

Source: ``llama_vocab::impl::load`` in src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.tokenizer.fast import set_specials
from softprompt.tokenizer.sentencepiece_model import CONTROL, NORMAL, UNKNOWN, USER_DEFINED


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

    def scores(self) -> np.ndarray:
        """Return the scores of a SentencePiece vocabulary, float64 ``[len(tokens)]``.

        Raises
        ------
        ValueError
            There is not one finite number a token.
        """
        scores = np.asarray(self.metadata.get("tokenizer.ggml.scores", ()))
        if scores.shape != (len(self.tokens),) or scores.dtype.kind != "f":
            raise ValueError(
                f"{self.where}: tokenizer.ggml.scores has {scores.size} values, expected "
                f"{len(self.tokens)} numbers (one a token)"
            )
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{self.where}: tokenizer.ggml.scores[{np.flatnonzero(~np.isfinite(scores))[0]}] "
                "is not finite"
            )
        return scores.astype(np.float64)

    def flag(self, name: str, default: bool) -> bool:
        """Return whether the metadata sets ``tokenizer.ggml.<name>``, `default` if it is silent.

        Raises
        ------
        ValueError
            The value is neither true nor false.
        """
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            raise ValueError(
                f"{self.where}: tokenizer.ggml.{name} is {value!r}, expected true or false"
            )
        return value

    def added(self, name: str, token_id: int | None, default: bool) -> int | None:
        """Return `token_id` if texts get that token (``"bos"``, ``"eos"``, ``"sep"``), else None.

        Raises
        ------
        ValueError
            Texts get it and there is none.
        """
        if not self.flag(f"add_{name}_token", default):
            return None
        if token_id is None:
            raise ValueError(
                f"{self.where}: texts get a {name} token (tokenizer.ggml.pre or "
                f"tokenizer.ggml.add_{name}_token), but tokenizer.ggml.{name}_token_id is no id of "
                "the vocabulary"
            )
        return token_id

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
        set_specials(backend, self.added("bos", bos, adds_bos), self.added("eos", eos, False))


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
