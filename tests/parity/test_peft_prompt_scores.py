"""Prompts that change hands: trained by PEFT and read here, trained here and read by PEFT.

Tolerance 1e-5 of the loss, as for a loss with one and the same prompt.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from golden import cases

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

from parity import oracle
from parity.training import train_here, train_with_peft, trainable
from peft import PeftModel

import softprompt

TOLERANCE = 1e-5


@pytest.fixture(params=["llama", "gpt2"])
def case(request, tmp_path):
    folder = tiny.write_tiny(tmp_path / "model", request.param, seed=33)
    return request.param, folder, softprompt.load_model(folder)


def test_a_prompt_that_peft_trained(case, tmp_path):
    name, folder, model = case
    batch = cases.examples(name)
    tuned = oracle.add_prompt(oracle.load(folder), cases.prompt(name, 6))
    before = oracle.ask(tuned, batch).loss
    train_with_peft(tuned, batch, 0.05)
    theirs = oracle.ask(tuned, batch)
    assert theirs.loss < before - 0.01
    tuned.save_pretrained(tmp_path / "adapter")
    prompt = softprompt.SoftPrompt.load(tmp_path / "adapter")
    np.testing.assert_array_equal(prompt.embeddings, oracle.prompt_of(tuned))
    loss, _ = model.loss_and_grad(prompt, batch)
    assert abs(loss - theirs.loss) < TOLERANCE * loss


def test_a_prompt_that_was_trained_here(case, tmp_path):
    name, folder, model = case
    batch = cases.examples(name)
    array = train_here(model, cases.prompt(name, 6), batch, 0.05)
    ours, _ = model.loss_and_grad(array, batch)
    assert ours < model.loss_and_grad(cases.prompt(name, 6), batch)[0] - 0.01
    softprompt.SoftPrompt(array).save(tmp_path / "adapter")
    tuned = PeftModel.from_pretrained(oracle.load(folder), tmp_path / "adapter")
    np.testing.assert_array_equal(oracle.prompt_of(tuned), array)
    assert abs(oracle.ask(trainable(tuned), batch).loss - ours) < TOLERANCE * ours


def test_both_train_alike(case):
    """AdamW from the same start on the same batch: the same prompt, to float32 over a few steps."""
    name, folder, model = case
    batch = cases.examples(name)
    start = cases.prompt(name, 6)
    tuned = oracle.add_prompt(oracle.load(folder), start)
    train_with_peft(tuned, batch, 0.01)
    ours = train_here(model, start, batch, 0.01)
    moved = np.linalg.norm(ours - start)
    # AdamW's first steps are signs of gradients: an entry near zero may differ, so 1e-3.
    assert np.linalg.norm(ours - oracle.prompt_of(tuned)) < 1e-3 * moved
