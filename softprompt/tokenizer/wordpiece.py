"""WordPiece tokenizers: a BERT folder's ``vocab.txt``, a GGUF's ``tokenizer.ggml.model`` "bert"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt.tokenizer.fast import FastTokenizer, set_specials, tokenizers_errors
from softprompt.tokenizer.gguf_vocabulary import read_vocabulary
from softprompt.tokenizer.normalizer import SPACE
from softprompt.tokenizer.sentencepiece_model import NORMAL

MAX_VOCABULARY_BYTES = 64 * 1024 * 1024
_INSIDE = "##"  # of a piece within a word
_LONGEST_WORD = 100  # longer words are unknown as a whole, as in BERT


def build_wordpiece(
    ids: Mapping[str, int],
    unknown: str,
    where: str,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese_characters: bool = True,
    longest_word: int = _LONGEST_WORD,
) -> Any:
    """Return a `tokenizers.Tokenizer` that cuts texts as BERT does.

    Parameters
    ----------
    ids : mapping of str to int
        Tokens; those within a word begin with ``##``.
    unknown : str
        The token for words that cannot be cut.
    where : str
        The file's name, for messages.
    lowercase, chinese_characters : bool
        Whether letters are lowered, and CJK ideographs stand alone.
    strip_accents : bool, optional
        Whether accents are taken off; None: where letters are lowered.
    longest_word : int
        Most characters of a word; a longer one is unknown.

    Raises
    ------
    ValueError
        `unknown` is no token, or the library refuses the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    if unknown not in ids:
        raise ValueError(f"{where}: the token {unknown[:60]!r} for unknown words is not in it")

    with tokenizers_errors(where):
        backend = Tokenizer(
            models.WordPiece(
                dict(ids),
                unk_token=unknown,
                continuing_subword_prefix=_INSIDE,
                max_input_chars_per_word=longest_word,
            )
        )
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=chinese_characters,
            strip_accents=strip_accents,
            lowercase=lowercase,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix=_INSIDE)
    return backend


def read_vocabulary_file(path: Path) -> dict[str, int]:
    """Read ``vocab.txt``: one token a line, its number the id.

    Raises
    ------
    ValueError
        The file is too large, no UTF-8, empty, or has a token twice.
    """
    size = path.stat().st_size
    if size > MAX_VOCABULARY_BYTES:
        raise ValueError(f"{path}: {size} bytes, at most {MAX_VOCABULARY_BYTES} are read")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as err:
        raise ValueError(f"{path}: not UTF-8 text at byte {err.start}") from err
    lines = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    ids = {token: i for i, token in enumerate(lines)}
    if not text or len(ids) < len(lines):
        twice = next((token for i, token in enumerate(lines) if ids[token] != i), "")
        raise ValueError(f"{path}: the token {twice[:60]!r} is on two lines, or there is none")
    return ids


def build_wpm(metadata: Mapping[str, Any], where: str) -> FastTokenizer:
    """Build the tokenizer of a GGUF with a WordPiece vocabulary.

    Such a file writes U+2581 in front of tokens that begin a word instead of ``##`` in front of
    the others (``llm_tokenizer_wpm`` in src/llama-vocab.cpp of
    https://github.com/ggml-org/llama.cpp).

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
    vocabulary = read_vocabulary(metadata, where)
    ids: dict[str, int] = {}
    for token_id, token in enumerate(vocabulary.tokens):
        if vocabulary.types[token_id] == NORMAL:
            begins = token.startswith(SPACE)
            token = token.removeprefix(SPACE) if begins else _INSIDE + token
        if ids.setdefault(token, token_id) != token_id:
            raise ValueError(f"{where}: tokenizer.ggml.tokens has the token {token[:60]!r} twice")
    unknown = vocabulary.token_id("unknown", 100)
    if unknown is None:
        raise ValueError(f"{where}: tokenizer.ggml.unknown_token_id is no id of the vocabulary")
    lowercase = vocabulary.flag("normalizer.lowercase", True)
    backend = build_wordpiece(
        ids,
        next(token for token, i in ids.items() if i == unknown),
        where,
        lowercase=lowercase,
        strip_accents=vocabulary.flag("normalizer.strip_accents", lowercase),
        longest_word=2**31,  # llama.cpp has no such limit
    )
    with tokenizers_errors(where):
        vocabulary.add_tokens(backend)
    bos, sep = vocabulary.token_id("bos", 101), vocabulary.token_id("seperator", 102)
    before, after = vocabulary.added("bos", bos, True), vocabulary.added("sep", sep, True)
    set_specials(backend, before, after)
    return FastTokenizer(backend, bos_token_id=bos, eos_token_id=vocabulary.token_id("eos", sep))
