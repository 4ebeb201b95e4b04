"""Inputs, targets and prompts as the packer's symbols, with every check that a caller deserves."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softprompt.families import Spec
from softprompt.model.prefix_layout import gradient_from_engine, stack_prefixes, to_engine
from softprompt.prompt import Prefix, SoftPrompt, validate_prompt_array

__all__ = ["PromptTable", "TextRows", "check_ids", "check_weights", "is_several"]


def is_several(prompt: object) -> bool:
    """Whether `prompt` is a list of prompts; nested numbers of one prompt are not."""
    if not isinstance(prompt, (list, tuple)):
        return False
    first = next((p for p in prompt if p is not None), None)
    if first is None or isinstance(first, (SoftPrompt, Prefix)):
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
    prefix : int
        Place of its prefix in the table's ``prefixes``, or -1.
    rows_before : int
        Positions of that prefix.
    """

    symbols: np.ndarray
    before: int
    memory: np.ndarray | None = None
    prefix: int = -1
    rows_before: int = 0


@dataclass
class _Prompt:
    first: int  # row of the matrix
    count: int
    position: str


@dataclass
class _Prefix:
    number: int
    count: int


class PromptTable:
    """Several prompts, one below the other in one matrix, and several prefixes.

    Parameters
    ----------
    prompts : sequence of (SoftPrompt, array, Prefix or None)
    spec : Spec
        Of the model.
    bos_token_id : int or None
        For prompts whose position is "after_bos".

    Attributes
    ----------
    matrix : ndarray of float32, shape (num_virtual, hidden_size), or None
    prefixes : list of ndarray of float32, shape (num_layers, 2, num_virtual_tokens, kv_width)
        As the engine reads them.
    """

    def __init__(self, prompts: Sequence[object], *, spec: Spec, bos_token_id: int | None) -> None:
        self._bos = bos_token_id
        self._spec = spec
        self._prompts: list[_Prompt | _Prefix | None] = []
        self.prefixes: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        known: dict[int, _Prompt | _Prefix] = {}
        total = 0
        for i, prompt in enumerate(prompts):
            if prompt is None:
                self._prompts.append(None)
                continue
            if id(prompt) not in known:
                where = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
                if isinstance(prompt, Prefix):
                    _check_prefix(prompt, spec, where)
                    known[id(prompt)] = _Prefix(len(self.prefixes), len(prompt))
                    self.prefixes.append(to_engine(prompt, spec))
                else:
                    position = prompt.position if isinstance(prompt, SoftPrompt) else "start"
                    array = prompt.embeddings if isinstance(prompt, SoftPrompt) else prompt
                    array = validate_prompt_array(array, hidden_size=spec.hidden_size, where=where)
                    known[id(prompt)] = _Prompt(total, len(array), position)
                    rows.append(array)
                    total += len(array)
            self._prompts.append(known[id(prompt)])
        self.matrix = np.ascontiguousarray(np.concatenate(rows)) if rows else None

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def num_rows(self) -> int:
        """Virtual tokens of all prompts and prefixes."""
        of_prefixes = sum(prefix.shape[2] for prefix in self.prefixes)
        return of_prefixes + (0 if self.matrix is None else len(self.matrix))

    def prefix(self, which: int) -> int:
        """Return the place of prompt `which` in `prefixes`, or -1 if it is none."""
        prompt = self._prompts[which]
        return prompt.number if isinstance(prompt, _Prefix) else -1

    def rows_before(self, which: int) -> int:
        """Return the positions that stand before the symbols: those of a prefix."""
        prompt = self._prompts[which]
        return prompt.count if isinstance(prompt, _Prefix) else 0

    def length(self, which: int, ids: np.ndarray) -> int:
        """Return the positions of a text with its prompt or prefix."""
        return self.rows_before(which) + len(self.symbols(which, ids)[0])

    def engine_prefix(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the prefixes of these numbers as the engine takes them; None for no numbers."""
        return stack_prefixes([self.prefixes[number] for number in numbers]) if numbers else None

    def gradients(
        self, grad: np.ndarray, prefix_grad: np.ndarray | None, numbers: Sequence[int]
    ) -> list[np.ndarray]:
        """Cut the engine's gradients.

        Parameters
        ----------
        grad : ndarray of float32, shape (num_virtual, hidden_size)
        prefix_grad : ndarray of float32, shape (num_layers, 2, rows, kv_width), or None
        numbers : sequence of int
            As of `engine_prefix`. A prefix that stands there twice has the sum as its gradient.

        Returns
        -------
        list of ndarray of float32
            Of every prompt, as its `embeddings` or as `Prefix.flattened`.
        """
        of_prefixes = [np.zeros(prefix.shape, np.float32) for prefix in self.prefixes]
        start = 0
        for number in numbers:
            assert prefix_grad is not None
            end = start + self.prefixes[number].shape[2]
            of_prefixes[number] += prefix_grad[:, :, start:end]
            start = end
        return [
            gradient_from_engine(of_prefixes[prompt.number], self._spec)
            if isinstance(prompt, _Prefix)
            else grad[self.rows(which)]
            for which, prompt in enumerate(self._prompts)
        ]

    def rows(self, which: int) -> slice:
        """Rows of the matrix that are prompt `which`."""
        prompt = self._prompts[which]
        if not isinstance(prompt, _Prompt):
            return slice(0, 0)
        return slice(prompt.first, prompt.first + prompt.count)

    def symbols(self, which: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols of prompt and text, and the places of the text's symbols among them."""
        prompt = self._prompts[which]
        if not isinstance(prompt, _Prompt):
            return ids, np.arange(len(ids))
        virtual = -1 - np.arange(prompt.first, prompt.first + prompt.count, dtype=np.int32)
        head = 0
        if prompt.position == "after_bos" and len(ids) and ids[0] == self._bos:
            head = 1
        places = np.arange(len(ids)) + prompt.count
        places[:head] = np.arange(head)
        return np.concatenate([ids[:head], virtual, ids[head:]]), places


def _check_prefix(prefix: Prefix, spec: Spec, where: str) -> None:
    found = (prefix.num_layers, prefix.num_kv_heads, prefix.head_dim)
    expected = (spec.num_layers, spec.num_kv_heads, spec.head_dim)
    if found != expected:
        names = "layers, heads of keys and values, width of a head"
        raise ValueError(f"{where}: a prefix of {found} ({names}), expected the model's {expected}")
