"""Tiny Hugging Face folders against golden values of transformers and PEFT in float64.

Tolerance 1e-5 of the largest logit, of the loss and of the gradient's norm: about ten times what
transformers' own float32 run differs by (`tests/golden/make_golden.py` prints it).
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from golden import cases

import softprompt

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=list(tiny.CONFIGS))
def case(request, tmp_path_factory):
    folder = tiny.write_tiny(tmp_path_factory.mktemp("tiny"), request.param, seed=cases.SEED)
    return request.param, softprompt.load_model(folder), cases.answers(request.param)


def prompt_of(name: str, rows: int) -> np.ndarray | None:
    return cases.prompt(name, rows) if rows else None


@pytest.mark.parametrize("rows", [0, *cases.PROMPT_LENGTHS])
def test_logits(case, rows):
    name, model, golden = case
    sequences = [i + t for i, t in cases.examples(name)]
    expected = golden[f"P{rows}/logits"]
    size = np.abs(expected).max()
    end = 0
    for ids, got in zip(sequences, model.logits(sequences, prompt_of(name, rows)), strict=True):
        end += rows + len(ids)
        text_rows = expected[end - len(ids) : end]
        assert got.shape == text_rows.shape
        assert got.dtype == np.float32
        assert np.abs(got - text_rows).max() < TOLERANCE * size


@pytest.mark.parametrize("rows", cases.PROMPT_LENGTHS)
def test_loss_and_gradient(case, rows):
    name, model, golden = case
    prompt, batch = cases.prompt(name, rows), cases.examples(name)
    loss, grad = model.loss_and_grad(prompt, batch)
    expected = golden[f"P{rows}/grad"]
    assert abs(loss - golden[f"P{rows}/loss"]) < TOLERANCE * loss
    assert grad.dtype == np.float32
    assert np.linalg.norm(grad - expected) < TOLERANCE * np.linalg.norm(expected)
    assert abs(model.loss(prompt, batch) - loss) < TOLERANCE * loss


@pytest.mark.parametrize("rows", [0, *cases.PROMPT_LENGTHS])
def test_log_likelihood(case, rows):
    name, model, golden = case
    inputs, targets = zip(*cases.examples(name), strict=True)
    got = model.log_likelihood(list(inputs), list(targets), prompt_of(name, rows))
    mean = -got.sum() / sum(len(t) for t in targets)
    assert abs(mean - golden[f"P{rows}/loss"]) < TOLERANCE * mean


@pytest.mark.parametrize("rows", [0, *cases.PROMPT_LENGTHS])
def test_greedy_tokens(case, rows):
    name, model, golden = case
    expected = [
        [token for token in ids if token >= 0] for ids in golden[f"P{rows}/greedy"].tolist()
    ]
    got = model.generate(
        cases.continued(name),
        prompt_of(name, rows),
        max_new_tokens=cases.NEW_TOKENS,
        return_ids=True,
    )
    assert got == expected


def test_embeddings(case):
    name, model, _ = case
    table = np.asarray(model.embeddings)
    vocab = tiny.CONFIGS[name]["vocab_size"]
    assert table.dtype == np.float32
    assert len(table) == vocab
    assert model.embeddings.shape == table.shape
    np.testing.assert_array_equal(model.embeddings[3], table[3])
    np.testing.assert_array_equal(model.embeddings[-1], table[-1])
    np.testing.assert_array_equal(model.embeddings[2:9:2], table[2:9:2])
    some = np.array([5, 0, vocab - 1, 5])
    np.testing.assert_array_equal(model.embeddings[some], table[some])
