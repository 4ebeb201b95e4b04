"""Where a prompt starts: class labels, sampled vocabulary, a text, random rows, another prompt."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.optim.validation import check_count
from softprompt.prompt import SoftPrompt, validate_prompt_array
from softprompt.tokenizer import source_side

NAMED_STARTS = ("labels", "vocabulary", "random")

# The paper samples from "the 5,000 most common tokens" (Lester et al. 2021, section 3.2); its code
# takes the first 5,000 ids, as vocabularies are ordered by frequency or by merge, which is close.
POPULATION_SIZE = 5000

_ROWS_AT_A_TIME = 4096  # of the embedding table, for its statistics

# <s>, <0x0A>, <unused7>, <|endoftext|>, [PAD]: control, byte and unused tokens, by their spelling.
_MARKUP = re.compile(r"<.+>|\[.+\]", re.DOTALL)


@dataclass(frozen=True)
class TextStart:
    """A text that a prompt starts from: ``init=TextStart("Is this message spam or ham?")``.

    Attributes
    ----------
    text : str
        Its tokens, without any that the tokenizer adds, are repeated or cut to the prompt's length
        as PEFT does (``PromptTuningInit.TEXT``).
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"TextStart needs a str, got {self.text!r}")


def make_start(
    init: object,
    *,
    num_virtual_tokens: int,
    model: Any,
    labels: Sequence[Sequence[int]] | None = None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the prompt that training starts from.

    Parameters
    ----------
    init : str, TextStart, array-like, SoftPrompt or path
        - ``"labels"``: row i is the mean of the embeddings of label i's tokens; the rows after the
          last label are those of ``"vocabulary"``. With more labels than rows, the first labels
          are used and a warning says so.
        - ``"vocabulary"``: embeddings of `num_virtual_tokens` distinct common tokens: the first
          5,000 ids that are text (`common_tokens`). If there are fewer tokens than rows, drawn
          with repetition.
        - ``"random"``: independent normal entries with the mean and the standard deviation that
          the model's embeddings have in that column. (PEFT's N(0, 1) and the paper's uniform
          [-0.5, 0.5] are far off the scale of most models; pass an array to have them.)
        - ``TextStart("...")``: the embeddings of a text's tokens, repeated or cut to fit.
        - an array ``[num_virtual_tokens, hidden_size]``, a `SoftPrompt` or the path (a
          `pathlib.Path`, not a str) of a saved one: a copy of it, as in SPoT (Vu et al. 2022).
          Its length must be `num_virtual_tokens`.
    num_virtual_tokens : int
        Rows of the result: at least 1, at most the model's ``config.max_positions``.
    model : Model
        Its ``embeddings`` ``[vocab_size, hidden_size]``, ``config`` and ``tokenizer`` are used.
        The tokenizer may be None, except for a text.
    labels : sequence of sequences of int, optional
        Token ids of each label, for ``"labels"``.
    rng : numpy.random.Generator
        The only source of randomness.

    Returns
    -------
    ndarray of shape (num_virtual_tokens, hidden_size), float32
        A new array.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If `init` is an unknown name, needs labels or a tokenizer that are not there, or has
        another shape; if a label or the text has no tokens, or an id is outside the vocabulary.
    OSError
        If a saved prompt cannot be read.

    References
    ----------
    Lester, Al-Rfou, Constant 2021, section 3.2 (labels, vocabulary), and ``prompts.py`` of its
    released code.
    """
    longest = getattr(model.config, "max_positions", None) or 2**31 - 1
    check_count("num_virtual_tokens", num_virtual_tokens, minimum=1, maximum=longest)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {rng!r}")

    if isinstance(init, str):
        if init == "labels":
            start = _from_labels(num_virtual_tokens, model, labels, rng)
        elif init == "vocabulary":
            start = _from_vocabulary(num_virtual_tokens, model, rng)
        elif init == "random":
            mean, std = embedding_statistics(model.embeddings)
            start = rng.normal(mean, std, (num_virtual_tokens, len(mean)))
        else:
            raise ValueError(
                f"init={init!r}: expected one of {', '.join(map(repr, NAMED_STARTS))}, a TextStart "
                "for a text, a pathlib.Path for a saved prompt, a SoftPrompt or an array"
            )
    elif isinstance(init, TextStart):
        start = _from_text(init.text, num_virtual_tokens, model)
    else:
        start = _from_prompt(init, num_virtual_tokens, model)
    return np.array(start, np.float32, order="C")


def common_tokens(model: Any, size: int = POPULATION_SIZE) -> np.ndarray:
    """Return the first `size` ids of the vocabulary that are text.

    The model's begin, end and padding tokens are left out, and, if there is a tokenizer, tokens
    that are spelled as markup (``<0x0A>``, ``<unused7>``, ``[PAD]``) or whose text is blank or no
    complete character. Should that leave nothing, all ids but the special ones are returned.

    Parameters
    ----------
    model : Model
        Its ``config`` and ``tokenizer`` are used.
    size : int

    Returns
    -------
    ndarray of shape (at most size,), int64
        Ascending, and so roughly from the most common token on.
    """
    config, tokenizer = model.config, source_side(model.tokenizer)
    special = {config.bos_token_id, getattr(config, "pad_token_id", None), *config.eos_token_ids}
    candidates = [token for token in range(config.vocab_size) if token not in special]
    if tokenizer is None:
        return np.array(candidates[:size], np.int64)
    known = getattr(tokenizer, "vocab_size", None) or config.vocab_size
    chosen: list[int] = []
    for token in candidates:
        if len(chosen) == size or token >= known:
            break
        if _is_text(tokenizer, token):
            chosen.append(token)
    return np.array(chosen or candidates[:size], np.int64)


def embedding_statistics(embeddings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of every column of an embedding table.

    Parameters
    ----------
    embeddings : array-like of shape (vocab_size, hidden_size)
        Read a few thousand rows at a time, so that a table that is stored in a smaller type is
        never held whole in float32.

    Returns
    -------
    mean, std : ndarray of shape (hidden_size,), float64
    """
    rows = len(embeddings)
    total = squares = 0.0
    for first in range(0, rows, _ROWS_AT_A_TIME):
        ids = np.arange(first, min(first + _ROWS_AT_A_TIME, rows))
        block = np.asarray(embeddings[ids], np.float64)
        total = total + block.sum(axis=0)
        squares = squares + np.square(block).sum(axis=0)
    mean = total / rows
    return mean, np.sqrt(np.maximum(squares / rows - mean**2, 0.0))


def _is_text(tokenizer: Any, token: int) -> bool:
    spelled = getattr(tokenizer, "id_to_token", lambda _: None)(token)
    text = tokenizer.decode([token], skip_special_tokens=True).strip()
    if spelled is not None and _MARKUP.fullmatch(spelled):
        return False
    return bool(text) and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text


def _from_vocabulary(rows: int, model: Any, rng: np.random.Generator) -> np.ndarray:
    population = common_tokens(model)
    chosen = rng.choice(population, rows, replace=rows > len(population))
    return np.asarray(model.embeddings[chosen])


def _from_labels(
    rows: int, model: Any, labels: Sequence[Sequence[int]] | None, rng: np.random.Generator
) -> np.ndarray:
    if labels is None or len(labels) == 0:
        raise ValueError("init='labels' needs class labels, and there are none: use 'vocabulary'")
    if len(labels) > rows:
        warnings.warn(
            f"init='labels': {rows} virtual tokens start from the first {rows} of "
            f"{len(labels)} labels",
            stacklevel=3,
        )
    start = np.array(_from_vocabulary(rows, model, rng), np.float32)
    for row, label in enumerate(labels[:rows]):
        ids = _check_ids(label, model, f"label {row}")
        start[row] = np.asarray(model.embeddings[ids]).mean(axis=0, dtype=np.float64)
    return start


def _from_text(text: str, rows: int, model: Any) -> np.ndarray:
    if model.tokenizer is None:
        raise ValueError(
            "a TextStart needs a tokenizer, and the model has none: "
            "pass init=model.embeddings[ids], an array"
        )
    ids = source_side(model.tokenizer).encode(text, add_special_tokens=False)
    ids = _check_ids(ids, model, f"init={TextStart(text)!r}")
    return np.asarray(model.embeddings[np.resize(ids, rows)])  # resize repeats, and cuts


def _from_prompt(init: object, rows: int, model: Any) -> np.ndarray:
    if isinstance(init, os.PathLike):
        init = SoftPrompt.load(init)
    if isinstance(init, SoftPrompt):
        init.check_model(model)
    elif init is None or not (hasattr(init, "__array__") or isinstance(init, (list, tuple))):
        raise TypeError(
            f"init must be one of {', '.join(map(repr, NAMED_STARTS))}, a TextStart, an array, "
            f"a SoftPrompt or a pathlib.Path, got {init!r}"
        )
    array = validate_prompt_array(init, hidden_size=model.config.hidden_size, where="init")
    if len(array) != rows:
        raise ValueError(
            f"init has {len(array)} rows, expected num_virtual_tokens={rows}: the two must be equal"
        )
    return array


def _check_ids(ids: Sequence[int], model: Any, where: str) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"{where} must be a list of at least one token id, got {ids!r}")
    outside = (array < 0) | (array >= model.config.vocab_size)
    if outside.any():
        raise ValueError(
            f"{where} has the token id {array[outside][0]}, "
            f"outside the vocabulary of {model.config.vocab_size}"
        )
    return array.astype(np.int64)
