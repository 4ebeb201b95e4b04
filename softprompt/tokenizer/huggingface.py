"""The tokenizer of a Hugging Face folder: tokenizer.json, or GPT-2's vocab.json and merges.txt.

tokenizer.json is the whole pipeline, the special tokens around a text included. As in transformers
5, ``add_bos_token`` and ``add_eos_token`` of tokenizer_config.json count only where there is no
tokenizer.json.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt.formats import load_json
from softprompt.tokenizer.fast import FastTokenizer, set_specials, tokenizers_errors

MAX_TOKENIZER_BYTES = 512 * 1024 * 1024
_GPT2_SPECIAL = "<|endoftext|>"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def load_folder_tokenizer(folder: Path, *, vocab_size: int, family: str) -> FastTokenizer | None:
    """Load the tokenizer of a Hugging Face folder.

    Parameters
    ----------
    folder : Path
        The folder.
    vocab_size : int
        Rows of the model's embedding; tokens beyond it are not added.
    family : str
        The model's family: "gpt2" may have vocab.json and merges.txt instead of tokenizer.json.

    Returns
    -------
    FastTokenizer or None
        None if the folder has no tokenizer, or, with a warning, one of a kind that is not read.

    Raises
    ------
    ValueError
        A damaged file, with its name.
    """
    options = _options(folder)
    path = folder / "tokenizer.json"
    if path.is_file():
        backend = _read_tokenizer_json(path)
    elif (
        family == "gpt2" and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    ):
        backend = _read_gpt2(folder, options)
        for key in ("bos_token", "eos_token", "unk_token"):
            options.setdefault(key, _GPT2_SPECIAL)
    else:
        for name in ("tokenizer.model", "vocab.json", "tekken.json"):
            if (folder / name).is_file():
                warnings.warn(
                    f"{folder / name} is not read: softprompt needs tokenizer.json. The model is "
                    "loaded without a tokenizer; give it ids or load it with tokenizer=",
                    UserWarning,
                    stacklevel=2,
                )
                break
        return None
    _add_tokens(backend, options, vocab_size, folder / "tokenizer_config.json")
    bos, eos = (_token_id(backend, options.get(key)) for key in ("bos_token", "eos_token"))
    if not path.is_file():
        set_specials(
            backend,
            bos if options.get("add_bos_token") else None,
            eos if options.get("add_eos_token") else None,
        )
    return FastTokenizer(backend, bos_token_id=bos, eos_token_id=eos)


def _options(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json, and special_tokens_map.json for the names that it lacks."""
    options: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        values = load_json(path)
        if not isinstance(values, Mapping):
            raise ValueError(f"{path}: expected a JSON object, found {type(values).__name__}")
        options.update(values)
    for key in ("add_bos_token", "add_eos_token"):
        if not isinstance(options.get(key), (bool, type(None))):
            raise ValueError(
                f"{folder / 'tokenizer_config.json'}: {key} is {options[key]!r}, "
                "expected true or false"
            )
    return options


def _read_tokenizer_json(path: Path) -> Any:
    from tokenizers import Tokenizer

    size = path.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"{path}: {size} bytes, at most {MAX_TOKENIZER_BYTES} are read")
    data = path.read_bytes()
    with tokenizers_errors(str(path)):
        return Tokenizer.from_buffer(data)


def _read_gpt2(folder: Path, options: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    with tokenizers_errors(str(folder / "vocab.json")):
        backend = Tokenizer(
            models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=options.get("add_prefix_space") is True
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: Any, options: Mapping[str, Any], vocab_size: int, where: Path) -> None:
    """Add tokens that only tokenizer_config.json knows: they are matched in texts too."""
    from tokenizers import AddedToken

    known = {str(token) for token in backend.get_added_tokens_decoder().values()}
    listed = options.get("added_tokens_decoder", {})
    if not isinstance(listed, Mapping):
        raise ValueError(f"{where}: added_tokens_decoder is not an object")
    wanted: list[AddedToken] = []
    for token_id, entry in sorted(listed.items(), key=lambda item: _as_int(item[0], where)):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str):
            raise ValueError(f"{where}: added_tokens_decoder[{token_id!r}] has no text as content")
        flags = {
            key: entry[key]
            for key in ("special", "lstrip", "rstrip", "single_word", "normalized")
            if isinstance(entry.get(key), bool)
        }
        wanted.append(AddedToken(entry["content"], **flags))
    named = [_text(options.get(key)) for key in _NAMED_TOKENS]
    for text in named:
        if text is not None and text not in {token.content for token in wanted}:
            wanted.append(AddedToken(text, special=True))
    for token in wanted:
        if token.content in known:
            continue
        # An id without an embedding could not be used; transformers would add it all the same.
        if (
            backend.token_to_id(token.content) is None
            and backend.get_vocab_size(with_added_tokens=True) >= vocab_size
        ):
            continue
        backend.add_tokens([token])


def _text(token: Any) -> str | None:
    """Return a named token's text: it is written as a text or as an object with "content"."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _token_id(backend: Any, token: Any) -> int | None:
    text = _text(token)
    return None if text is None else backend.token_to_id(text)


def _as_int(key: Any, where: Path) -> int:
    try:
        return int(key)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{where}: added_tokens_decoder has the key {key!r}, no id") from err
