"""Generation over resident segments: shared prefixes once, then one row per text and step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from softprompt.families import length_class
from softprompt.model import encoder
from softprompt.model.forest import pack
from softprompt.model.frozen import FrozenModel
from softprompt.model.sampling import Sampler
from softprompt.model.sequences import PromptTable
from softprompt.model.workers import PACK_ROWS, Worker

__all__ = ["generate"]

CACHE_BYTES = 1 << 28
"""Keys, values and logits of texts that are generated together (256 MiB)."""

KEPT_PROMPTS = 16
"""Prompts whose keys and values stay resident in a context."""


@dataclass
class _Text:
    """One text on its way."""

    ids: np.ndarray
    which: int
    stream: np.random.Generator | None
    limit: int
    length_class: int
    segment: int = -1
    new: list[int] = field(default_factory=list)
    shown: int = 0
    done: bool = False
    text: str = ""


class _Resident:
    """Segments of one worker during one call, released at its end; prompts stay."""

    def __init__(self, model: FrozenModel, worker: Worker, table: PromptTable) -> None:
        self.model = model
        self.context = worker.context
        self.kept = worker.prompts
        self.table = table
        self.own: list[int] = []

    def create(self, parent: int, capacity: int, frequencies: np.ndarray | None = None) -> int:
        segment = self.context.segment_create(parent, capacity, frequencies)
        self.own.append(segment)
        return segment

    def create_memory(self, capacity: int) -> int:
        segment = self.context.memory_create(capacity)
        self.own.append(segment)
        return segment

    def release(self, segment: int) -> None:
        self.context.segment_release(segment)
        self.own.remove(segment)

    def extend(self, segments: list[int], pieces: list[np.ndarray], rows: list[int]) -> np.ndarray:
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

    def close(self) -> None:
        for segment in reversed(self.own):
            self.context.segment_release(segment)
        while len(self.kept) > KEPT_PROMPTS:
            _, (segment, _) = self.kept.popitem(last=False)
            self.context.segment_release(segment)


def _split_prompt(table: PromptTable, text: _Text) -> tuple[np.ndarray, np.ndarray]:
    """Symbols up to the end of the prompt (none without a prompt), and those after it."""
    symbols, _ = table.symbols(text.which, text.ids)
    virtual = np.flatnonzero(symbols < 0)
    cut = int(virtual[-1]) + 1 if len(virtual) else 0
    return symbols[:cut], symbols[cut:]


def _prefill(resident: _Resident, texts: list[_Text]) -> np.ndarray:
    """Compute all given rows; every text gets its growing segment. Returns logits [n, V]."""
    model = resident.model
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
            text.segment = resident.create(parents[i], text.limit)
    return logits


def _compute_alone(resident: _Resident, text: _Text) -> np.ndarray:
    """Compute all rows of a text whose rotary frequencies are not those of its former length, or of
    other texts: a tree of its own. Returns the logits [V] after it.
    """
    model = resident.model
    if text.segment >= 0:
        resident.release(text.segment)
    symbols, _ = resident.table.symbols(text.which, text.ids)
    symbols = np.concatenate([symbols, np.array(text.new, np.int32)])
    text.length_class = length_class(model.spec, len(symbols))
    text.segment = resident.create(
        -1, len(symbols) + text.limit - len(text.new), model._frequencies(text.length_class)
    )
    return resident.extend([text.segment], [symbols], [len(symbols) - 1])[0]


def _advance(resident: _Resident, texts: list[_Text]) -> np.ndarray:
    """Add the newest token of every text. Returns logits [n, V]."""
    spec = resident.model.spec
    logits = np.empty((len(texts), spec.vocab_size), np.float32)
    growing = []
    for i, text in enumerate(texts):
        length = len(resident.table.symbols(text.which, text.ids)[0]) + len(text.new)
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


def _finish(model: FrozenModel, text: _Text, stop: Sequence[str], final: bool) -> str:
    """Update a text after a token; returns the piece that may be shown now."""
    if model.tokenizer is None:
        return ""
    whole = model.tokenizer.decode(text.new)
    for word in stop:
        at = whole.find(word)
        if at >= 0:
            whole, text.done, final = whole[:at], True, True
    if not final:
        # Hold back what may still change: half a character, or the beginning of a stop text.
        ready = whole.rstrip("�")
        for word in stop:
            for n in range(min(len(word) - 1, len(ready)), 0, -1):
                if ready.endswith(word[:n]):
                    ready = ready[:-n]
                    break
    else:
        ready = whole
    text.text = whole
    piece = ready[text.shown :]
    text.shown = max(text.shown, len(ready))
    return piece


def _run(
    model: FrozenModel,
    worker: Worker,
    table: PromptTable,
    texts: list[_Text],
    numbers: list[int],
    sampler: Sampler,
    stop: Sequence[str],
    stream: Callable[[int, str], object] | None,
) -> None:
    resident = _Resident(model, worker, table)
    end_ids = set(getattr(model.config, "eos_token_ids", ()))
    watch = bool(stop) or stream is not None
    prefill = encoder.prefill if model.spec.num_encoder_layers else _prefill
    suppressed = list(model.config.suppressed_token_ids)
    try:
        logits = prefill(resident, texts)
        active = [i for i, text in enumerate(texts) if text.limit > len(text.new)]
        logits = logits[active]
        while active:
            logits[:, suppressed] = -np.inf
            for row, i in enumerate(active):
                text = texts[i]
                token = sampler.choose(logits[row], text.stream)
                ended = token in end_ids
                if not ended:
                    text.new.append(token)
                text.done = ended or len(text.new) == text.limit
                if watch:
                    piece = _finish(model, text, stop, text.done)
                    if stream is not None and piece:
                        stream(numbers[i], piece)
            active = [i for i in active if not texts[i].done]
            if active:
                logits = _advance(resident, [texts[i] for i in active])
    finally:
        resident.close()


def _batches(
    model: FrozenModel, table: PromptTable, texts: list[_Text]
) -> Iterator[tuple[int, int]]:
    """Texts that are generated together: so many that their keys, values and logits fit."""
    spec = model.spec
    row_bytes = 8 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    # Logits twice: those of the last rows, and those that they came from.
    sizes = [(len(text.ids) + text.limit) * row_bytes + 8 * spec.vocab_size for text in texts]
    prompts = 0 if table.matrix is None else len(table.matrix) * row_bytes
    if spec.num_encoder_layers:  # a prompt is a part of what each text's encoder reads
        for i, text in enumerate(texts):
            rows = table.rows(text.which)
            sizes[i] += (rows.stop - rows.start + 1) * row_bytes
        prompts = 0
    spare = model._workers.spare_bytes
    # Half of what is left: the other half is for the rows that are computed together.
    room = CACHE_BYTES if spare is None else min(CACHE_BYTES, (spare - prompts) // 2)
    start = 0
    while start < len(texts):
        end, total = start + 1, sizes[start]
        model._workers.check_limit(prompts + 2 * total)
        while end < len(texts) and total + sizes[end] <= room:
            total += sizes[end]
            end += 1
        yield start, end
        start = end


def generate(
    model: FrozenModel,
    inputs: Sequence,
    prompt: object = None,
    *,
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    stream: Callable[[int, str], object] | None = None,
    return_ids: bool = False,
) -> list:
    """Continue texts until the model's end token, a stop text or a number of tokens.

    Parameters
    ----------
    model : FrozenModel
    inputs : list of texts or id lists
    prompt : SoftPrompt, array, or a list of one (or None) per input, optional
    max_new_tokens : int
        At most so many; fewer where the model's context ends.
    temperature, top_k, top_p, seed
        See `softprompt.model.sampling.Sampler`; temperature 0 (the default) is greedy.
    stop : str or list of str, optional
        A text ends before the first of them.
    stream : callable (row, piece), optional
        Called with every piece of text as it comes.
    return_ids : bool
        Return lists of token ids instead of texts; a model without a tokenizer always does.

    Returns
    -------
    list of str or of list of int
        What is new, without the end token; of a model with an encoder what its decoder writes,
        tokens that are forced (a language, ``forced_bos_token_id``) among them.

    Raises
    ------
    ValueError
        An empty input without a prompt, an input that is longer than the context, an option out of
        its range.
    """
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, (int, np.integer)):
        raise TypeError(f"max_new_tokens = {max_new_tokens!r}: expected an int")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens = {max_new_tokens}: expected at least 0")
    sampler = Sampler(temperature, top_k, top_p, seed)
    if stop is not None and not isinstance(stop, (str, list, tuple)):
        raise TypeError(f"stop = {stop!r}: expected a text or a list of texts")
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    if stream is not None and not callable(stream):
        raise TypeError(f"stream = {stream!r}: expected a function of (row, piece)")
    if any(not isinstance(word, str) or not word for word in stops):
        raise ValueError(f"stop = {stop!r}: expected texts that are not empty")
    if model.tokenizer is None and (stops or stream is not None):
        raise ValueError("stop and stream need a tokenizer, and this model has none")

    encoded = model.encode(inputs)
    table, which = model._prompts(prompt, len(encoded))
    seen: dict[tuple, int] = {}
    texts = []
    for i, (ids, w) in enumerate(zip(encoded, which, strict=True)):
        length = len(table.symbols(w, ids)[0])
        if length == 0:
            raise ValueError(f"inputs[{i}]: an empty input without a prompt cannot be continued")
        model._check_length(length, f"inputs[{i}]")
        same = (ids.tobytes(), w)
        repetition = seen.get(same, 0)
        seen[same] = repetition + 1
        room = model.spec.max_positions - (0 if model.spec.num_encoder_layers else length)
        limit = min(int(max_new_tokens), room)
        number = length_class(model.spec, length)
        texts.append(_Text(ids, w, sampler.stream(repetition), limit, number))

    for start, end in _batches(model, table, texts):
        with model._workers.lend() as worker:
            _run(
                model, worker, table, texts[start:end], list(range(start, end)), sampler, stops,
                stream,
            )  # fmt: skip
    if return_ids or model.tokenizer is None:
        return [text.new for text in texts]
    if stops:
        return [text.text for text in texts]
    return [model.tokenizer.decode(text.new) for text in texts]
