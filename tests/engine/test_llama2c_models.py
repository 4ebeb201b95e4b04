"""Real trained weights, converted by `tests/loading/llama2c.py`, against an independent NumPy pass.

The reference's logits are printed with four decimals: half a unit there and float32 rounding of
logits around 10 give 2e-4. The smallest lead of a greedy token is 0.026.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from loading.llama2c import convert

import softprompt


@pytest.fixture(scope="module", params=["stories260k", "aidreams260k"])
def case(request, shared_dir, tmp_path_factory):
    source = shared_dir / "models" / request.param
    folder = tmp_path_factory.mktemp(request.param)
    convert(next(source.glob("*260K.bin")), folder)
    reference = json.loads((source / "reference.json").read_text(encoding="utf-8"))
    return softprompt.load_model(folder), reference


def test_logits_of_the_last_row(case):
    model, reference = case
    (logits,) = model.logits([reference["prompt_ids"]])
    np.testing.assert_allclose(logits[-1], reference["last_prompt_logits"], rtol=0, atol=2e-4)


def test_greedy_tokens(case):
    model, reference = case
    expected = reference["greedy_ids"]
    (got,) = model.generate(
        [reference["prompt_ids"]], max_new_tokens=len(expected), return_ids=True
    )
    assert got == expected


def test_likelihood_of_a_sentence(case):
    model, reference = case
    ids = reference["nll_ids"]
    mean = -model.log_likelihood([ids[:1]], [ids[1:]])[0] / (len(ids) - 1)
    # Printed with five decimals.
    assert abs(mean - reference["nll_mean"]) < 2e-5


def test_the_text_as_a_prompt_gives_the_same(case):
    model, reference = case
    ids = reference["prompt_ids"]
    (logits,) = model.logits([ids[-2:]], model.embeddings[np.array(ids[:-2])])
    np.testing.assert_allclose(logits[-1], reference["last_prompt_logits"], rtol=0, atol=2e-4)
