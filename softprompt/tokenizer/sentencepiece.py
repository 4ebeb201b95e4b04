"""SentencePiece tokenizers (BPE and unigram), with the segmentation of the library `tokenizers`.

The library's models hold the vocabulary and cut a normalised text; the normaliser follows
SentencePiece (`softprompt.tokenizer.normalizer`). Pieces that no text may give (control tokens,
bytes) have other names inside of the library, so that a text which spells ``<0x41>`` stays a text.

The library adds a unigram path's scores as float64 where SentencePiece adds them as float32: of two
paths whose scores differ by less than float32's rounding, it may take the other one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.tokenizer.fast import FastTokenizer, check_text, tokenizers_errors
from softprompt.tokenizer.normalizer import SPACE, SentencePieceNormalizer
from softprompt.tokenizer.sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    SentencePieceModel,
)

MAX_PIECE_CHARACTERS = 1024
"""Longest piece accepted: every split of every piece is looked at."""


@dataclass(frozen=True)
class SpecialToken:
    """A token that is found in a text before anything is normalised.

    Attributes
    ----------
    text : str
    token_id : int
    special : bool
        Whether decoding leaves it out.
    lstrip, rstrip : bool
        Whether it takes the white space before and behind it.
    """

    text: str
    token_id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False


class SentencePieceTokenizer(FastTokenizer):
    """Texts to ids and back as a SentencePiece model does it.

    Parameters
    ----------
    model : SentencePieceModel
        Its pieces are the vocabulary, in the order of the language model's ids.
    special_tokens : iterable of SpecialToken
        Tokens besides those that the model calls CONTROL or UNKNOWN; of two with one text the later
        one counts. Their ids may lie beyond the pieces.
    vocabulary : mapping of str to int, optional
        Ids of the pieces where they are not their numbers in the model; pieces that are not in it
        become what the model's unknown piece becomes.
    before, after : sequence of int
        Ids that stand around a text.
    prefix_after_special : bool
        Whether a text that follows a special token gets the dummy prefix, too.
    bos_token_id, eos_token_id : int, optional
        Ids of the begin and end tokens.

    Raises
    ------
    ValueError
        A piece that is too long, or a vocabulary that the library refuses.
    """

    def __init__(
        self,
        model: SentencePieceModel,
        special_tokens: Iterable[SpecialToken] = (),
        *,
        vocabulary: Mapping[str, int] | None = None,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        prefix_after_special: bool = True,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> None:
        super().__init__(_build(model), bos_token_id=bos_token_id, eos_token_id=eos_token_id)
        self.before, self.after = list(before), list(after)
        self._prefix_after_special = prefix_after_special
        user_defined = _pieces_of(model, USER_DEFINED)
        self._normalize = SentencePieceNormalizer(model.normalization, user_defined, model.where)
        if vocabulary is None:
            vocabulary = {piece: i for i, piece in enumerate(model.pieces)}
        unknown = model.pieces[model.unk_id]
        if unknown not in vocabulary:
            raise ValueError(f"{model.where}: the vocabulary has no {unknown[:60]!r}")
        self._model_ids = [vocabulary.get(p, vocabulary[unknown]) for p in model.pieces]
        own = _pieces_of(model, CONTROL, UNKNOWN)
        tokens = [SpecialToken(p, vocabulary[p]) for p in own if p in vocabulary]
        self._specials = {token.text: token for token in (*tokens, *special_tokens)}
        self._special_ids = {t.token_id for t in self._specials.values() if t.special}
        self._tokens = {i: token for token, i in vocabulary.items()}
        self._tokens |= {token.token_id: token.text for token in self._specials.values()}
        self._ids = {token: i for i, token in self._tokens.items()}
        self._find_special = _special_pattern(self._specials.values())
        self._unk_id = model.unk_id
        self._bytes = _byte_ids(model) if model.byte_fallback else None
        self._decoder = _decoder(model)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return max(self._tokens) + 1

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text into ids; see `FastTokenizer.encode`."""
        check_text(text)
        ids, at = [], 0
        for match in self._find_special.finditer(text) if self._find_special else ():
            ids += self._encode_part(text[at : match.start()], at == 0)
            ids.append(self._special(match.group()).token_id)
            at = match.end()
        ids += self._encode_part(text[at:], at == 0)
        return [*self.before, *ids, *self.after] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn ids into a text; see `FastTokenizer.decode`."""
        left_out = self._special_ids if skip_special_tokens else ()
        tokens = [self._tokens[int(i)] for i in ids if i in self._tokens and i not in left_out]
        return self._decoder.decode(tokens)

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as the vocabulary writes it, or None for an id without a token."""
        return self._tokens.get(int(token_id))

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token as the vocabulary writes it, or None."""
        return self._ids.get(token)

    def _special(self, found: str) -> SpecialToken:
        """Return the token of a match, which may have white space around it."""
        return self._specials.get(found) or self._specials[found.strip()]

    def _encode_part(self, text: str, is_start: bool) -> list[int]:
        """Return the ids of a text without special tokens."""
        if not text:
            return []
        spelled = self._normalize(text, at_start=is_start or self._prefix_after_special)
        encoding = self.backend.encode(spelled, add_special_tokens=False)
        if self._bytes is None:
            return [self._model_ids[i] for i in encoding.ids]
        ids = []
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id == self._unk_id:
                ids += [self._bytes[byte] for byte in spelled[start:end].encode("utf-8")]
            else:
                ids.append(token_id)
        return [self._model_ids[i] for i in ids]


def merges_by_score(
    tokens: Sequence[str], scores: np.ndarray, is_normal: np.ndarray, where: str
) -> list[tuple[str, str]]:
    """Return SentencePiece's scores as a list of merges.

    SentencePiece merges the adjacent pair whose concatenation has the best score until none is a
    token. The same as a list: all splits of all tokens into two tokens, the best token first.

    Parameters
    ----------
    tokens : sequence of str
    scores : ndarray of float, shape [len(tokens)]
    is_normal : ndarray of bool, shape [len(tokens)]
        Tokens that merging may give.
    where : str
        The list's name, for messages.

    Raises
    ------
    ValueError
        A token is longer than MAX_PIECE_CHARACTERS.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    # Equal scores: the earlier token first, as in SentencePiece's own order.
    for token_id in np.argsort(-scores, kind="stable").tolist():
        token = tokens[token_id]
        if not is_normal[token_id] or len(token) < 2:
            continue
        if len(token) > MAX_PIECE_CHARACTERS:
            raise ValueError(
                f"{where}[{token_id}] has {len(token)} characters, expected at most "
                f"{MAX_PIECE_CHARACTERS}"
            )
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges


def _pieces_of(model: SentencePieceModel, *kinds: int) -> list[str]:
    return [model.pieces[i] for i in np.flatnonzero(np.isin(model.types, kinds))]


def _build(model: SentencePieceModel) -> Any:
    """Return the library's tokenizer for normalised texts."""
    from tokenizers import AddedToken, Tokenizer, models

    matched = np.isin(model.types, (NORMAL, USER_DEFINED))
    # A normalised text has no spaces, so that these names occur in none.
    names = [
        piece if ok and " " not in piece else f" {index}"
        for index, (piece, ok) in enumerate(zip(model.pieces, matched.tolist(), strict=True))
    ]
    with tokenizers_errors(model.where):
        if model.model_type == BPE:
            merges = merges_by_score(names, model.scores, model.types == NORMAL, model.where)
            ids = {name: index for index, name in enumerate(names)}
            backend = Tokenizer(
                models.BPE(ids, merges, unk_token=names[model.unk_id], fuse_unk=True)
            )
        else:
            # What no text gives must not take part in the score of unknown characters, which lies
            # below the lowest of all.
            normal = model.scores[model.types == NORMAL]
            lowest = normal.min() if len(normal) else 0.0
            scores = np.where(model.types == NORMAL, model.scores, lowest).tolist()
            vocabulary = list(zip(names, scores, strict=True))
            backend = Tokenizer(models.Unigram(vocabulary, unk_id=model.unk_id))
        symbols = _pieces_of(model, USER_DEFINED)
        backend.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols])
    return backend


def _special_pattern(tokens: Iterable[SpecialToken]) -> re.Pattern | None:
    """Return what finds a special token, the longest of those that begin at one place."""
    alternatives = []
    for token in sorted(tokens, key=lambda token: len(token.text), reverse=True):
        before, after = r"\s*" * token.lstrip, r"\s*" * token.rstrip
        alternatives.append(f"{before}{re.escape(token.text)}{after}")
    return re.compile("|".join(alternatives)) if alternatives else None


def _byte_ids(model: SentencePieceModel) -> list[int]:
    ids = {model.pieces[i]: i for i in np.flatnonzero(model.types == BYTE).tolist()}
    missing = [name for name in (f"<0x{byte:02X}>" for byte in range(256)) if name not in ids]
    if missing:
        raise ValueError(
            f"{model.where}: byte_fallback is set, but there is no piece {missing[0]!r} of type "
            f"BYTE (and {len(missing) - 1} others)"
        )
    return [ids[f"<0x{byte:02X}>"] for byte in range(256)]


def _decoder(model: SentencePieceModel) -> Any:
    from tokenizers import decoders

    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    options = model.normalization
    if options.add_dummy_prefix or options.remove_extra_whitespaces:
        parts.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(parts)
