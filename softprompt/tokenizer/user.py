"""A tokenizer that the user brings: any object with `encode` and `decode`."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from softprompt.tokenizer.chat import ChatTemplate


class UserTokenizer:
    """What the rest of softprompt expects of a tokenizer, over any object with two methods.

    Parameters
    ----------
    tokenizer : object
        ``encode(text)`` returns ids: a sequence of int, an object with ``ids`` (tokenizers) or a
        mapping with ``"input_ids"``. ``decode(ids)`` returns a str. Where they accept
        ``add_special_tokens`` and ``skip_special_tokens``, these are passed on; where not, the
        object's own choice stands. ``bos_token_id``, ``eos_token_id``, ``vocab_size`` and
        ``id_to_token`` are used if present.

    Raises
    ------
    TypeError
        One of the two methods is missing.
    """

    def __init__(self, tokenizer: Any) -> None:
        for method in ("encode", "decode"):
            if not callable(getattr(tokenizer, method, None)):
                raise TypeError(
                    f"tokenizer is a {type(tokenizer).__name__} without {method}(), expected an "
                    "object with encode(text) and decode(ids)"
                )
        self.wrapped = tokenizer
        self._decode_takes = _accepts(tokenizer.decode, "skip_special_tokens")

    @property
    def bos_token_id(self) -> int | None:
        """Id of the begin token, or None."""
        return _id_or_none(getattr(self.wrapped, "bos_token_id", None))

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end token, or None."""
        return _id_or_none(getattr(self.wrapped, "eos_token_id", None))

    @property
    def vocab_size(self) -> int | None:
        """Number of tokens, or None where the object does not say."""
        size = getattr(self.wrapped, "vocab_size", None)
        if size is None and callable(getattr(self.wrapped, "get_vocab_size", None)):
            size = self.wrapped.get_vocab_size()
        return _id_or_none(size)

    @property
    def named_tokens(self) -> dict[str, str]:
        """Texts of special tokens by their names, where the object has ``special_tokens_map``."""
        tokens = getattr(self.wrapped, "special_tokens_map", None)
        if not isinstance(tokens, Mapping):
            return {}
        return {str(k): text for k, text in tokens.items() if isinstance(text, str)}

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The object's own chat template, where it has one as a text."""
        text = getattr(self.wrapped, "chat_template", None)
        if not isinstance(text, str):
            return None
        return ChatTemplate(text, self.named_tokens, f"chat_template of {self.wrapped!r}"[:200])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text into ids.

        Raises
        ------
        TypeError
            `text` is not a str, or the object returns something else than ids.
        """
        return self._encoded("encode", text, add_special_tokens)

    def _encoded(self, method: str, text: str, add_special_tokens: bool) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}, expected a str")
        encode = getattr(self.wrapped, method)
        takes = _accepts(encode, "add_special_tokens")
        found = encode(text, **({"add_special_tokens": add_special_tokens} if takes else {}))
        ids = getattr(found, "ids", found)
        try:
            if hasattr(ids, "keys"):
                ids = ids["input_ids"]
            return [operator.index(i) for i in ids]
        except (TypeError, KeyError) as err:
            raise TypeError(
                f"{method}() of the tokenizer ({type(self.wrapped).__name__}) returned "
                f"{type(found).__name__}, expected a sequence of int"
            ) from err

    def encode_target(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text that the model is to write into ids: by the object's own ``encode_target``,
        where it has one; see `encode`.
        """
        own = callable(getattr(self.wrapped, "encode_target", None))
        return self._encoded("encode_target" if own else "encode", text, add_special_tokens)

    def encode_batch(
        self, texts: Iterable[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Turn texts into lists of ids; see `encode`."""
        return [self.encode(text, add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn ids into a text.

        Raises
        ------
        TypeError
            The object returns something else than a str.
        """
        options = {"skip_special_tokens": skip_special_tokens} if self._decode_takes else {}
        text = self.wrapped.decode([int(i) for i in ids], **options)
        if not isinstance(text, str):
            raise TypeError(
                f"decode() of the tokenizer ({type(self.wrapped).__name__}) returned "
                f"{type(text).__name__}, expected a str"
            )
        return text

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as the vocabulary writes it, or its text where the object has no names."""
        for method in ("id_to_token", "convert_ids_to_tokens"):
            lookup = getattr(self.wrapped, method, None)
            if callable(lookup):
                return lookup(int(token_id))
        return self.decode([token_id], skip_special_tokens=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.wrapped!r})"


def _accepts(function: Callable, name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C without a signature
        return False
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _id_or_none(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None
