"""Prefixes before random decoders, every switch in every combination, against the float64 twin.

The tolerance is `compare.py`'s. Gradients are compared in the order of `Prefix.flattened`.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from engine.build import engine_model
from engine.compare import assert_gradient, assert_loss, assert_rows
from hypothesis import assume, given
from reference.random_specs import examples, prefixes, prompts, token_lists, twins
from reference.twin import Twin

from softprompt import Prefix
from softprompt.families.rope import split_half_order


def order_of(twin: Twin) -> np.ndarray:
    """Channels of a head in transformers' order, that of `Prefix`."""
    if twin.spec["rope_interleaved"]:
        return split_half_order(twin.spec["head_dim"], twin.spec["rotary_dim"])
    return np.arange(twin.spec["head_dim"])


def prefix_of(array: np.ndarray, twin: Twin) -> Prefix:
    """The twin's `[L, 2, P, K, h]` as a user has it."""
    return Prefix(array[:, 0][..., order_of(twin)], array[:, 1])


def flattened(array: np.ndarray, twin: Twin) -> np.ndarray:
    both = np.stack([array[:, 0][..., order_of(twin)], array[:, 1]], axis=1)
    return np.moveaxis(both, 2, 0).reshape(array.shape[2], -1)


def assert_same(got: tuple, twin: Twin, prefix: np.ndarray, batch: list) -> None:
    exact, single = (t.loss_and_grad(prefix, batch) for t in (twin, twin.in_float32()))
    assert_rows(got[0], exact[0], single[0])
    assert_gradient(got[1], flattened(exact[1], twin), flattened(single[1], twin))


@given(st.data())
def test_loss_and_gradient(data):
    twin = data.draw(twins())
    prefix = data.draw(prefixes(twin.spec))
    batch = data.draw(examples(twin.spec["vocab_size"], min_input=1))
    model = engine_model(twin)
    got = model.loss_and_grad(prefix_of(prefix, twin), batch)
    assert_same(got, twin, prefix, batch)
    assert model.loss(prefix_of(prefix, twin), batch) == pytest.approx(got[0], rel=1e-5, abs=1e-5)


@given(st.data())
def test_logits_and_log_likelihood(data):
    twin = data.draw(twins())
    prefix = data.draw(prefixes(twin.spec))
    vocab = twin.spec["vocab_size"]
    one = token_lists(vocab, min_size=1)
    sequences = data.draw(st.lists(one, min_size=1, max_size=4))
    targets = data.draw(st.lists(one, min_size=len(sequences), max_size=len(sequences)))
    model, single = engine_model(twin), twin.in_float32()
    ours = prefix_of(prefix, twin)
    for ids, logits in zip(sequences, model.logits(sequences, ours), strict=True):
        assert_rows(logits, twin.logits(ids, prefix), single.logits(ids, prefix))
    pairs = list(zip(sequences, targets, strict=True))
    exact, rough = (
        np.array([t.log_likelihood(*pair, prefix).sum() for pair in pairs]) for t in (twin, single)
    )
    assert_rows(model.log_likelihood(sequences, targets, ours), exact, rough)


@given(st.data())
def test_prompts_and_prefixes_in_one_pass(data):
    """Several of either kind, one of them twice: each has the gradient of a pass of its own."""
    twin = data.draw(twins())
    single = twin.in_float32()
    kinds = data.draw(st.lists(st.sampled_from(["prefix", "prompt"]), min_size=1, max_size=3))
    each, given_ = [], []
    for kind in kinds:
        if kind == "prefix":
            each.append(data.draw(prefixes(twin.spec)))
            given_.append(prefix_of(each[-1], twin))
        else:
            each.append(data.draw(prompts(twin.spec["hidden_size"])))
            given_.append(each[-1])
    batches = [
        data.draw(examples(twin.spec["vocab_size"], min_input=1, max_examples=3)) for _ in each
    ]
    answers = engine_model(twin).loss_and_grad(given_, batches)
    for array, batch, got in zip(each, batches, answers, strict=True):
        if array.ndim == 5:
            assert_same(got, twin, array, batch)
        else:
            exact, rough = twin.loss_and_grad(array, batch), single.loss_and_grad(array, batch)
            assert_rows(got[0], exact[0], rough[0])
            assert_gradient(got[1], exact[1], rough[1])


@given(st.data())
def test_ranking(data):
    twin = data.draw(twins())
    prefix = data.draw(prefixes(twin.spec))
    vocab = twin.spec["vocab_size"]
    inputs = data.draw(st.lists(token_lists(vocab, min_size=1), min_size=1, max_size=4))
    choices = data.draw(
        st.lists(token_lists(vocab, min_size=1, max_size=3), min_size=2, max_size=4)
    )
    targets = [data.draw(st.integers(0, len(choices) - 1)) for _ in inputs]
    options = {"length_normalize": data.draw(st.booleans())}
    model, ours = engine_model(twin), prefix_of(prefix, twin)
    loss, grad = model.ranking_loss_and_grad(ours, inputs, choices, targets, **options)
    exact, rough = (
        t.ranking_loss_and_grad(prefix, inputs, choices, targets, **options)
        for t in (twin, twin.in_float32())
    )
    assert_loss(loss, exact[0], rough[0], exact[1])
    assert_gradient(grad, flattened(exact[1], twin), flattened(rough[1], twin))
    exact, rough = (t.rank(inputs, choices, prefix, **options) for t in (twin, twin.in_float32()))
    assert_rows(model.rank(inputs, choices, ours, **options), exact, rough)


@given(st.data())
def test_greedy_text(data):
    twin = data.draw(twins())
    prefix = data.draw(prefixes(twin.spec))
    inputs = data.draw(
        st.lists(token_lists(twin.spec["vocab_size"], min_size=1), min_size=1, max_size=3)
    )
    expected = [twin.greedy(ids, 5, prefix) for ids in inputs]
    # Below that a best token may change by rounding (`compare.py`); logits are below 100.
    assume(min(margin for _, margin in expected) > 1e-3)
    got = engine_model(twin).generate(
        inputs, prefix_of(prefix, twin), max_new_tokens=5, return_ids=True
    )
    assert got == [new for new, _ in expected]


@given(st.data())
def test_the_prefix_of_a_prompt(data):
    """`Model.prefix` takes a prompt's place: its logits and its gradient's start."""
    twin = data.draw(twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"]))
    ids = data.draw(token_lists(twin.spec["vocab_size"], min_size=1))
    model = engine_model(twin)
    (after,) = model.logits([ids], model.prefix(prompt))
    exact, rough = (t.logits(ids, prompt)[len(prompt) :] for t in (twin, twin.in_float32()))
    assert_rows(after, exact, rough)
