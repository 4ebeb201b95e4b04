"""Inputs, targets and prompts as the packer's symbols, with every check that a caller deserves."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softprompt.prompt import SoftPrompt, validate_prompt_array

__all__ = ["PromptTable", "TextRows", "check_ids", "check_weights", "is_several"]


def is_several(prompt: object) -> bool:
    """Whether `prompt` is a list of prompts; nested numbers of one prompt are not."""
    if not isinstance(prompt, (list, tuple)):
        return False
    first = next((p for p in prompt if p is not None), None)
    if first is None or isinstance(first, SoftPrompt):
        return True
    try:
        return np.ndim(first) != 1  # type: ignore[arg-type]
    except ValueError:  # ragged
        return True


def check_ids(ids: object, *, vocab_size: int, where: str) -> np.ndarray:
    """Return token ids as int32, shape (n,).

    Raises
    ------
    TypeError
        Not integers.
    ValueError
        Not one-dimensional, or an id outside ``[0, vocab_size)``; the message names its place.
    """
    if isinstance(ids, str):
        raise TypeError(f"{where}: expected token ids, got the text {ids[:40]!r}")
    try:
        array = np.asarray(ids)
    except (ValueError, OverflowError) as err:
        raise ValueError(f"{where}: expected a flat list of token ids ({err})") from err
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, dtype=np.int32)
    if array.ndim != 1:
        raise ValueError(
            f"{where}: expected a flat list of token ids, got {reprlib.repr(ids)} with shape "
            f"{array.shape}"
        )
    if array.dtype == object and all(
        isinstance(x, (int, np.integer)) and not isinstance(x, bool) for x in array
    ):  # ints beyond 64 bits
        bad = next(i for i, x in enumerate(array) if not 0 <= x < vocab_size)
        raise ValueError(f"{where}: token id {array[bad]} at {bad} is not in [0, {vocab_size})")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{where}: expected integer token ids, got {array.dtype}")
    outside = (array < 0) | (array >= vocab_size)
    if outside.any():
        bad = int(np.argmax(outside))
        raise ValueError(f"{where}: token id {array[bad]} at {bad} is not in [0, {vocab_size})")
    return array.astype(np.int32)


def check_weights(weights: object, count: int, *, where: str) -> np.ndarray:
    """Return `count` weights as float64: finite, not negative, not all zero."""
    array = np.asarray(weights)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{where}: expected numbers, got {array.dtype}")
    if array.shape != (count,):
        raise ValueError(f"{where}: expected {count} weights, got shape {array.shape}")
    array = array.astype(np.float64)
    bad = ~np.isfinite(array) | (array < 0)
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(f"{where}: weight {array[at]} at {at}, expected finite and not negative")
    return array


@dataclass(frozen=True)
class TextRows:
    """The rows of one text.

    Attributes
    ----------
    symbols : ndarray of int32
        Those of prompt, input and all but the last target; of a model with an encoder what its
        decoder reads: a start token and all but the last target.
    before : int
        Place of the row that predicts the first target.
    memory : ndarray of int32 or None
        What the encoder reads: prompt and input.
    """

    symbols: np.ndarray
    before: int
    memory: np.ndarray | None = None


@dataclass
class _Prompt:
    first: int
    count: int
    position: str


class PromptTable:
    """Several prompts, one below the other in one matrix.

    Parameters
    ----------
    prompts : sequence of (SoftPrompt, array or None)
    hidden_size : int
    bos_token_id : int or None
        For prompts whose position is "after_bos".

    Attributes
    ----------
    matrix : ndarray of float32, shape (num_virtual, hidden_size), or None
    """

    def __init__(
        self, prompts: Sequence[object], *, hidden_size: int, bos_token_id: int | None
    ) -> None:
        self._bos = bos_token_id
        self._prompts: list[_Prompt | None] = []
        rows: list[np.ndarray] = []
        known: dict[int, _Prompt] = {}
        total = 0
        for i, prompt in enumerate(prompts):
            if prompt is None:
                self._prompts.append(None)
                continue
            if id(prompt) not in known:
                where = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
                position = prompt.position if isinstance(prompt, SoftPrompt) else "start"
                array = prompt.embeddings if isinstance(prompt, SoftPrompt) else prompt
                array = validate_prompt_array(array, hidden_size=hidden_size, where=where)
                known[id(prompt)] = _Prompt(total, len(array), position)
                rows.append(array)
                total += len(array)
            self._prompts.append(known[id(prompt)])
        self.matrix = np.ascontiguousarray(np.concatenate(rows)) if rows else None

    def __len__(self) -> int:
        return len(self._prompts)

    def rows(self, which: int) -> slice:
        """Rows of the matrix that are prompt `which`."""
        prompt = self._prompts[which]
        return slice(0, 0) if prompt is None else slice(prompt.first, prompt.first + prompt.count)

    def symbols(self, which: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols of prompt and text, and the places of the text's symbols among them."""
        prompt = self._prompts[which]
        if prompt is None:
            return ids, np.arange(len(ids))
        virtual = -1 - np.arange(prompt.first, prompt.first + prompt.count, dtype=np.int32)
        head = 0
        if prompt.position == "after_bos" and len(ids) and ids[0] == self._bos:
            head = 1
        places = np.arange(len(ids)) + prompt.count
        places[:head] = np.arange(head)
        return np.concatenate([ids[:head], virtual, ids[head:]]), places
