"""Hugging Face folders with a SentencePiece model instead of tokenizer.json, by family.

What a family adds to the pieces (sentinels, language codes, another order of the first ids) is what
transformers' class of that name does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from softprompt.tokenizer.fast import FastTokenizer
from softprompt.tokenizer.languages import (
    M2M100_LANGUAGES,
    MBART50_LANGUAGES,
    MBART_LANGUAGES,
    NLLB_LANGUAGES,
    WMT21_LANGUAGES,
    TranslationTokenizer,
)
from softprompt.tokenizer.marian import load_vocabulary
from softprompt.tokenizer.options import AddedEntry, TokenizerOptions
from softprompt.tokenizer.sentencepiece import SentencePieceTokenizer, SpecialToken
from softprompt.tokenizer.sentencepiece_model import SentencePieceModel, load_sentencepiece

MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
"""File names of SentencePiece models in Hugging Face folders."""

OTHER_LAYOUTS = (
    "barthez", "camembert", "pegasus", "plbart", "seamlessm4t", "xglm", "xlmprophetnet",
    "xlmroberta",
)  # fmt: skip
"""Kinds whose ids are not the model's own numbers, in ways that are not computed here."""

_MAX_SENTINELS = 10_000
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")  # the first ids, whatever the model's are


@dataclass(frozen=True)
class Translation:
    """What the translation models of a family have beside their pieces.

    Attributes
    ----------
    languages : tuple of str
        Codes in the order of their ids.
    src_lang : str
        Language of texts where nothing is said.
    code_stands : str
        See `TranslationTokenizer`.
    pattern : str
        How a code is written as a token.
    """

    languages: tuple[str, ...]
    src_lang: str
    code_stands: str
    pattern: str = "{}"


TRANSLATION = {
    "mbart": Translation(MBART_LANGUAGES, "en_XX", "after"),
    "mbart50": Translation(MBART50_LANGUAGES, "en_XX", "before"),
    "nllb": Translation(NLLB_LANGUAGES, "eng_Latn", "before"),
    "m2m100": Translation(M2M100_LANGUAGES, "en", "before", "__{}__"),
}
"""Kinds of tokenizer whose texts carry a language code."""


def load_sentencepiece_folder(
    path: Path, options: TokenizerOptions, vocab_size: int
) -> FastTokenizer:
    """Load the tokenizer of a folder with a SentencePiece model.

    Parameters
    ----------
    path : Path
        The model's file.
    options : TokenizerOptions
    vocab_size : int
        Rows of the language model's embedding; tokens beyond it are not added.

    Returns
    -------
    FastTokenizer

    Raises
    ------
    ValueError
        A damaged file.
    """
    model = load_sentencepiece(path)
    if options.kind == "m2m100":
        return _load_m2m100(model, path.parent / "vocab.json", options, vocab_size)
    if options.kind in TRANSLATION:
        return _load_fairseq(model, options, vocab_size)
    if options.kind == "t5":
        return _load_t5(model, options, vocab_size)
    if not options.flag("add_prefix_space", True):
        model = replace(model, normalization=replace(model.normalization, add_dummy_prefix=False))
    specials = _special_tokens(options, model.pieces, len(model.pieces), vocab_size)
    ids = {token: i for i, token in enumerate(model.pieces)}
    ids |= {token.text: token.token_id for token in specials}
    bos = ids.get(options.text("bos_token", ""), model.bos_id)
    eos = ids.get(options.text("eos_token", ""), model.eos_id)
    return SentencePieceTokenizer(
        model,
        specials,
        before=[bos] if bos is not None and options.flag("add_bos_token", False) else [],
        after=[eos] if eos is not None and options.flag("add_eos_token", False) else [],
        prefix_after_special=options.flag("legacy", False),
        bos_token_id=bos,
        eos_token_id=eos,
    )


def translated(tokenizer: FastTokenizer, options: TokenizerOptions) -> TranslationTokenizer:
    """Let a tokenizer of a kind in `TRANSLATION` put language codes beside its texts.

    Parameters
    ----------
    tokenizer : FastTokenizer
    options : TokenizerOptions

    Returns
    -------
    TranslationTokenizer

    Raises
    ------
    ValueError
        No end token, or a language that the vocabulary has no code for.
    """
    kind = TRANSLATION[options.kind]
    languages = kind.languages
    if options.text("language_codes") == "wmt21":
        languages = WMT21_LANGUAGES
    codes = {code: tokenizer.token_to_id(kind.pattern.format(code)) for code in languages}
    eos = tokenizer.token_to_id(options.text("eos_token", "</s>"))
    src_lang = options.text("src_lang", kind.src_lang)
    if eos is None or codes.get(src_lang) is None:
        raise ValueError(
            f"{options.where}: eos_token or src_lang ({src_lang!r}) is no token of the vocabulary"
        )
    return TranslationTokenizer(
        tokenizer,
        {code: token_id for code, token_id in codes.items() if token_id is not None},
        src_lang=src_lang,
        tgt_lang=options.text("tgt_lang", src_lang),
        code_stands="after" if options.flag("legacy_behaviour", False) else kind.code_stands,
        eos_token_id=eos,
    )


def _load_t5(
    model: SentencePieceModel, options: TokenizerOptions, vocab_size: int
) -> FastTokenizer:
    """T5: sentinels behind the pieces, the last one first, and an end token behind every text."""
    count, size = options.number("extra_ids", 100, _MAX_SENTINELS), len(model.pieces)
    sentinels = [
        SpecialToken(f"<extra_id_{i}>", size + count - 1 - i)
        for i in range(count)
        if size + count - 1 - i < vocab_size
    ]
    known = [*model.pieces, *(token.text for token in sentinels)]
    specials = _special_tokens(options, known, size + count, vocab_size)
    ids = {token: i for i, token in enumerate(model.pieces)}
    eos = ids.get(options.text("eos_token", "</s>"), model.eos_id)
    if eos is None:
        raise ValueError(f"{model.where}: the end token is no piece")
    return SentencePieceTokenizer(model, [*sentinels, *specials], after=[eos], eos_token_id=eos)


def _load_fairseq(
    model: SentencePieceModel, options: TokenizerOptions, vocab_size: int
) -> FastTokenizer:
    """mBART, NLLB: fairseq's first ids, the pieces from the fourth on, language codes, a mask."""
    vocabulary = {token: i for i, token in enumerate(_FAIRSEQ)}
    vocabulary |= {piece: i + 1 for i, piece in enumerate(model.pieces) if i >= 3}
    first = len(model.pieces) + 1
    added = [*TRANSLATION[options.kind].languages, options.text("mask_token", "<mask>")]
    specials = [
        SpecialToken(text, first + i, lstrip=text == added[-1])
        for i, text in enumerate(added)
        if first + i < vocab_size
    ]
    specials = [*(SpecialToken(text, i) for i, text in enumerate(_FAIRSEQ)), *specials]
    known = [*vocabulary, *added]
    specials += _special_tokens(options, known, first + len(added), vocab_size)
    return translated(
        SentencePieceTokenizer(model, specials, vocabulary=vocabulary, bos_token_id=0), options
    )


def _load_m2m100(
    model: SentencePieceModel, path: Path, options: TokenizerOptions, vocab_size: int
) -> FastTokenizer:
    """M2M-100: ids of vocab.json, language codes behind them."""
    vocabulary = load_vocabulary(path)
    named = [token for token in _FAIRSEQ if token in vocabulary]
    languages = TRANSLATION["m2m100"].languages
    if options.text("language_codes") == "wmt21":
        languages = WMT21_LANGUAGES
    first = len(vocabulary)
    specials = [SpecialToken(token, vocabulary[token]) for token in named]
    specials += [
        SpecialToken(TRANSLATION["m2m100"].pattern.format(code), first + i)
        for i, code in enumerate(languages)
        if first + i < vocab_size
    ]
    return translated(
        SentencePieceTokenizer(
            model, specials, vocabulary=vocabulary, bos_token_id=vocabulary.get("<s>")
        ),
        options,
    )


def _special_tokens(
    options: TokenizerOptions, known: Iterable[str], next_id: int, vocab_size: int
) -> list[SpecialToken]:
    """Return the tokens that the configuration adds: those with ids, then those without."""
    known = set(known)
    specials = []
    entries = options.added_tokens()
    entries += [
        AddedEntry(text, None, {"special": True}) for text in options.named_tokens().values()
    ]
    for entry in entries:
        token_id = entry.token_id
        if token_id is None:
            if entry.text in known:
                continue
            token_id = next_id
        # An id without an embedding could not be used; transformers would add it all the same.
        if 0 <= token_id < vocab_size:
            flags = {name: entry.flags.get(name, False) for name in ("special", "lstrip", "rstrip")}
            specials.append(SpecialToken(entry.text, token_id, **flags))
            known.add(entry.text)
            next_id = max(next_id, token_id + 1)
    return specials
