"""The tokenizer of a Hugging Face folder, from whichever files it has.

tokenizer.json is the whole pipeline, the special tokens around a text included. As in transformers
5, ``add_bos_token`` and ``add_eos_token`` of tokenizer_config.json count only where there is no
tokenizer.json, and the language codes of a translation model come from ``src_lang`` in any case.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from softprompt.tokenizer import byte_level
from softprompt.tokenizer.fast import FastTokenizer, set_specials, tokenizers_errors
from softprompt.tokenizer.marian import SOURCE, load_marian
from softprompt.tokenizer.options import TokenizerOptions
from softprompt.tokenizer.sentencepiece_folder import (
    MODELS,
    OTHER_LAYOUTS,
    TRANSLATION,
    load_sentencepiece_folder,
    translated,
)
from softprompt.tokenizer.wordpiece import build_wordpiece, read_vocabulary_file

MAX_TOKENIZER_BYTES = 512 * 1024 * 1024
_WORDPIECE = "vocab.txt"
_WORDPIECE_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}  # fmt: skip
_NOT_READ = (*MODELS, "tekken.json", "tiktoken.model", byte_level.VOCABULARY, _WORDPIECE)


def load_folder_tokenizer(folder: Path, *, vocab_size: int, family: str) -> FastTokenizer | None:
    """Load the tokenizer of a Hugging Face folder.

    Parameters
    ----------
    folder : Path
        The folder.
    vocab_size : int
        Rows of the model's embedding; tokens beyond it are not added.
    family : str
        The model's family, where tokenizer_config.json names no class.

    Returns
    -------
    FastTokenizer or None
        None if the folder has no tokenizer, or, with a warning, one of a kind that is not read.

    Raises
    ------
    ValueError
        A damaged file, with its name.
    """
    options = TokenizerOptions(folder, family)
    tokenizer = _load(folder, options, vocab_size)
    if tokenizer is not None:
        tokenizer.named_tokens |= options.named_tokens()
        tokenizer.chat_template = options.chat_template(tokenizer.named_tokens)
        return tokenizer
    for name in _NOT_READ:
        if (folder / name).is_file():
            warnings.warn(
                f"{folder / name} is not read for a tokenizer of the kind {options.kind!r}: "
                "softprompt needs tokenizer.json. The model is loaded without a tokenizer; give it "
                "ids or load it with tokenizer=",
                UserWarning,
                stacklevel=2,
            )
            break
    return None


def _load(folder: Path, options: TokenizerOptions, vocab_size: int) -> FastTokenizer | None:
    kind = options.kind

    def has(*names: str) -> bool:
        return all((folder / name).is_file() for name in names)

    if has("tokenizer.json"):
        tokenizer = _from_tokenizer_json(folder / "tokenizer.json", options, vocab_size)
        return translated(tokenizer, options) if kind in TRANSLATION else tokenizer
    if has(SOURCE):
        return load_marian(folder, options)
    for name in MODELS:
        if has(name) and kind not in OTHER_LAYOUTS:
            return load_sentencepiece_folder(folder / name, options, vocab_size)
    if kind in byte_level.NAMED_TOKENS and has(byte_level.VOCABULARY, byte_level.MERGES):
        return _from_byte_level(folder, options, vocab_size)
    if kind in ("bert", "distilbert") and has(_WORDPIECE):
        return _from_wordpiece(folder / _WORDPIECE, options, vocab_size)
    return None


def _from_tokenizer_json(path: Path, options: TokenizerOptions, vocab_size: int) -> FastTokenizer:
    from tokenizers import Tokenizer

    size = path.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"{path}: {size} bytes, at most {MAX_TOKENIZER_BYTES} are read")
    data = path.read_bytes()
    with tokenizers_errors(str(path)):
        backend = Tokenizer.from_buffer(data)
    _add_tokens(backend, options, {}, vocab_size)
    return _finish(backend, options, {})


def _from_byte_level(folder: Path, options: TokenizerOptions, vocab_size: int) -> FastTokenizer:
    backend = byte_level.build_byte_level(folder, options)
    named = byte_level.NAMED_TOKENS[options.kind]
    _add_tokens(backend, options, named, vocab_size)
    tokenizer = _finish(backend, options, named)
    marked = options.kind in byte_level.MARKED
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    set_specials(
        backend,
        bos if marked or options.flag("add_bos_token", False) else None,
        eos if marked or options.flag("add_eos_token", False) else None,
    )
    return tokenizer


def _from_wordpiece(path: Path, options: TokenizerOptions, vocab_size: int) -> FastTokenizer:
    lowercase = options.flag("do_lower_case", True)
    backend = build_wordpiece(
        read_vocabulary_file(path),
        options.text("unk_token", _WORDPIECE_TOKENS["unk_token"]),
        str(path),
        lowercase=lowercase,
        strip_accents=options.flag("strip_accents", lowercase),
        chinese_characters=options.flag("tokenize_chinese_chars", True),
    )
    _add_tokens(backend, options, _WORDPIECE_TOKENS, vocab_size)
    cls, sep = (
        backend.token_to_id(options.text(key, _WORDPIECE_TOKENS[key]))
        for key in ("cls_token", "sep_token")
    )
    set_specials(backend, cls, sep)
    tokenizer = _finish(backend, options, _WORDPIECE_TOKENS)
    tokenizer.bos_token_id = cls if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    tokenizer.eos_token_id = sep if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return tokenizer


def _finish(backend: Any, options: TokenizerOptions, named: dict[str, str]) -> FastTokenizer:
    """Return the tokenizer with the ids of its begin and end tokens."""
    ids = []
    for key in ("bos_token", "eos_token"):
        text = options.text(key, named.get(key))
        ids.append(None if text is None else backend.token_to_id(text))
    tokenizer = FastTokenizer(backend, *ids)
    tokenizer.named_tokens = dict(named)
    return tokenizer


def _add_tokens(
    backend: Any, options: TokenizerOptions, named: dict[str, str], vocab_size: int
) -> None:
    """Add tokens that only the configuration knows: they are matched in texts too."""
    from tokenizers import AddedToken

    known = {str(token) for token in backend.get_added_tokens_decoder().values()}
    wanted = [AddedToken(entry.text, **entry.flags) for entry in options.added_tokens()]
    listed = {token.content for token in wanted}
    for key, text in {**named, **options.named_tokens()}.items():
        if text not in listed:
            wanted.append(AddedToken(text, **(options.token_flags(key) | {"special": True})))
            listed.add(text)
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
