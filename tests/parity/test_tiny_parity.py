"""Tiny folders through transformers 5 and PEFT, as they come, and through softprompt.

The reference is a float64 run. Tolerance: 1e-5, or four times what transformers' own float32 run
differs by, where that is more; of the largest logit, of the loss, of the gradient's norm.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from golden import cases

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

from parity import oracle
from parity.test_twin_parity import MODELS

import softprompt


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def bound(single: float) -> float:
    return max(1e-5, 4 * single)


@pytest.mark.parametrize("rows", [0, 1, 20])
@pytest.mark.parametrize("case", list(MODELS))
def test_logits_loss_and_gradient(tmp_path, case, rows):
    name, changes = MODELS[case]
    folder = tiny.write_tiny(tmp_path, name, seed=31, changes=changes)
    batch = cases.examples(name)
    prompt = cases.prompt(name, rows) if rows else None
    answers = []
    for dtype in ("float64", "float32"):
        theirs = oracle.load(folder, dtype=dtype)
        if rows:
            theirs = oracle.add_prompt(theirs, prompt)
        answers.append(oracle.ask(theirs, batch))
    exact, single = answers

    model = softprompt.load_model(folder)
    logits = model.logits([i + t for i, t in batch], prompt)
    for ours, theirs, rough in zip(logits, exact.logits, single.logits, strict=True):
        assert relative(ours, theirs[rows:]) < bound(relative(rough[rows:], theirs[rows:]))
    inputs, targets = [e[0] for e in batch], [e[1] for e in batch]
    mean = -model.log_likelihood(inputs, targets, prompt).sum() / sum(map(len, targets))
    allowed = bound(abs(single.loss - exact.loss) / exact.loss) * exact.loss
    assert abs(mean - exact.loss) < allowed
    if rows:
        loss, grad = model.loss_and_grad(prompt, batch)
        assert abs(loss - exact.loss) < allowed
        assert relative(grad, exact.grad) < bound(relative(single.grad, exact.grad))


@pytest.mark.parametrize("rows", [0, 1, 20])
@pytest.mark.parametrize("case", list(MODELS))
def test_greedy_tokens(tmp_path, case, rows):
    name, changes = MODELS[case]
    folder = tiny.write_tiny(tmp_path, name, seed=32, changes=changes)
    theirs = oracle.load(folder)
    prompt = cases.prompt(name, rows) if rows else None
    if rows:
        theirs = oracle.add_prompt(theirs, prompt)
    inputs = cases.continued(name)
    ours = softprompt.load_model(folder).generate(
        inputs, prompt, max_new_tokens=24, return_ids=True
    )
    assert ours == [oracle.greedy(theirs, ids, 24) for ids in inputs]


@pytest.mark.parametrize("case", list(MODELS))
def test_embeddings(tmp_path, case):
    name, changes = MODELS[case]
    folder = tiny.write_tiny(tmp_path, name, changes=changes)
    theirs = oracle.load(folder).get_input_embeddings().weight.numpy()
    np.testing.assert_array_equal(np.asarray(softprompt.load_model(folder).embeddings), theirs)
