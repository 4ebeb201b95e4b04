"""Logits after every token of every input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softprompt.model.frozen import FrozenModel
from softprompt.model.sequences import PromptTable

__all__ = ["logits"]

LOGITS_AT_A_TIME = 1 << 25
"""Logits of one engine call (128 MiB)."""


def logits(model: FrozenModel, inputs: Sequence, prompt: object = None) -> list[np.ndarray]:
    """See `Model.logits`."""
    encoded = model.encode(inputs)
    table, which = model._prompts(prompt, len(encoded))
    vocab_size = model.spec.vocab_size
    result: list[np.ndarray] = []
    start = 0
    while start < len(encoded):
        end, rows = start, 0
        while end < len(encoded) and (
            end == start or (rows + len(encoded[end])) * vocab_size <= LOGITS_AT_A_TIME
        ):
            rows += len(encoded[end])
            end += 1
        result += _logits(model, table, which[start:end], encoded[start:end], start)
        start = end
    return result


def _logits(
    model: FrozenModel, table: PromptTable, which: list[int], encoded: list[np.ndarray], first: int
) -> list[np.ndarray]:
    sequences, places = [], []
    for i, ids in enumerate(encoded):
        symbols, at = table.symbols(which[i], ids)
        model._check_length(table.rows_before(which[i]) + len(symbols), f"inputs[{first + i}]")
        sequences.append(symbols)
        places.append(at)
    filled = [i for i, at in enumerate(places) if len(at)]
    if not filled:
        return [np.zeros((0, model.spec.vocab_size), np.float32) for _ in encoded]
    given = [sequences[i] for i in filled]
    forest = model._pack(
        given, [len(symbols) for symbols in given], table, [which[i] for i in filled]
    )
    wanted = [rows[places[i]] for i, rows in zip(filled, forest.rows, strict=True)]
    rows, back = np.unique(np.concatenate(wanted), return_inverse=True)
    arguments = (
        model._engine_forest(forest),
        table.matrix,
        table.engine_prefix(forest.prefixes),
        rows.astype(np.int32),
        model.num_threads,
    )
    with model._workers.lend() as worker:
        context = worker.context
        pack_rows = model._workers.rows_within_limit(
            lambda rows: context.logits_workspace(*arguments, rows)
        )
        logits = context.logits(*arguments, pack_rows)
    result = [np.zeros((0, model.spec.vocab_size), np.float32) for _ in encoded]
    at = 0
    for i in filled:
        count = len(places[i])
        result[i] = logits[back[at : at + count]]
        at += count
    return result
