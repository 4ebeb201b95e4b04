"""SentencePiece's model files (``tokenizer.model``, ``spiece.model``, ``*.spm``), read.

The schema is src/sentencepiece_model.proto of https://github.com/google/sentencepiece; the numbers
below are its field numbers, the defaults its defaults.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softprompt.formats.mapped_file import open_regular
from softprompt.formats.protobuf import Field, read_message

MAX_MODEL_BYTES = 64 * 1024 * 1024
MAX_PIECES = 2_000_000

# Types of pieces; GGUF's tokenizer.ggml.token_type has the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

UNIGRAM, BPE = 1, 2
_MODEL_TYPES = {UNIGRAM: "unigram", BPE: "bpe", 3: "word", 4: "char"}

_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5


@dataclass(frozen=True)
class Normalization:
    """How a text is rewritten before it is cut into pieces.

    Attributes
    ----------
    charsmap : bytes
        Precompiled character map; empty for none.
    add_dummy_prefix : bool
        Whether a space is put in front of a text.
    remove_extra_whitespaces : bool
        Whether spaces around a text go, and all but one of several.
    treat_whitespace_as_suffix : bool
        Whether the dummy space stands behind the text instead.
    """

    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    treat_whitespace_as_suffix: bool = False


@dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece model.

    Attributes
    ----------
    pieces : list of str
        By id.
    scores : ndarray of float64, shape [len(pieces)]
    types : ndarray of int, shape [len(pieces)]
        NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE.
    model_type : int
        UNIGRAM or BPE.
    byte_fallback : bool
        Whether characters without a piece become the pieces of their bytes.
    normalization : Normalization
    unk_id : int
        Id of the piece for what has no piece.
    bos_id, eos_id, pad_id : int or None
        Ids that the trainer reserved.
    where : str
        The file's name.
    """

    pieces: list[str]
    scores: np.ndarray
    types: np.ndarray
    model_type: int
    byte_fallback: bool
    normalization: Normalization
    unk_id: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    where: str


def load_sentencepiece(path: str | os.PathLike[str]) -> SentencePieceModel:
    """Read a SentencePiece model.

    Parameters
    ----------
    path : str or os.PathLike
        A regular file.

    Returns
    -------
    SentencePieceModel

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is damaged, no SentencePiece model, or one of a kind that is not computed here.
    """
    where = str(Path(path))
    fd, size = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        if size > MAX_MODEL_BYTES:
            raise ValueError(f"{where}: {size} bytes, at most {MAX_MODEL_BYTES} are read")
        data = file.read(MAX_MODEL_BYTES + 1)
    return parse_sentencepiece(data, where)


def parse_sentencepiece(data: bytes, where: str) -> SentencePieceModel:
    """Read a SentencePiece model from the bytes of its file; see `load_sentencepiece`."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Field] = {}
    normalizer: dict[int, Field] = {}
    for field in read_message(data, where):
        if field.number == _PIECES:
            if len(pieces) == MAX_PIECES:
                raise ValueError(f"{where}: more than {MAX_PIECES} pieces")
            pieces.append(_piece(field, len(pieces), where))
        elif field.number in (_TRAINER, _NORMALIZER):
            # The last of several values counts, as in every protocol buffer.
            inner = trainer if field.number == _TRAINER else normalizer
            inner.update((f.number, f) for f in read_message(field.data(), field.where))
        elif field.number == _DENORMALIZER:
            for inner_field in read_message(field.data(), field.where):
                if inner_field.number == 2 and inner_field.data():
                    raise ValueError(
                        f"{inner_field.where}: the model rewrites decoded texts (denormalizer_spec)"
                        ", which is not computed here"
                    )
    return _checked(pieces, trainer, normalizer, where)


def _piece(field: Field, index: int, where: str) -> tuple[str, float, int]:
    piece, score, kind = "", 0.0, NORMAL
    for inner in read_message(field.data(), field.where, max_fields=1000):
        if inner.number == 1:
            piece = inner.text()
        elif inner.number == 2:
            score = inner.real()
        elif inner.number == 3:
            kind = inner.integer()
    if not piece or not math.isfinite(score) or not NORMAL <= kind <= BYTE:
        raise ValueError(
            f"{where}: piece {index} is {piece[:60]!r} with score {score} and type {kind}, expected"
            f" a text, a finite number and {NORMAL} to {BYTE}"
        )
    return piece, score, kind


def _checked(
    pieces: list[tuple[str, float, int]],
    trainer: dict[int, Field],
    normalizer: dict[int, Field],
    where: str,
) -> SentencePieceModel:
    def number(number: int, default: int) -> int:
        return trainer[number].integer() if number in trainer else default

    def flag(fields: dict[int, Field], number: int, default: bool) -> bool:
        return bool(fields[number].integer()) if number in fields else default

    if not pieces:
        raise ValueError(f"{where}: no SentencePiece model: it has no pieces")
    texts = [piece for piece, _, _ in pieces]
    if len(set(texts)) < len(texts):
        seen: set[str] = set()
        twice = next(piece for piece in texts if piece in seen or seen.add(piece))
        raise ValueError(f"{where}: the piece {twice[:60]!r} occurs twice")
    types = np.array([kind for _, _, kind in pieces])
    model_type = number(3, UNIGRAM)
    if model_type not in (UNIGRAM, BPE):
        raise ValueError(
            f"{where}: trainer_spec.model_type is {_MODEL_TYPES.get(model_type, model_type)}, "
            "expected unigram or bpe"
        )
    if model_type == BPE and (types == UNUSED).any():
        raise ValueError(
            f"{where}: piece {np.flatnonzero(types == UNUSED)[0]} is of type UNUSED (5): texts "
            "would be merged to it and cut again, which is not computed here"
        )
    if not flag(normalizer, 5, True):
        raise ValueError(
            f"{where}: normalizer_spec.escape_whitespaces is false, which is not computed here"
        )
    unknown = np.flatnonzero(types == UNKNOWN)
    if len(unknown) != 1:
        raise ValueError(f"{where}: {len(unknown)} pieces of type UNKNOWN (2), expected one")

    def token_id(field: int, default: int) -> int | None:
        value = number(field, default)
        return value if 0 <= value < len(pieces) and types[value] == CONTROL else None

    return SentencePieceModel(
        pieces=texts,
        scores=np.array([score for _, score, _ in pieces]),
        types=types,
        model_type=model_type,
        byte_fallback=flag(trainer, 35, False),
        normalization=Normalization(
            charsmap=normalizer[2].data() if 2 in normalizer else b"",
            add_dummy_prefix=flag(normalizer, 3, True),
            remove_extra_whitespaces=flag(normalizer, 4, True),
            treat_whitespace_as_suffix=flag(trainer, 24, False),
        ),
        unk_id=int(unknown[0]),
        bos_id=token_id(41, 1),
        eos_id=token_id(42, 2),
        pad_id=token_id(43, -1),
        where=where,
    )
