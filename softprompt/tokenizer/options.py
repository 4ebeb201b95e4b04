"""What the files beside a Hugging Face tokenizer say: tokenizer_config.json and its companions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.formats import load_json
from softprompt.tokenizer.chat import MAX_TEMPLATE_CHARACTERS, ChatTemplate

CONFIG = "tokenizer_config.json"

NAMED_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip

# Classes that say nothing about how a text is cut.
_GENERIC = {"", "auto", "pretrained", "tokenizersbackend"}
_KINDS = {"mt5": "t5", "umt5": "t5", "m2m_100": "m2m100", "qwen3": "qwen2", "nllbmoe": "nllb"}


@dataclass(frozen=True)
class AddedEntry:
    """A token that the configuration adds to the vocabulary.

    Attributes
    ----------
    text : str
    token_id : int or None
        None: the next free one.
    flags : dict of str to bool
        Those of special, lstrip, rstrip, single_word and normalized that are given.
    """

    text: str
    token_id: int | None
    flags: dict[str, bool]


class TokenizerOptions:
    """The configuration of a Hugging Face tokenizer.

    Parameters
    ----------
    folder : Path
        With tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja
        or none of them.
    family : str
        The model's family: what decides where the configuration names no class.

    Attributes
    ----------
    where : Path
        tokenizer_config.json.
    kind : str
        How texts are cut and marked, as transformers names its classes: "llama", "t5", "mbart50".

    Raises
    ------
    ValueError
        A damaged file.
    """

    def __init__(self, folder: Path, family: str) -> None:
        self.where = folder / CONFIG
        self._folder = folder
        self._values: dict[str, Any] = {}
        # special_tokens_map.json fills in names that the configuration lacks.
        for name in ("special_tokens_map.json", CONFIG):
            self._values.update(_load_object(folder / name))
        kind = self._values.get("tokenizer_class")
        kind = kind if isinstance(kind, str) else ""
        kind = re.sub("(TokenizerFast|Tokenizer)$", "", kind).lower()
        kind = family if kind in _GENERIC else kind
        self.kind = _KINDS.get(kind, kind)

    def flag(self, key: str, default: bool) -> bool:
        """Return a switch.

        Raises
        ------
        ValueError
            It is neither true nor false.
        """
        value = self._values.get(key)
        if not isinstance(value, (bool, type(None))):
            raise ValueError(f"{self.where}: {key} is {value!r}, expected true or false")
        return default if value is None else value

    def number(self, key: str, default: int, most: int) -> int:
        """Return a count from 0 to `most`.

        Raises
        ------
        ValueError
            It is none.
        """
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise ValueError(f"{self.where}: {key} is {value!r}, expected 0 to {most}")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        """Return a text, or the text of a token, which may be an object with "content"."""
        value = self._values.get(key)
        if isinstance(value, Mapping):
            value = value.get("content")
        return value if isinstance(value, str) and value else default

    def token_flags(self, key: str) -> dict[str, bool]:
        """Return the flags of a named token that is written as an object."""
        return _flags(self._values.get(key))

    def named_tokens(self) -> dict[str, str]:
        """Return the texts of the named tokens: ``{"bos_token": "<s>"}``."""
        named = {key: self.text(key) for key in NAMED_TOKENS}
        return {key: text for key, text in named.items() if text is not None}

    def added_tokens(self) -> list[AddedEntry]:
        """Return the tokens with ids, by id, and then the further special tokens, which have none.

        The ids are those of ``added_tokens_decoder``, or else of added_tokens.json; the others are
        ``extra_special_tokens``, which transformers 4 calls ``additional_special_tokens``.

        Raises
        ------
        ValueError
            An entry that is none.
        """
        entries = self._tokens_with_ids()
        extra = self._values.get("extra_special_tokens")
        extra = self._values.get("additional_special_tokens") if extra is None else extra
        if isinstance(extra, Mapping):  # by names of the model's own
            extra = list(extra.values())
        if not isinstance(extra, (list, type(None))):
            raise ValueError(f"{self.where}: extra_special_tokens is no list")
        known = {entry.text for entry in entries}
        for token in extra or ():
            text = token.get("content") if isinstance(token, Mapping) else token
            if not isinstance(text, str) or not text:
                raise ValueError(f"{self.where}: extra_special_tokens holds {token!r}")
            if text not in known:
                known.add(text)
                entries.append(AddedEntry(text, None, _flags(token) | {"special": True}))
        return entries

    def _tokens_with_ids(self) -> list[AddedEntry]:
        listed = self._values.get("added_tokens_decoder")
        if listed is None:
            path = self._folder / "added_tokens.json"
            found = _load_object(path)
            if not all(isinstance(i, int) and not isinstance(i, bool) for i in found.values()):
                raise ValueError(f"{path}: expected ids by token")
            pairs = sorted(found.items(), key=lambda item: item[1])
            return [AddedEntry(text, token_id, {}) for text, token_id in pairs]
        if not isinstance(listed, Mapping):
            raise ValueError(f"{self.where}: added_tokens_decoder is not an object")
        entries = []
        for key, entry in listed.items():
            if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str):
                raise ValueError(
                    f"{self.where}: added_tokens_decoder[{key!r}] has no text as content"
                )
            entries.append(AddedEntry(entry["content"], self._id(key), _flags(entry)))
        return sorted(entries, key=lambda entry: entry.token_id)

    def chat_template(self, tokens: Mapping[str, str]) -> ChatTemplate | None:
        """Return the chat template, or None: of chat_template.jinja or of the configuration.

        Parameters
        ----------
        tokens : mapping of str to str
            Texts of special tokens by their names.

        Raises
        ------
        ValueError
            It is no text, or too long.
        """
        path = self._folder / "chat_template.jinja"
        if path.is_file():
            size = path.stat().st_size
            if size > 4 * MAX_TEMPLATE_CHARACTERS:
                raise ValueError(
                    f"{path}: {size} bytes, at most {4 * MAX_TEMPLATE_CHARACTERS} are read"
                )
            try:
                return ChatTemplate(path.read_bytes().decode("utf-8"), tokens, str(path))
            except UnicodeDecodeError as err:
                raise ValueError(f"{path}: not UTF-8 text at byte {err.start}") from err
        value = self._values.get("chat_template")
        if isinstance(value, list):  # several, each with its name
            named = [each for each in value if isinstance(each, Mapping)]
            value = next((t.get("template") for t in named if t.get("name") == "default"), None)
        if not isinstance(value, (str, type(None))):
            raise ValueError(f"{self.where}: chat_template is a {type(value).__name__}")
        return None if value is None else ChatTemplate(value, tokens, str(self.where))

    def _id(self, key: str) -> int:
        try:
            return int(key)
        except ValueError as err:
            raise ValueError(
                f"{self.where}: added_tokens_decoder has the key {key!r}, no id"
            ) from err


def _flags(token: Any) -> dict[str, bool]:
    if not isinstance(token, Mapping):
        return {}
    names = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return {name: token[name] for name in names if isinstance(token.get(name), bool)}


def _load_object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    values = load_json(path)
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values
