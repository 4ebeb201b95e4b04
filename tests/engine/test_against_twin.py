"""Random decoders, every switch in every combination, against the float64 twin.

The tolerance is `compare.py`'s. The twin runs each sequence alone; the engine shares what it can:
so these tests are about the forest as much as about the layers.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from engine.build import engine_model
from engine.compare import assert_gradient, assert_loss, assert_rows
from hypothesis import given
from reference.random_specs import examples, prompts, token_lists, twins

from softprompt import SoftPrompt


@given(st.data())
def test_logits(data):
    twin = data.draw(twins())
    prompt = data.draw(st.none() | prompts(twin.spec["hidden_size"]))
    sequences = data.draw(
        st.lists(token_lists(twin.spec["vocab_size"], min_size=1), min_size=1, max_size=4)
    )
    got = engine_model(twin).logits(sequences, prompt)
    single = twin.in_float32()
    for ids, logits in zip(sequences, got, strict=True):
        text = slice(-len(ids), None)
        assert_rows(logits, twin.logits(ids, prompt)[text], single.logits(ids, prompt)[text])


@given(st.data())
def test_loss_and_gradient(data):
    twin = data.draw(twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"]))
    batch = data.draw(examples(twin.spec["vocab_size"]))
    model = engine_model(twin)
    loss, grad = model.loss_and_grad(prompt, batch)
    exact, single = (
        twin.loss_and_grad(prompt, batch),
        twin.in_float32().loss_and_grad(prompt, batch),
    )
    assert_loss(loss, exact[0], single[0], exact[1])
    assert_gradient(grad, exact[1], single[1])
    assert_rows(model.loss(prompt, batch), exact[0], single[0])


@given(st.data())
def test_several_prompts_in_one_pass(data):
    twin = data.draw(twins())
    single = twin.in_float32()
    count = data.draw(st.integers(1, 3))
    each = [data.draw(prompts(twin.spec["hidden_size"])) for _ in range(count)]
    batches = [data.draw(examples(twin.spec["vocab_size"], max_examples=3)) for _ in each]
    answers = engine_model(twin).loss_and_grad(each, batches)
    assert len(answers) == count
    for prompt, batch, (loss, grad) in zip(each, batches, answers, strict=True):
        exact, rough = twin.loss_and_grad(prompt, batch), single.loss_and_grad(prompt, batch)
        assert_loss(loss, exact[0], rough[0], exact[1])
        assert_gradient(grad, exact[1], rough[1])


@given(st.data())
def test_log_likelihood(data):
    twin = data.draw(twins())
    prompt = data.draw(st.none() | prompts(twin.spec["hidden_size"]))
    batch = data.draw(examples(twin.spec["vocab_size"], min_input=0 if prompt is not None else 1))
    inputs, targets = [e[0] for e in batch], [e[1] for e in batch]
    got = engine_model(twin).log_likelihood(inputs, targets, prompt)
    single = twin.in_float32()
    exact, rough = (
        np.array(
            [t.log_likelihood(i, j, prompt).sum() for i, j in zip(inputs, targets, strict=True)]
        )
        for t in (twin, single)
    )
    assert got.dtype == np.float64
    assert_rows(got, exact, rough)


@st.composite
def rankings(draw: st.DrawFn, vocab_size: int, min_input: int = 0) -> dict:
    """Inputs, choices (often with common first tokens, all different) and the true choices."""
    inputs = draw(
        st.lists(token_lists(vocab_size, min_size=min_input, max_size=6), min_size=1, max_size=4)
    )
    common = draw(token_lists(vocab_size, max_size=2))
    rests = draw(
        st.lists(
            token_lists(vocab_size, min_size=1, max_size=3), min_size=2, max_size=4, unique_by=tuple
        )
    )
    choices = [common + rest for rest in rests]
    index = st.integers(0, len(choices) - 1)
    return {
        "inputs": inputs,
        "choices": choices,
        "targets": draw(st.lists(index, min_size=len(inputs), max_size=len(inputs))),
    }


@given(st.data())
def test_ranking_loss_and_gradient(data):
    twin = data.draw(twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"]))
    task = data.draw(rankings(twin.spec["vocab_size"]))
    weights = st.lists(
        st.floats(0.1, 3.0), min_size=len(task["inputs"]), max_size=len(task["inputs"])
    )
    options = {
        "length_normalize": data.draw(st.booleans()),
        "sample_weight": data.draw(st.none() | weights),
    }
    loss, grad = engine_model(twin).ranking_loss_and_grad(prompt, **task, **options)
    exact, rough = (
        t.ranking_loss_and_grad(prompt, **task, **options) for t in (twin, twin.in_float32())
    )
    assert_loss(loss, exact[0], rough[0], exact[1])
    assert_gradient(grad, exact[1], rough[1])


@given(st.data())
def test_ranking_with_several_prompts_in_one_pass(data):
    twin = data.draw(twins())
    single = twin.in_float32()
    count = data.draw(st.integers(1, 3))
    each = [data.draw(prompts(twin.spec["hidden_size"])) for _ in range(count)]
    tasks = [data.draw(rankings(twin.spec["vocab_size"])) for _ in each]
    choices = tasks[0]["choices"]
    for task in tasks:  # of which all prompts have the same
        task["choices"] = choices
        task["targets"] = [t % len(choices) for t in task["targets"]]
    answers = engine_model(twin).ranking_loss_and_grad(
        each, [task["inputs"] for task in tasks], choices, [task["targets"] for task in tasks]
    )
    assert len(answers) == count
    for prompt, task, (loss, grad) in zip(each, tasks, answers, strict=True):
        exact, rough = (t.ranking_loss_and_grad(prompt, **task) for t in (twin, single))
        assert_loss(loss, exact[0], rough[0], exact[1])
        assert_gradient(grad, exact[1], rough[1])


@given(st.data())
def test_rank(data):
    twin = data.draw(twins())
    prompt = data.draw(st.none() | prompts(twin.spec["hidden_size"]))
    task = data.draw(rankings(twin.spec["vocab_size"], min_input=0 if prompt is not None else 1))
    normalize = data.draw(st.booleans())
    got = engine_model(twin).rank(
        task["inputs"], task["choices"], prompt, length_normalize=normalize
    )
    exact, rough = (
        t.rank(task["inputs"], task["choices"], prompt, length_normalize=normalize)
        for t in (twin, twin.in_float32())
    )
    assert got.dtype == np.float64
    assert_rows(got, exact, rough)
    np.testing.assert_allclose(np.exp(got).sum(axis=1), 1.0, rtol=0, atol=1e-9)


@given(st.data())
def test_single_token_choices_rank_as_the_whole_head_does(data):
    """The head is cut to the choices' tokens, as the normaliser of the vocabulary cancels."""
    twin = data.draw(twins())
    vocab = twin.spec["vocab_size"]
    prompt = data.draw(prompts(twin.spec["hidden_size"]))
    ids = data.draw(token_lists(vocab, max_size=5))
    tokens = data.draw(st.lists(st.integers(0, vocab - 1), min_size=2, max_size=5, unique=True))
    model = engine_model(twin)
    cut = model.rank([ids], [[token] for token in tokens], prompt)[0]
    whole = model.log_likelihood([ids] * len(tokens), [[token] for token in tokens], prompt)
    whole -= np.logaddexp.reduce(whole)
    # Two ways in float32 to the same differences of logits; logits here are below 30.
    np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-4)


@given(st.data())
def test_a_prompt_of_token_embeddings_is_the_text(data):
    twin = data.draw(twins())
    vocab = twin.spec["vocab_size"]
    start = data.draw(token_lists(vocab, min_size=1, max_size=5))
    ids = data.draw(token_lists(vocab, min_size=1, max_size=5))
    model = engine_model(twin)
    (as_prompt,) = model.logits([ids], model.embeddings[np.array(start)])
    (as_text,) = model.logits([start + ids])
    exact, rough = (t.logits(start + ids)[len(start) :] for t in (twin, twin.in_float32()))
    assert_rows(as_prompt, exact, rough)
    assert_rows(as_text[len(start) :], exact, rough)


@pytest.mark.parametrize("lead", [0, 1])
@given(st.data())
def test_prompt_after_bos(lead, data):
    """A prompt with position "after_bos" stands after the first token if that is BOS (id 1)."""
    twin = data.draw(twins())
    array = data.draw(prompts(twin.spec["hidden_size"]))
    batch = data.draw(examples(twin.spec["vocab_size"]))
    first = 1 if lead else 2
    batch = [([first, *e[0]], *e[1:]) for e in batch]
    model = engine_model(twin, bos_token_id=1)
    prompt = SoftPrompt(array, position="after_bos")
    loss, grad = model.loss_and_grad(prompt, batch)
    exact, rough = (t.loss_and_grad(array, batch, at=lead) for t in (twin, twin.in_float32()))
    assert_loss(loss, exact[0], rough[0], exact[1])
    assert_gradient(grad, exact[1], rough[1])
    sequences = [e[0] for e in batch]
    for ids, logits in zip(sequences, model.logits(sequences, prompt), strict=True):
        rows = [*range(lead), *range(lead + len(array), len(ids) + len(array))]
        exact, rough = (t.logits(ids, array, at=lead)[rows] for t in (twin, twin.in_float32()))
        assert_rows(logits, exact, rough)
