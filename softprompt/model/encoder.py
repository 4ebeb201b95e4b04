"""Generation of a model with an encoder: what it reads becomes resident, the decoder's text starts.

Everything after that is what it is of a decoder alone: one row a text and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt.model.frozen import FrozenModel
from softprompt.model.workers import PACK_ROWS
from softprompt.tokenizer import TranslationTokenizer

__all__ = ["decoder_beginning", "prefill"]


def decoder_beginning(model: FrozenModel) -> tuple[int, list[int]]:
    """Return what the decoder reads before it writes.

    Parameters
    ----------
    model : FrozenModel
        With an encoder.

    Returns
    -------
    start : int
        Its start token; of an mBART without one the last token of a target.
    forced : list of int
        What its text begins with in any case: the configuration's ``forced_bos_token_id``, or the
        code of the target's language, where that stands before a text.

    Raises
    ------
    ValueError
        There is no start token, and no tokenizer that knows the language.
    """
    config, tokenizer = model.config, model.tokenizer
    speaks = isinstance(tokenizer, TranslationTokenizer)
    language = tokenizer.languages[tokenizer.tgt_lang] if speaks else None
    start = config.decoder_start_token_id
    if start is None and language is None:
        raise ValueError(
            "the configuration has no decoder_start_token_id, and there is no tokenizer with a "
            "target language (tgt_lang) that could take its place"
        )
    if start is None:
        # What the loss reads first: a target's last token, its language or the end before that.
        start = language if tokenizer.code_stands == "after" else tokenizer.eos_token_id
    if config.forced_bos_token_id is not None:
        return start, [config.forced_bos_token_id]
    return start, [language] if speaks and tokenizer.code_stands == "before" else []


def prefill(resident: Any, texts: Sequence[Any]) -> np.ndarray:
    """Let the encoder read the inputs, equal ones once, and start every text under its own.

    Parameters
    ----------
    resident : softprompt.model.resident.Resident
    texts : sequence of its texts
        Each gets its growing segment and, where there are some, the tokens that are forced.

    Returns
    -------
    ndarray of float32, shape (n, vocab_size)
        Logits after them.
    """
    model = resident.model
    start, forced = decoder_beginning(model)
    memories: dict[bytes, int] = {}
    pieces: list[np.ndarray] = []
    reads = []
    for text in texts:
        symbols, _ = resident.table.symbols(text.which, text.ids)
        key = symbols.tobytes()
        if key not in memories:
            memories[key] = resident.create_memory(len(symbols))
            pieces.append(symbols)
        reads.append(memories[key])
    _in_packs(resident, list(memories.values()), pieces)
    beginnings = []
    for text, memory in zip(texts, reads, strict=True):
        text.new = forced[: text.limit]
        rows = max(text.limit, 1)  # the last token of a text is read by nobody
        beginnings.append(np.array([start, *text.new][:rows], np.int32))
        text.parent, text.beginning = memory, 1
        text.segment = resident.create(memory, rows)
    last = np.cumsum([len(symbols) for symbols in beginnings]) - 1
    return resident.extend([text.segment for text in texts], beginnings, last.tolist())


def _in_packs(resident: Any, segments: list[int], pieces: list[np.ndarray]) -> None:
    first = 0
    while first < len(segments):
        last, total = first, 0
        while last < len(segments) and (last == first or total + len(pieces[last]) <= PACK_ROWS):
            total += len(pieces[last])
            last += 1
        resident.extend(segments[first:last], pieces[first:last], [])
        first = last
