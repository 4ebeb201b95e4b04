"""Texts on their way through resident segments: shared prefixes once, then one row at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from softprompt.families import length_class
from softprompt.model import encoder
from softprompt.model.forest import pack
from softprompt.model.frozen import FrozenModel
from softprompt.model.sequences import PromptTable
from softprompt.model.workers import PACK_ROWS, Worker

__all__ = ["Resident", "Text", "advance", "branch", "prefill"]

KEPT_PROMPTS = 16
"""Prompts whose keys and values stay resident in a context."""


@dataclass
class Text:
    """One text on its way.

    Attributes
    ----------
    ids : ndarray of int32
        What was given.
    which : int
        Its prompt, in the table of prompts.
    stream : numpy.random.Generator or None
        What it is sampled with.
    limit : int
        Most new tokens.
    length_class : int
        Class of its rotary frequencies; not 0: its segment has no parent and holds all its rows.
    parent, segment : int
        Its growing segment, and the one before it; -1: none.
    beginning : int
        Rows of its growing segment that stand before its new tokens.
    new : list of int
        New tokens; of a model with an encoder those that are forced among them.
    shown : int
        Characters of its text that were streamed.
    done : bool
    text : str
        The new tokens as text, where that is asked for on the way.
    """

    ids: np.ndarray
    which: int
    stream: np.random.Generator | None
    limit: int
    length_class: int
    parent: int = -1
    segment: int = -1
    beginning: int = 0
    new: list[int] = field(default_factory=list)
    shown: int = 0
    done: bool = False
    text: str = ""


class Resident:
    """Segments of one worker during one call, released at its end; prompts stay."""

    def __init__(self, model: FrozenModel, worker: Worker, table: PromptTable) -> None:
        self.model = model
        self.context = worker.context
        self.kept = worker.prompts
        self.table = table
        self.own: list[int] = []

    def create(self, parent: int, capacity: int, frequencies: np.ndarray | None = None) -> int:
        """Return a new segment, under a parent or none (-1)."""
        segment = self.context.segment_create(parent, capacity, frequencies)
        self.own.append(segment)
        return segment

    def create_memory(self, capacity: int) -> int:
        """Return a new segment of the encoder."""
        segment = self.context.memory_create(capacity)
        self.own.append(segment)
        return segment

    def release(self, segment: int) -> None:
        """Give back a segment before the end of the call."""
        self.context.segment_release(segment)
        self.own.remove(segment)

    def extend(self, segments: list[int], pieces: list[np.ndarray], rows: list[int]) -> np.ndarray:
        """Append a piece to each segment.

        Returns
        -------
        ndarray of float32, shape (len(rows), vocab_size)
            Logits after those of the pieces' rows, which rise.
        """
        starts = np.concatenate([[0], np.cumsum([len(p) for p in pieces])])
        return self.context.segment_extend(
            np.array(segments, np.int32),
            starts.astype(np.int32),
            np.concatenate(pieces).astype(np.int32),
            self.table.matrix,
            np.array(rows, np.int32),
            self.model.num_threads,
        )

    def prompt(self, symbols: np.ndarray, which: int) -> tuple[int, np.ndarray]:
        """Segment of a prompt (with a BOS before it, if so) and the logits after it."""
        matrix = self.table.matrix
        assert matrix is not None
        key = hashlib.sha256(symbols[symbols >= 0].tobytes())
        key.update(bytes([int(symbols[0] >= 0)]) + matrix[self.table.rows(which)].tobytes())
        digest = key.digest()
        if digest in self.kept:
            self.kept.move_to_end(digest)
            return self.kept[digest]
        segment = self.context.segment_create(-1, len(symbols))
        try:
            logits = self.extend([segment], [symbols], [len(symbols) - 1])[0]
        except BaseException:
            self.context.segment_release(segment)
            raise
        self.kept[digest] = (segment, logits)
        return segment, logits

    def prefix(self, which: int, length_class: int) -> int:
        """Segment of a prefix, before texts of this class; -1 if it is none."""
        number = self.table.prefix(which)
        if number < 0:
            return -1
        prefix = self.table.prefixes[number]
        key = hashlib.sha256(f"prefix of class {length_class}".encode())
        key.update(prefix.tobytes())
        digest = key.digest()
        if digest in self.kept:
            self.kept.move_to_end(digest)
            return self.kept[digest][0]
        frequencies = self.model._frequencies(length_class) if length_class else None
        segment = self.context.segment_create(-1, prefix.shape[2], frequencies)
        try:
            self.context.segment_fill(segment, prefix)
        except BaseException:
            self.context.segment_release(segment)
            raise
        self.kept[digest] = (segment, None)
        return segment

    def close(self) -> None:
        """Give back all segments but those of the latest prompts."""
        for segment in reversed(self.own):
            self.context.segment_release(segment)
        while len(self.kept) > KEPT_PROMPTS:
            _, (segment, _) = self.kept.popitem(last=False)
            self.context.segment_release(segment)


def _split_prompt(table: PromptTable, text: Text) -> tuple[np.ndarray, np.ndarray]:
    """Symbols up to the end of the prompt (none without a prompt), and those after it."""
    symbols, _ = table.symbols(text.which, text.ids)
    virtual = np.flatnonzero(symbols < 0)
    cut = int(virtual[-1]) + 1 if len(virtual) else 0
    return symbols[:cut], symbols[cut:]


def prefill(resident: Resident, texts: list[Text]) -> np.ndarray:
    """Compute all given rows; every text gets its growing segment.

    Returns
    -------
    ndarray of float32, shape (n, vocab_size)
        Logits after each text.
    """
    model = resident.model
    if model.spec.num_encoder_layers:
        return encoder.prefill(resident, texts)
    logits = np.zeros((len(texts), model.spec.vocab_size), np.float32)
    parents = [-1] * len(texts)
    groups: dict[int, list[int]] = {}
    rests: list[np.ndarray] = []
    for i, text in enumerate(texts):
        head, rest = _split_prompt(resident.table, text)
        rests.append(rest)
        if text.length_class:
            logits[i] = _compute_alone(resident, text)
            continue
        if len(head):
            parents[i], logits[i] = resident.prompt(head, text.which)
        else:
            parents[i] = resident.prefix(text.which, 0)
        if len(rest):
            groups.setdefault(parents[i], []).append(i)
    jobs: list[tuple[int, np.ndarray, list[int]]] = []  # segment, symbols, texts that end there
    for root, members in groups.items():
        forest = pack([rests[i] for i in members], share=model._share)
        ends: dict[int, list[int]] = {}
        for i, rows in zip(members, forest.rows, strict=True):
            last = int(np.searchsorted(forest.starts, rows[-1], side="right")) - 1
            ends.setdefault(last, []).append(i)
        segments: list[int] = []
        for s, parent in enumerate(forest.parents):
            symbols = forest.symbols[forest.starts[s] : forest.starts[s + 1]]
            segments.append(resident.create(root if parent < 0 else segments[parent], len(symbols)))
            jobs.append((segments[s], symbols, ends.get(s, [])))
            for i in ends.get(s, []):
                parents[i] = segments[s]
    start = 0
    while start < len(jobs):  # parents stand before their children
        end, total = start, 0
        while end < len(jobs) and (end == start or total + len(jobs[end][1]) <= PACK_ROWS):
            total += len(jobs[end][1])
            end += 1
        now = jobs[start:end]
        last_rows = np.cumsum([len(symbols) for _, symbols, _ in now]) - 1
        wanted = [
            (int(row), ending) for row, (_, _, ending) in zip(last_rows, now, strict=True) if ending
        ]
        out = resident.extend([j[0] for j in now], [j[1] for j in now], [row for row, _ in wanted])
        for row, (_, ending) in enumerate(wanted):
            logits[ending] = out[row]
        start = end
    for i, text in enumerate(texts):
        if text.limit > 0 and not text.length_class:
            text.parent = parents[i]
            text.segment = resident.create(text.parent, text.limit)
    return logits


def _compute_alone(resident: Resident, text: Text) -> np.ndarray:
    """Compute all rows of a text whose rotary frequencies are not those of its former length, or of
    other texts: a tree of its own. Returns the logits [V] after it.
    """
    model = resident.model
    if text.segment >= 0:
        resident.release(text.segment)
    symbols, _ = resident.table.symbols(text.which, text.ids)
    symbols = np.concatenate([symbols, np.array(text.new, np.int32)])
    length = resident.table.length(text.which, text.ids)
    text.length_class = length_class(model.spec, length + len(text.new))
    text.beginning = length - resident.table.rows_before(text.which)
    text.parent = resident.prefix(text.which, text.length_class)
    text.segment = resident.create(
        text.parent,
        len(symbols) + text.limit - len(text.new),
        model._frequencies(text.length_class) if text.parent < 0 else None,
    )
    return resident.extend([text.segment], [symbols], [len(symbols) - 1])[0]


def advance(resident: Resident, texts: list[Text]) -> np.ndarray:
    """Add the newest token of every text.

    Returns
    -------
    ndarray of float32, shape (n, vocab_size)
        Logits after each text.
    """
    spec = resident.model.spec
    logits = np.empty((len(texts), spec.vocab_size), np.float32)
    growing = []
    for i, text in enumerate(texts):
        length = resident.table.length(text.which, text.ids) + len(text.new)
        if length_class(spec, length) == text.length_class:
            growing.append(i)
        else:
            logits[i] = _compute_alone(resident, text)
    if growing:
        logits[growing] = resident.extend(
            [texts[i].segment for i in growing],
            [np.array([texts[i].new[-1]], np.int32) for i in growing],
            list(range(len(growing))),
        )
    return logits


def branch(resident: Resident, source: Text, spare: Text | None) -> Text:
    """Make a text that goes on from the same tokens as `source`, in a segment of its own.

    Keys and values are copied, from the first token that differs on. Segments under one parent stay
    siblings, so that the rows before them are read once for all of them.

    Parameters
    ----------
    resident : Resident
    source : Text
        All of its new tokens are computed.
    spare : Text or None
        A branch of the same text, as computed as it ever was, that is not needed any more: its
        segment is used again.

    Returns
    -------
    Text
        `spare`, if there is one.
    """
    model = resident.model
    if spare is None:
        spare = replace(source, segment=-1, new=[])
    elif spare.length_class != source.length_class:
        resident.release(spare.segment)
        spare.segment = -1
    if spare.segment < 0:
        alone = source.length_class and source.parent < 0
        own = model._frequencies(source.length_class) if alone else None
        spare.segment = resident.create(source.parent, source.beginning + source.limit, own)
        num_equal = 0
    else:
        pairs = zip(spare.new, source.new, strict=False)
        num_equal = source.beginning + next(
            (n for n, (a, b) in enumerate(pairs) if a != b), min(len(spare.new), len(source.new))
        )
    resident.context.segment_copy(source.segment, spare.segment, num_equal)
    spare.parent, spare.length_class = source.parent, source.length_class
    spare.beginning = source.beginning
    spare.new = list(source.new)
    return spare
