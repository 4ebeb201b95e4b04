"""Marian's tokenizers: two SentencePiece models, for source and target, and the ids in vocab.json.

transformers' MarianTokenizer also normalises punctuation with Moses' rules where the package
sacremoses is installed. That is not done here: the ids are those of transformers without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from softprompt.formats import load_json
from softprompt.tokenizer.fast import FastTokenizer
from softprompt.tokenizer.options import TokenizerOptions
from softprompt.tokenizer.sentencepiece import SentencePieceTokenizer, SpecialToken
from softprompt.tokenizer.sentencepiece_model import load_sentencepiece

SOURCE, TARGET = "source.spm", "target.spm"
VOCABULARY, TARGET_VOCABULARY = "vocab.json", "target_vocab.json"


class MarianTokenizer(FastTokenizer):
    """A pair of tokenizers: one for the texts to translate, one for what the model writes.

    Parameters
    ----------
    source, target : SentencePieceTokenizer
    """

    def __init__(self, source: SentencePieceTokenizer, target: SentencePieceTokenizer) -> None:
        super().__init__(source.backend, eos_token_id=source.eos_token_id)
        self.source, self.target = source, target

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self.target.vocab_size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text to translate into ids; see `FastTokenizer.encode`."""
        return self.source.encode(text, add_special_tokens)

    def encode_target(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a translation into ids; see `FastTokenizer.encode_target`."""
        return self.target.encode(text, add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn the ids of a translation into a text; see `FastTokenizer.decode`."""
        return self.target.decode(ids, skip_special_tokens)

    def id_to_token(self, token_id: int) -> str | None:
        """Return a target token as the vocabulary writes it, or None."""
        return self.target.id_to_token(token_id)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a target token as the vocabulary writes it, or None."""
        return self.target.token_to_id(token)


def load_marian(folder: Path, options: TokenizerOptions) -> MarianTokenizer:
    """Load Marian's pair of tokenizers from a Hugging Face folder.

    Parameters
    ----------
    folder : Path
        With source.spm, target.spm and vocab.json; target_vocab.json where ``separate_vocabs``.
    options : TokenizerOptions

    Returns
    -------
    MarianTokenizer

    Raises
    ------
    ValueError
        A damaged file.
    """
    vocabulary = load_vocabulary(folder / VOCABULARY)
    separate = options.flag("separate_vocabs", False)
    targets = load_vocabulary(folder / TARGET_VOCABULARY) if separate else vocabulary
    source = _one_side(folder / SOURCE, folder / VOCABULARY, vocabulary, options)
    target_file = folder / (TARGET_VOCABULARY if separate else VOCABULARY)
    return MarianTokenizer(source, _one_side(folder / TARGET, target_file, targets, options))


def load_vocabulary(path: Path) -> dict[str, int]:
    """Read ids by token from a JSON file.

    Raises
    ------
    ValueError
        The file is damaged, or holds something else.
    """
    values = load_json(path)
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"{path}: expected a JSON object of ids by token")
    for token, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise ValueError(f"{path}: the token {token[:60]!r} has the id {value!r}")
    if len(set(values.values())) < len(values):
        raise ValueError(f"{path}: several tokens have one id")
    return dict(values)


def _one_side(
    path: Path, vocabulary_file: Path, vocabulary: Mapping[str, int], options: TokenizerOptions
) -> SentencePieceTokenizer:
    eos = options.text("eos_token", "</s>")
    named = {options.text("unk_token", "<unk>"), options.text("pad_token", "<pad>"), eos}
    if eos not in vocabulary:
        raise ValueError(f"{vocabulary_file}: there is no {eos!r}")
    specials = [SpecialToken(text, vocabulary[text]) for text in named if text in vocabulary]
    # Models for several target languages are told which by a token in front of the text.
    specials += [
        SpecialToken(text, token_id, special=False)
        for text, token_id in vocabulary.items()
        if text.startswith(">>") and text.endswith("<<")
    ]
    return SentencePieceTokenizer(
        load_sentencepiece(path),
        specials,
        vocabulary=vocabulary,
        after=[vocabulary[eos]],
        eos_token_id=vocabulary[eos],
    )
