"""Ranking: which of several choices a model takes to be the continuation, and the loss of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt.model.frozen import FrozenModel
from softprompt.model.losses import run_losses
from softprompt.model.sequences import PromptTable, check_ids, check_weights, is_several

__all__ = ["rank", "ranking_loss_and_grad"]


def ranking_loss_and_grad(
    model: FrozenModel,
    prompt: object,
    inputs: Sequence,
    choices: Sequence,
    targets: Sequence,
    sample_weight: object,
    length_normalize: bool,
) -> Any:
    """See `Model.ranking_loss_and_grad`."""
    several = is_several(prompt)
    prompts: Sequence[object] = prompt if several else [prompt]  # type: ignore[assignment]
    if any(p is None for p in prompts):
        raise TypeError("prompt: expected an array, a SoftPrompt or a Prefix, got None")
    table = model._table(prompts)
    weight_lists = [None] * len(prompts) if several and sample_weight is None else sample_weight
    lists = {"inputs": inputs, "targets": targets, "sample_weight": weight_lists}
    if several:
        for name, of_prompts in lists.items():
            if len(of_prompts) != len(prompts):  # type: ignore[arg-type]
                raise ValueError(f"{len(prompts)} prompts and {len(of_prompts)} lists of {name}")
    else:
        lists = {name: [of_prompt] for name, of_prompt in lists.items()}
    ids_of_choices = _choices(model, choices)
    encoded, wanted, weights = [], [], []
    for p in range(len(prompts)):
        where = {name: f"{name}[{p}]" if several else name for name in lists}
        own = model.encode(lists["inputs"][p], where=where["inputs"])
        if not own:
            raise ValueError(f"{where['inputs']}: expected at least one")
        right = check_ids(
            lists["targets"][p], vocab_size=len(ids_of_choices), where=where["targets"]
        )
        if len(right) != len(own):
            raise ValueError(f"{where['targets']}: {len(right)} for {len(own)} inputs")
        given = lists["sample_weight"][p]
        weight = (
            np.ones(len(own))
            if given is None
            else check_weights(given, len(own), where=where["sample_weight"])
        )
        if weight.sum() <= 0:
            raise ValueError(f"{where['sample_weight']}: all weights are zero")
        encoded.append(own)
        wanted.append(right)
        weights.append(weight / weight.sum())
    owner = np.repeat(np.arange(len(prompts)), [len(own) for own in encoded])
    target, weight = np.concatenate(wanted), np.concatenate(weights)
    log_probs, grads = _rank(
        model,
        table,
        owner.tolist(),
        [ids for own in encoded for ids in own],
        ids_of_choices,
        length_normalize,
        (target, weight),
    )
    terms = -weight * log_probs[np.arange(len(owner)), target]
    results = [(float(terms[owner == p].sum()), grads[p]) for p in range(len(prompts))]
    return results if several else results[0]


def rank(
    model: FrozenModel,
    inputs: Sequence,
    choices: Sequence,
    prompt: object,
    length_normalize: bool,
) -> np.ndarray:
    """See `Model.rank`."""
    encoded = model.encode(inputs)
    ids_of_choices = _choices(model, choices)
    table, which = model._prompts(prompt, len(encoded))
    result = np.zeros((len(encoded), len(ids_of_choices)))
    for part in model._parts(encoded):
        chosen = [encoded[i] for i in part]
        result[part], _ = _rank(
            model, table, [which[i] for i in part], chosen, ids_of_choices, length_normalize, None
        )
    return result


def _choices(model: FrozenModel, choices: Sequence) -> list[np.ndarray]:
    if isinstance(choices, (str, bytes)) or len(choices) < 2:
        raise ValueError(f"choices = {choices!r}: expected at least two texts or id lists")
    return [model._pair([], choice, f"choices[{i}]")[1] for i, choice in enumerate(choices)]


def _rank(
    model: FrozenModel,
    table: PromptTable,
    which: list[int],
    encoded: list[np.ndarray],
    choices: list[np.ndarray],
    length_normalize: bool,
    training: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, list]:
    num, num_choices = len(encoded), len(choices)
    factors = [1.0 / len(c) if length_normalize and len(c) else 1.0 for c in choices]
    # Up to here all choices are predicted by the same rows, with the same weight: there the
    # normaliser cancels, and the head needs no other tokens than theirs.
    common = 0
    same_rows = len({int(c[0]) for c in map(model._decoder_start, choices) if len(c)}) < 2
    while same_rows and all(len(c) > common for c in choices) and len(set(factors)) == 1:
        common += 1
        if len({int(c[common - 1]) for c in choices}) > 1:
            break
    texts, places = [], []
    for i, ids in enumerate(encoded):
        for choice in choices:
            texts.append(model._sequence(table, which[i], ids, choice, f"inputs[{i}]"))
            places.append(texts[-1].before + np.arange(len(choice)))
    forest, rows = model._packed(texts, places)
    lengths = [len(c) for c in choices]
    targets = np.tile(np.concatenate(choices), num)
    weights = np.tile(np.repeat(factors, lengths), num)
    cut = np.tile(np.concatenate([np.arange(n) < common for n in lengths]), num)
    choice_of = np.repeat(np.arange(num * num_choices), np.tile(lengths, num))
    ranking = None
    if training is not None:
        wanted, group_weights = training
        ranking = (
            choice_of,
            np.repeat(np.arange(num, dtype=np.int32), num_choices),
            (np.arange(num) * num_choices + wanted).astype(np.int32),
            group_weights.astype(np.float32),
        )
    order, log_probs, grads = run_losses(
        model, forest, table, rows, targets, weights,
        want_grad=training is not None, cut=cut, ranking=ranking,
    )  # fmt: skip
    sums = np.bincount(choice_of[order], weights[order] * log_probs, num * num_choices)
    sums = sums.reshape(num, num_choices)
    sums -= sums.max(axis=1, keepdims=True)
    return sums - np.log(np.exp(sums).sum(axis=1, keepdims=True)), grads
