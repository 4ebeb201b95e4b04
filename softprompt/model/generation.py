"""Generation over resident segments: shared prefixes once, then one row per text and step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from softprompt.families import length_class
from softprompt.model.beam_generation import search
from softprompt.model.beams import BeamOptions, check_positive_int
from softprompt.model.demands import Demands
from softprompt.model.frozen import FrozenModel
from softprompt.model.resident import Resident, Text, advance, prefill
from softprompt.model.sampling import Sampler
from softprompt.model.sequences import PromptTable
from softprompt.model.workers import Worker

__all__ = ["generate"]

CACHE_BYTES = 1 << 28
"""Keys, values and logits of texts that are generated together (256 MiB)."""


def _finish(model: FrozenModel, text: Text, stop: Sequence[str], final: bool) -> str:
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
    texts: list[Text],
    numbers: list[int],
    sampler: Sampler,
    stop: Sequence[str],
    stream: Callable[[int, str], object] | None,
) -> None:
    resident = Resident(model, worker, table)
    end_ids = set(getattr(model.config, "eos_token_ids", ()))
    watch = bool(stop) or stream is not None
    demands = Demands(model.config)
    try:
        logits = prefill(resident, texts)
        active = [i for i, text in enumerate(texts) if text.limit > len(text.new)]
        logits = logits[active]
        while active:
            demands.apply(logits, [texts[i] for i in active])
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
                logits = advance(resident, [texts[i] for i in active])
    finally:
        resident.close()


def _num_rows(model: FrozenModel, table: PromptTable, text: Text, num_beams: int) -> int:
    """Rows of keys and values of a text and its beams, at most."""
    length = table.length(text.which, text.ids)
    if model.spec.num_encoder_layers:  # a prompt is a part of what each text's encoder reads
        return length + num_beams * (1 + text.limit)
    if length_class(model.spec, length + text.limit):  # each beam may have a tree of its own
        return num_beams * (length + text.limit)
    return len(text.ids) + num_beams * text.limit


def _batches(
    model: FrozenModel, table: PromptTable, texts: list[Text], num_beams: int
) -> Iterator[tuple[int, int]]:
    """Texts that are generated together: so many that their keys, values and logits fit."""
    spec = model.spec
    row_bytes = 8 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    # Logits twice: those of the last rows, and those that they came from.
    logits_bytes = num_beams * 8 * spec.vocab_size
    sizes = [_num_rows(model, table, text, num_beams) * row_bytes + logits_bytes for text in texts]
    prompts = 0 if spec.num_encoder_layers else table.num_rows * row_bytes
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


def _check_several(
    options: BeamOptions, num_return_sequences: int, sampler: Sampler, stream: object, size: int
) -> None:
    """Raise if options about several continuations of a text do not go together."""
    check_positive_int("num_return_sequences", num_return_sequences)
    num_beams = options.num_beams
    if num_beams == 1:
        if num_return_sequences > 1 and sampler.temperature == 0:
            raise ValueError(
                f"num_return_sequences = {num_return_sequences} with num_beams = 1 and "
                "temperature = 0: greedy generation has one result; search with beams or sample"
            )
        return
    if sampler.temperature > 0:
        raise ValueError(
            f"num_beams = {num_beams} with temperature = {sampler.temperature}: beams are not "
            "sampled; expected temperature = 0 or num_beams = 1"
        )
    if stream is not None:
        raise ValueError(
            f"stream with num_beams = {num_beams}: which beam is the best is known at the end only"
        )
    if num_return_sequences > min(num_beams, size):
        raise ValueError(
            f"num_return_sequences = {num_return_sequences}: expected at most num_beams = "
            f"{num_beams}, and at most the vocabulary of {size}"
        )


def _search_all(
    model: FrozenModel,
    table: PromptTable,
    texts: list[Text],
    options: BeamOptions,
    stops: Sequence[str],
    count: int,
) -> list[list[int]]:
    """The `count` best continuations of every text, one text after the other."""

    def has_stop_text(ids: list[int]) -> bool:
        whole = model.tokenizer.decode(ids)
        return any(word in whole for word in stops)

    end_ids = getattr(model.config, "eos_token_ids", ())
    found: list[list[int]] = []
    for start, end in _batches(model, table, texts, options.num_beams):
        now = [text for text in texts[start:end] if text.limit > 0]
        with model._workers.lend() as worker:
            searches = iter(
                search(model, worker, table, now, options, has_stop_text if stops else None)
            )
        for text in texts[start:end]:
            best = next(searches).best(count) if text.limit > 0 else [[]] * count
            found += [ids[:-1] if ids and ids[-1] in end_ids else ids for ids in best]
    return found


def _before_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop text."""
    return text[: min((at for word in stops if (at := text.find(word)) >= 0), default=len(text))]


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
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    num_return_sequences: int = 1,
) -> list:
    """Continue texts until the model's end token, a stop text or a number of tokens.

    Parameters
    ----------
    model : FrozenModel
    inputs : list of texts or id lists
    prompt : SoftPrompt, array, Prefix, or a list of one (or None) per input, optional
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
    num_beams : int
        Above 1: beam search for the likeliest sequence, as transformers does it. Not with sampling
        or `stream`.
    length_penalty, early_stopping
        See `softprompt.model.beams.BeamOptions`; without beams they change nothing.
    num_return_sequences : int
        Results of every input, best first: at most `num_beams`, or any number of samples.

    Returns
    -------
    list of str or of list of int
        What is new, without the end token; `num_return_sequences` for every input, one input after
        the other. Of a model with an encoder what its decoder writes, tokens that are forced (a
        language, ``forced_bos_token_id``) among them.

    Raises
    ------
    TypeError, ValueError
        An empty input without a prompt, an input that is longer than the context, an option of
        another type or out of its range, options that do not go together.
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
    options = BeamOptions(num_beams, length_penalty, early_stopping)
    _check_several(options, num_return_sequences, sampler, stream, model.spec.vocab_size)

    encoded = model.encode(inputs)
    table, which = model._prompts(prompt, len(encoded))
    seen: dict[tuple, int] = {}
    texts = []
    for i, (ids, w) in enumerate(zip(encoded, which, strict=True)):
        if len(table.symbols(w, ids)[0]) == 0:
            before = "without a prompt" if table.prefix(w) < 0 else "after a prefix"
            raise ValueError(f"inputs[{i}]: an empty input {before} cannot be continued")
        length = table.length(w, ids)
        model._check_length(length, f"inputs[{i}]")
        room = model.spec.max_positions - (0 if model.spec.num_encoder_layers else length)
        limit = min(int(max_new_tokens), room)
        number = length_class(model.spec, length)
        same = (ids.tobytes(), w)
        for _ in range(num_return_sequences if num_beams == 1 else 1):
            repetition = seen.get(same, 0)
            seen[same] = repetition + 1
            texts.append(Text(ids, w, sampler.stream(repetition), limit, number))

    if num_beams > 1:
        found = _search_all(model, table, texts, options, stops, num_return_sequences)
        if return_ids or model.tokenizer is None:
            return found
        return [_before_stop(model.tokenizer.decode(ids), stops) for ids in found]
    for start, end in _batches(model, table, texts, 1):
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
