"""Prompts of models with an encoder go from softprompt to PEFT and back with equal answers.

Logits are those of two float32 programs: 1e-4 of their norm.
"""

from __future__ import annotations

import numpy as np
import pairs
import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

from parity import pairs_oracle
from parity.test_families_parity import relative
from peft import PeftModel

import softprompt
from softprompt import SoftPrompt
from softprompt.prompt.mismatch import model_facts

NAMES = ["t5", "bart", "m2m_100"]


@pytest.fixture(params=NAMES)
def case(request, tmp_path):
    config = pairs.CONFIGS[request.param]
    folder = pairs_oracle.write(tmp_path / "model", config, seed=9)
    return folder, softprompt.load_model(folder), pairs.prompt(config, 4), pairs.examples(config)


def logits(tuned, config, batch):
    return [
        pairs_oracle.run(tuned, ids, [config.decoder_start_token_id, *target[:-1]]).detach().numpy()
        for ids, target in batch
    ]


@pytest.fixture(autouse=True)
def make_folder(tmp_path):
    (tmp_path / "model").mkdir()


def test_peft_reads_ours(case, tmp_path):
    folder, model, rows, batch = case
    prompt = SoftPrompt(rows, base_model=model_facts(model))
    prompt.save(tmp_path / "ours")
    base = pairs_oracle.load(folder, exact=False)
    tuned = PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    assert tuned.peft_config["default"].num_transformer_submodules == 1
    assert tuned.prompt_encoder["default"].embedding.weight.shape == rows.shape
    for ours, theirs in zip(
        model.logits(batch, prompt), logits(tuned, base.config, batch), strict=True
    ):
        assert relative(ours, theirs) < 1e-4


def test_we_read_peft_s(case, tmp_path):
    folder, model, rows, batch = case
    base = pairs_oracle.load(folder, exact=False)
    tuned = pairs_oracle.add_prompt(base, rows)
    tuned.save_pretrained(tmp_path / "theirs")
    prompt = SoftPrompt.load(tmp_path / "theirs")
    np.testing.assert_array_equal(prompt.embeddings, rows)
    assert prompt.base_model["task_type"] == "SEQ_2_SEQ_LM"
    for ours, theirs in zip(
        model.logits(batch, prompt), logits(tuned, base.config, batch), strict=True
    ):
        assert relative(ours, theirs) < 1e-4
