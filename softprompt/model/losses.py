"""Losses: log-probabilities of given targets, and the gradient of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt.model.forest import Forest
from softprompt.model.frozen import FrozenModel
from softprompt.model.sequences import PromptTable, check_weights, is_several

__all__ = ["log_likelihood", "loss", "run_losses"]


def loss(model: FrozenModel, prompt: object, examples: Sequence, *, want_grad: bool) -> Any:
    """See `Model.loss_and_grad`; without `want_grad` the gradients are None."""
    several = is_several(prompt)
    prompts: Sequence[object] = prompt if several else [prompt]  # type: ignore[assignment]
    lists = examples if several else [examples]
    if len(prompts) != len(lists):
        raise ValueError(f"{len(prompts)} prompts and {len(lists)} lists of examples")
    if want_grad and any(p is None for p in prompts):
        raise TypeError("prompt: expected an array, a SoftPrompt or a Prefix, got None")
    table = model._table(prompts)
    texts, places, targets, weights, owners = [], [], [], [], []
    for p, batch in enumerate(lists):
        prefix = f"examples[{p}]" if several else "examples"
        if isinstance(batch, (str, bytes, dict)) or not hasattr(batch, "__len__"):
            raise TypeError(f"{prefix}: expected a list of examples, got {type(batch).__name__}")
        if len(batch) == 0:
            raise ValueError(f"{prefix}: expected at least one example")
        own = []
        for i, example in enumerate(batch):
            where = f"{prefix}[{i}]"
            if not isinstance(example, (tuple, list)) or len(example) not in (2, 3):
                raise TypeError(
                    f"{where}: expected (input_ids, target_ids) or (input_ids, target_ids, weights)"
                )
            ids, target = model._pair(example[0], example[1], where)
            text = model._sequence(table, p, ids, target, where)
            own.append(
                np.ones(len(target))
                if len(example) == 2 or example[2] is None
                else check_weights(example[2], len(target), where=f"{where}: weights")
            )
            texts.append(text)
            places.append(text.before + np.arange(len(target)))
            targets.append(target)
        total = float(sum(w.sum() for w in own))
        if total <= 0:
            raise ValueError(f"{prefix}: all weights are zero")
        weights += [w / total for w in own]
        owners += [np.full(len(w), p) for w in own]
    forest, rows = model._packed(texts, places)
    weight = np.concatenate(weights)
    order, log_probs, grads = run_losses(
        model, forest, table, rows, np.concatenate(targets), weight, want_grad=want_grad
    )
    terms = -weight[order] * log_probs
    owner = np.concatenate(owners)[order]
    losses = [float(terms[owner == p].sum()) for p in range(len(prompts))]
    results = list(zip(losses, grads, strict=True))
    return results if several else results[0]


def log_likelihood(
    model: FrozenModel, inputs: Sequence, targets: Sequence, prompt: object = None
) -> np.ndarray:
    """See `Model.log_likelihood`."""
    encoded = model.encode(inputs)
    if len(targets) != len(encoded):
        raise ValueError(f"targets: {len(targets)} for {len(encoded)} inputs")
    pairs = [
        model._pair(ids, target, f"targets[{i}]")
        for i, (ids, target) in enumerate(zip(encoded, targets, strict=True))
    ]
    table, which = model._prompts(prompt, len(encoded))
    result = np.zeros(len(encoded))
    for part in model._parts(encoded):
        texts = [model._sequence(table, which[i], *pairs[i], f"inputs[{i}]") for i in part]
        places = [
            text.before + np.arange(len(pairs[i][1])) for i, text in zip(part, texts, strict=True)
        ]
        forest, rows = model._packed(texts, places)
        owner = np.repeat(np.arange(len(part)), [len(at) for at in places])
        order, log_probs, _ = run_losses(
            model, forest, table, rows, np.concatenate([pairs[i][1] for i in part]),
            np.ones(len(rows)), want_grad=False,
        )  # fmt: skip
        result[part] = np.bincount(owner[order], log_probs, len(part))
    return result


def run_losses(
    model: FrozenModel,
    forest: Forest,
    table: PromptTable,
    rows: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    want_grad: bool,
    cut: np.ndarray | None = None,
    ranking: tuple | None = None,
) -> tuple[np.ndarray, np.ndarray, list]:
    """Give the engine loss entries in rows' order; returns that order with the results: the
    log-probabilities, and the gradient of every prompt of the table (None where not wanted).
    """
    order = np.argsort(rows, kind="stable")
    rows, targets = rows[order], targets[order]
    cut_flags = np.zeros(len(rows), dtype=np.uint8)
    cut_tokens = np.zeros(0, dtype=np.int32)
    if cut is not None and cut.any():
        # a row is cut only if all its entries are
        first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        all_cut = np.minimum.reduceat(cut[order].astype(np.uint8), first)
        cut_flags = np.repeat(all_cut, np.diff(np.r_[first, len(rows)]))
        chosen = cut_flags.astype(bool)
        cut_tokens, places = np.unique(targets[chosen], return_inverse=True)
        targets = targets.copy()
        targets[chosen] = places
    losses: tuple = (
        rows.astype(np.int32),
        targets.astype(np.int32),
        weights[order].astype(np.float32),
        cut_flags,
        cut_tokens.astype(np.int32),
    )
    if ranking is not None:
        choices, groups, group_targets, group_weights = ranking
        losses += (choices[order].astype(np.int32), groups, group_targets, group_weights)
    arguments = (
        model._engine_forest(forest),
        table.matrix,
        table.engine_prefix(forest.prefixes),
        losses,
        want_grad,
    )
    with model._workers.lend() as worker:
        context = worker.context
        pack_rows = model._workers.rows_within_limit(
            lambda rows: context.loss_workspace(*arguments, model.num_threads, rows)
        )
        log_probs, grad, prefix_grad = context.loss(*arguments, model.num_threads, pack_rows)
    if not want_grad:
        return order, log_probs, [None] * len(table)
    return order, log_probs, table.gradients(grad, prefix_grad, forest.prefixes)
