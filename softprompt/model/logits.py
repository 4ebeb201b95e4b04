"""Logits after every token of every input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softprompt.model.frozen import FrozenModel
from softprompt.model.sequences import PromptTable, TextRows

__all__ = ["logits"]

LOGITS_AT_A_TIME = 1 << 25
"""Logits of one engine call (128 MiB)."""


def logits(model: FrozenModel, inputs: Sequence, prompt: object = None) -> list[np.ndarray]:
    """See `Model.logits`."""
    if model.spec.num_encoder_layers:
        encoded, targets = _encode_pairs(model, inputs)
    else:
        encoded = targets = model.encode(inputs)
    table, which = model._prompts(prompt, len(encoded))
    vocab_size = model.spec.vocab_size
    result: list[np.ndarray] = []
    start = 0
    while start < len(encoded):
        end, rows = start, 0
        while end < len(encoded) and (
            end == start or (rows + len(targets[end])) * vocab_size <= LOGITS_AT_A_TIME
        ):
            rows += len(targets[end])
            end += 1
        texts = []
        for i in range(start, end):
            where = f"inputs[{i}]"
            if len(targets[i]) == 0:
                texts.append((None, np.zeros(0, np.int64)))
            elif model.spec.num_encoder_layers:
                text = model._sequence(table, which[i], encoded[i], targets[i], where)
                texts.append((text, np.arange(len(targets[i]))))
            else:
                symbols, at = table.symbols(which[i], encoded[i])
                before, number = table.rows_before(which[i]), table.prefix(which[i])
                model._check_length(before + len(symbols), where)
                texts.append((TextRows(symbols, 0, prefix=number, rows_before=before), at))
        result += _logits(model, table, texts)
        start = end
    return result


def _encode_pairs(model: FrozenModel, inputs: Sequence) -> tuple[list, list]:
    """Ids of (input_ids, target_ids): what the encoder reads and what the decoder writes."""
    if isinstance(inputs, (str, bytes)) or not hasattr(inputs, "__iter__"):
        raise TypeError(
            f"inputs: expected a list of (input_ids, target_ids), got {type(inputs).__name__}"
        )
    pairs = []
    for i, pair in enumerate(inputs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"inputs[{i}]: expected (input_ids, target_ids) of a model with an encoder"
            )
        pairs.append(model._pair(pair[0], pair[1], f"inputs[{i}]"))
    return [ids for ids, _ in pairs], [target for _, target in pairs]


def _logits(
    model: FrozenModel, table: PromptTable, texts: list[tuple[TextRows | None, np.ndarray]]
) -> list[np.ndarray]:
    """Logits at the places of every text; none where there are no places."""
    result = [np.zeros((0, model.spec.vocab_size), np.float32) for _ in texts]
    places = [at for _, at in texts]
    filled = [i for i, at in enumerate(places) if len(at)]
    given = [text for text, _ in texts if text is not None]
    if not filled:
        return result
    forest = model._pack(given, [len(text.symbols) for text in given])
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
    at = 0
    for i in filled:
        count = len(places[i])
        result[i] = logits[back[at : at + count]]
        at += count
    return result
