"""The float64 twin against the golden values of transformers and PEFT in float64: two independent
oracles agree.

Both compute in float64, but rotary frequencies are float32 powers, and NumPy's may differ from
torch's in the last bit (6e-8, times positions up to 20): hence 1e-7 of the loss, 1e-6 of the
gradient and of the largest logit, which is stored in float32 besides.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from golden import cases
from reference.huggingface import read_twin


@pytest.fixture(scope="module", params=list(tiny.CONFIGS))
def case(request, tmp_path_factory):
    folder = tiny.write_tiny(tmp_path_factory.mktemp("tiny"), request.param, seed=cases.SEED)
    return request.param, folder, cases.answers(request.param)


def test_the_tiny_folder_has_the_weights_of_the_golden_values(case):
    _, folder, golden = case
    assert tiny.weights_sha256(folder) == str(golden["weights_sha256"])


@pytest.mark.parametrize("rows", [0, *cases.PROMPT_LENGTHS])
def test_twin(case, rows):
    name, folder, golden = case
    twin = read_twin(folder)
    prompt = cases.prompt(name, rows) if rows else None
    batch = cases.examples(name)
    key = f"P{rows}/"
    logits = np.concatenate([twin.logits(i + t, prompt) for i, t in batch])
    np.testing.assert_allclose(
        logits, golden[key + "logits"], rtol=0, atol=1e-6 * np.abs(logits).max()
    )
    loss, grad = twin.loss_and_grad(np.zeros((0, twin.spec["hidden_size"])), batch)
    if rows:
        loss, grad = twin.loss_and_grad(prompt, batch)
        error = np.linalg.norm(grad - golden[key + "grad"]) / np.linalg.norm(grad)
        assert error < 1e-6
    assert abs(loss - golden[key + "loss"]) < 1e-7 * loss
    ends = tiny.eos_token_ids(name)
    for ids, expected in zip(cases.continued(name), golden[key + "greedy"], strict=True):
        new, margin = twin.greedy(ids, cases.NEW_TOKENS, prompt, eos_token_ids=ends)
        assert new == [token for token in expected.tolist() if token >= 0]
        # The engine has to find the same tokens in float32, so no choice may hang on rounding.
        assert margin > 1e-3
