"""The packer: sequences of symbols into a forest of segments that share their common prefixes.

A symbol is a token id (>= 0) or a row of the virtual-token matrix, written as ``-1 - row``. Nothing
here knows what a prompt, a template or a demonstration is: what sequences have in common at their
start is computed once, whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["MIN_SAVED_ROWS", "Forest", "pack", "pack_pairs"]

MIN_SAVED_ROWS = 4
"""A prefix is cut out as a segment of its own where that saves at least so many rows: below that,
one more segment costs about as much in attention as the rows cost in matrix products."""


ENCODER = -2
"""In `Forest.memories`: a segment of the encoder."""


@dataclass(frozen=True)
class Forest:
    """Segments in depth-first order, as ``csrc/softprompt.h`` describes them.

    Attributes
    ----------
    parents : ndarray of int32, shape (num_segments,)
        An earlier segment, or -1.
    starts : ndarray of int32, shape (num_segments + 1,)
        Rows of segment ``s``: ``starts[s]`` to ``starts[s + 1]``.
    symbols : ndarray of int32, shape (num_rows,)
    prefixes : tuple of int
        Which prefix each segment without rows is, in the segments' order.
    rows : list of ndarray of int32
        For every sequence, the row of each of its symbols.
    classes : ndarray of int64, shape (num_segments,), or None
        The class of every segment's sequences; None where `pack` was given none.
    memories : ndarray of int32, shape (num_segments,), or None
        `ENCODER` for an encoder's segments, which stand first; for a decoder's the one that it
        reads. None without an encoder.
    """

    parents: np.ndarray
    starts: np.ndarray
    symbols: np.ndarray
    rows: list[np.ndarray]
    classes: np.ndarray | None = None
    prefixes: tuple[int, ...] = ()
    memories: np.ndarray | None = None


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def _group_depth(common: np.ndarray, depth: int, end: int) -> tuple[int, int]:
    """Length of the longest prefix worth sharing by the first sequences of a run, and their number.

    ``common[i]`` is the length that sequences ``i - 1`` and ``i`` have in common. Among the
    prefixes of the run's first sequence that are longer than `depth`, the one that saves most rows
    counts.
    """
    best_saved, best = MIN_SAVED_ROWS - 1, (0, 1)
    shared, members = None, 1
    for i in range(1, end):
        shared = common[i] if shared is None else min(shared, common[i])
        if shared <= depth:
            break
        members = i + 1
        saved = (shared - depth) * (members - 1)
        if saved > best_saved:
            best_saved, best = saved, (int(shared), members)
    return best


def pack(
    sequences: Sequence[np.ndarray],
    *,
    share: bool = True,
    classes: Sequence[int] | None = None,
    prefixes: Sequence[int] | None = None,
) -> Forest:
    """Pack sequences into a forest.

    Parameters
    ----------
    sequences : sequence of ndarray of int32
        Each with at least one symbol.
    share : bool
        False: every sequence becomes a tree of its own.
    classes : sequence of int, optional
        A class for every sequence; those of different classes share no rows.
    prefixes : sequence of int, optional
        The prefix that stands before every sequence, or -1. Sequences with the same one stand under
        one segment without rows, in every class.

    Returns
    -------
    Forest
    """
    if classes is None and prefixes is None:
        return _pack(sequences, share)
    of_each = list(
        zip(
            classes if classes is not None else [0] * len(sequences),
            prefixes if prefixes is not None else [-1] * len(sequences),
            strict=True,
        )
    )
    parts = []
    members: list[int] = []
    for number, prefix in sorted(set(of_each)):
        own = [i for i, one in enumerate(of_each) if one == (number, prefix)]
        members += own
        part = _pack([sequences[i] for i in own], share)
        parts.append((number, part if prefix < 0 else _under_prefix(part, prefix)))
    first_segment = np.cumsum([0] + [len(part.parents) for _, part in parts])
    first_row = np.cumsum([0] + [len(part.symbols) for _, part in parts])
    rows: list[np.ndarray] = [np.zeros(0, np.int32)] * len(sequences)
    moved = [own + first_row[p] for p, (_, part) in enumerate(parts) for own in part.rows]
    for i, own in zip(members, moved, strict=True):
        rows[i] = own.astype(np.int32)
    parents = [
        np.where(part.parents < 0, -1, part.parents + first_segment[p])
        for p, (_, part) in enumerate(parts)
    ]
    starts = [part.starts[:-1] + first_row[p] for p, (_, part) in enumerate(parts)]
    return Forest(
        parents=np.concatenate(parents).astype(np.int32),
        starts=np.concatenate([*starts, first_row[-1:]]).astype(np.int32),
        symbols=np.concatenate([part.symbols for _, part in parts]),
        rows=rows,
        classes=None
        if classes is None
        else np.concatenate([np.full(len(part.parents), number) for number, part in parts]),
        prefixes=tuple(prefix for _, part in parts for prefix in part.prefixes),
    )


def _under_prefix(forest: Forest, prefix: int) -> Forest:
    """Put a segment without rows above all trees."""
    return Forest(
        parents=np.concatenate([[-1], forest.parents + 1]).astype(np.int32),
        starts=np.concatenate([[0], forest.starts]).astype(np.int32),
        symbols=forest.symbols,
        rows=forest.rows,
        prefixes=(prefix,),
    )


def pack_pairs(
    memories: Sequence[np.ndarray], sequences: Sequence[np.ndarray], *, share: bool = True
) -> Forest:
    """Pack what an encoder reads, and what a decoder that reads it writes.

    Parameters
    ----------
    memories, sequences : sequence of ndarray of int32
        Symbols of the encoder and of the decoder, each with at least one; sequence `i` reads memory
        `i`.
    share : bool
        Equal memories become one segment, and sequences that read it share their beginnings. False:
        every pair alone.

    Returns
    -------
    Forest
        Its ``rows`` are those of `sequences`.
    """
    segments: dict[object, int] = {}
    pieces: list[np.ndarray] = []
    reads = []
    for i, memory in enumerate(memories):
        key = memory.tobytes() if share else i
        if key not in segments:
            segments[key] = len(pieces)
            pieces.append(memory)
        reads.append(segments[key])
    decoder = pack(sequences, share=share, classes=reads)
    assert decoder.classes is not None
    first, starts = len(pieces), np.cumsum([0] + [len(piece) for piece in pieces])
    rows = int(starts[-1])
    return Forest(
        parents=np.concatenate(
            [np.full(first, -1), np.where(decoder.parents < 0, -1, decoder.parents + first)]
        ).astype(np.int32),
        starts=np.concatenate([starts[:-1], decoder.starts + rows]).astype(np.int32),
        symbols=np.concatenate([*pieces, decoder.symbols]).astype(np.int32),
        rows=[own + np.int32(rows) for own in decoder.rows],
        memories=np.concatenate([np.full(first, ENCODER), decoder.classes]).astype(np.int32),
    )


def _pack(sequences: Sequence[np.ndarray], share: bool) -> Forest:
    order = (
        sorted(range(len(sequences)), key=lambda i: sequences[i].tolist())
        if share
        else range(len(sequences))
    )
    ordered = [sequences[i] for i in order]
    common = np.zeros(len(ordered) + 1, dtype=np.int64)
    if share:
        for i in range(1, len(ordered)):
            common[i] = _common_prefix(ordered[i - 1], ordered[i])

    parents: list[int] = []
    pieces: list[np.ndarray] = []
    starts: list[int] = [0]
    row_of: list[np.ndarray | None] = [None] * len(ordered)

    def add_segment(parent: int, symbols: np.ndarray) -> tuple[int, np.ndarray]:
        parents.append(parent)
        pieces.append(symbols)
        first = starts[-1]
        starts.append(first + len(symbols))
        return len(parents) - 1, np.arange(first, starts[-1], dtype=np.int32)

    # Each task is a run of sorted sequences that share their first `depth` symbols, which stand in
    # `parent` and its ancestors at the rows `above`.
    tasks = [(0, len(ordered), 0, -1, np.zeros(0, np.int32))]
    while tasks:
        begin, end, depth, parent, above = tasks.pop()
        if begin == end:
            continue
        first = ordered[begin]
        if len(first) == depth:  # all of it stands above already
            row_of[begin] = above
            tasks.append((begin + 1, end, depth, parent, above))
            continue
        length, members = _group_depth(common[begin:end], depth, end - begin)
        if members == 1:
            _, rows = add_segment(parent, first[depth:])
            row_of[begin] = np.concatenate([above, rows])
            tasks.append((begin + 1, end, depth, parent, above))
            continue
        segment, rows = add_segment(parent, first[depth:length])
        tasks.append((begin + members, end, depth, parent, above))
        tasks.append((begin, begin + members, length, segment, np.concatenate([above, rows])))

    rows_in_order: list[np.ndarray] = [np.zeros(0, np.int32)] * len(ordered)
    for place, rows in zip(order, row_of, strict=True):
        assert rows is not None
        rows_in_order[place] = rows
    return Forest(
        parents=np.array(parents, dtype=np.int32),
        starts=np.array(starts, dtype=np.int32),
        symbols=np.concatenate(pieces).astype(np.int32, copy=False),
        rows=rows_in_order,
    )
