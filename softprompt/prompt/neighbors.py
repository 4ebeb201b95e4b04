"""The vocabulary tokens nearest to each row of a soft prompt."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .neighbor_table import Neighbor, NeighborRow, NeighborTable
from .prefix import NO_ROWS, Prefix
from .soft_prompt import validate_prompt_array

METRICS = ("cosine", "euclidean")
_BLOCK_VALUES = 2**21  # Values of an embedding block: 16 MiB in float64.
# Distances in a block come from one matrix product, which rounds a row differently by its place.
# Whoever is this close to the k-th is measured again by itself, so that equal rows tie exactly.
_SLACK = 1e-9


def neighbors(prompt: object, model: object, k: int = 5, metric: str = "both") -> NeighborTable:
    """Find the vocabulary tokens whose embeddings are nearest to each virtual token.

    Neighbours describe where a row lies. They do not explain what the prompt does: prompts with
    arbitrary neighbours can do a task as well.

    Parameters
    ----------
    prompt : SoftPrompt or array-like
        `[num_virtual_tokens, hidden_size]`.
    model : softprompt.Model
        Of it `config.vocab_size`, `config.hidden_size`, `embeddings` and, for the tokens' texts,
        `tokenizer` are used; without a tokenizer the table shows ids only.
    k : int
        Neighbours of each row, 1 to the size of the vocabulary.
    metric : {"both", "cosine", "euclidean"}
        Falling cosine similarity (as the paper measures), rising Euclidean distance, or both.

    Returns
    -------
    NeighborTable
        Prints as a table; `rows` and `to_dict()` are the data.

    Raises
    ------
    TypeError
        If `k` is not an integer, or the prompt is a prefix or not of a floating type.
    ValueError
        If `k` is less than 1 or more than the vocabulary, the metric is unknown, or the prompt is
        not of the model's width.

    Notes
    -----
    Computed in float64, block by block over the vocabulary. Equal values are ordered by token id.
    The cosine similarity with a row of zeros counts as 0.

    Method: Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt
    Tuning", EMNLP 2021, section 7. Its limits: Khashabi et al., "Prompt Waywardness", NAACL 2022.

    Examples
    --------
    >>> print(softprompt.neighbors(prompt, model, k=3))  # doctest: +SKIP
    """
    vocab_size = int(model.config.vocab_size)
    try:
        if isinstance(k, bool | np.bool_):
            raise TypeError
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k={k!r}: expected an integer") from None
    if not 1 <= count <= vocab_size:
        raise ValueError(f"k={count}: expected 1 to {vocab_size}, the size of the vocabulary")
    if metric not in (*METRICS, "both"):
        raise ValueError(f"metric={metric!r}: expected 'cosine', 'euclidean' or 'both'")
    if isinstance(prompt, Prefix):
        raise TypeError(NO_ROWS)
    rows = validate_prompt_array(prompt, hidden_size=int(model.config.hidden_size))
    rows = rows.astype(np.float64)
    metrics = METRICS if metric == "both" else (metric,)
    found = {name: _nearest(rows, model.embeddings, vocab_size, count, name) for name in metrics}
    tokenizer = getattr(model, "tokenizer", None)
    # A translation model's prompt stands among the tokens of what it reads.
    text_of = _token_texts(getattr(tokenizer, "source", tokenizer))
    norms = _norms(rows)
    return NeighborTable(
        k=count,
        metric=metric,
        rows=tuple(
            NeighborRow(
                row=row,
                norm=float(norms[row]),
                **{
                    name: tuple(
                        Neighbor(int(token), text_of(int(token)), float(value))
                        for token, value in zip(ids[row], values[row], strict=True)
                    )
                    for name, (ids, values) in found.items()
                },
            )
            for row in range(len(rows))
        ),
    )


@dataclass
class _Best:
    """The nearest tokens of one row so far: keys rise from best to worst, equal ones by id."""

    keys: np.ndarray
    ids: np.ndarray

    def add(self, keys: np.ndarray, ids: np.ndarray, count: int) -> None:
        keys, ids = np.concatenate([self.keys, keys]), np.concatenate([self.ids, ids])
        order = np.lexsort((ids, keys))[:count]
        self.keys, self.ids = keys[order], ids[order]


def _nearest(
    rows: np.ndarray, embeddings: object, vocab_size: int, count: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and values `[num_rows, count]`."""
    keys_of = _cosine_keys if metric == "cosine" else _squared_distances
    best = [_Best(np.empty(0), np.empty(0, np.int64)) for _ in rows]
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    for start in range(0, vocab_size, step):
        stop = min(start + step, vocab_size)
        block = np.asarray(embeddings[start:stop], dtype=np.float64)
        rough, slack = keys_of(rows, block)  # [num_rows, block]; smaller is nearer
        for row, current in enumerate(best):
            limit = _kth_smallest(current.keys, rough[row], count) + slack[row]
            close = np.flatnonzero(rough[row] <= limit)
            if close.size:
                exact = _exact_keys(rows[row], block[close], metric)
                current.add(exact, close + start, count)
    ids = np.stack([b.ids for b in best])
    keys = np.stack([b.keys for b in best])
    # Subtracting from zero, as a negation would make -0.0 of an orthogonal row.
    return ids, np.clip(0.0 - keys, -1, 1) if metric == "cosine" else np.sqrt(keys)


def _kth_smallest(known: np.ndarray, rough: np.ndarray, count: int) -> float:
    """Bound the `count`-th smallest of all these keys from above, up to the slack."""
    if known.size == count:
        return known[-1]
    keys = np.concatenate([known, rough])
    return np.inf if keys.size <= count else np.partition(keys, count - 1)[count - 1]


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(rows).sum(axis=1))


def _cosine_keys(rows: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.outer(_norms(rows), _norms(block))
    keys = -np.divide(rows @ block.T, scale, out=np.zeros_like(scale), where=scale > 0)
    return keys, np.full(len(rows), _SLACK)


def _squared_distances(rows: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row_squares, block_squares = np.square(rows).sum(axis=1), np.square(block).sum(axis=1)
    keys = row_squares[:, None] + block_squares - 2 * (rows @ block.T)
    return keys, _SLACK * (row_squares + block_squares.max())


def _exact_keys(row: np.ndarray, candidates: np.ndarray, metric: str) -> np.ndarray:
    # Sums along the last axis, candidate by candidate: equal candidates get equal bits.
    if metric == "euclidean":
        return np.square(candidates - row).sum(axis=1)
    scale = _norms(candidates) * _norms(row[None])
    dots = (candidates * row).sum(axis=1)
    return -np.divide(dots, scale, out=np.zeros_like(scale), where=scale > 0)


def _token_texts(tokenizer: object) -> Callable[[int], str | None]:
    """Return a function from an id to its text, or to None without a tokenizer."""
    if tokenizer is None:
        return lambda token_id: None
    raw_of = getattr(tokenizer, "id_to_token", None)
    known: dict[int, str | None] = {}

    def text_of(token_id: int) -> str | None:
        if token_id not in known:
            known[token_id] = _token_text(tokenizer, raw_of, token_id)
        return known[token_id]

    return text_of


def _token_text(tokenizer: object, raw_of: Callable | None, token_id: int) -> str | None:
    raw = raw_of(token_id) if raw_of is not None else None
    # Decoding a single token drops the leading space of a sentencepiece vocabulary.
    if isinstance(raw, str) and raw.startswith("\u2581"):
        return raw.replace("\u2581", " ")
    try:
        text = tokenizer.decode([token_id], skip_special_tokens=False)
    except (TypeError, LookupError, ValueError):
        text = None  # A user's own tokenizer; or an id that only pads the embedding table.
    # Part of a character's bytes does not decode: its name in the vocabulary says more.
    if isinstance(text, str) and text and "\ufffd" not in text:
        return text
    return raw if isinstance(raw, str) else text
