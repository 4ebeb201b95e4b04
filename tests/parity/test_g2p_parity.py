"""Two real models with an encoder (BART, words to phonemes) beside transformers and PEFT.

Reference and tolerance as in `test_families_parity.py`; greedy texts are equal.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import torch
from parity import pairs_oracle
from parity.test_families_parity import bound, relative

import softprompt

ROWS, WORDS = 9, 12


@pytest.fixture(scope="module", params=["bart-g2p-us", "bart-g2p-gb"])
def case(request, shared_dir):
    folder = shared_dir / "models" / request.param
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    lines = (shared_dir / "data" / "g2p_en" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:WORDS]]
    side = request.param[-2:]

    def ids(text: str, alphabet: str) -> list[int]:
        return [max(alphabet.find(c), 3) for c in text]

    batch = [
        (
            [1, *ids(row["word"], config["grapheme_chars"]), 2],
            [1, *ids(row[side], config["phoneme_chars"]), 2],
        )
        for row in rows
    ]
    random = np.random.RandomState(7)
    model = softprompt.load_model(folder)
    rms = float(np.sqrt(np.square(np.asarray(model.embeddings)).mean()))
    prompt = (rms * random.standard_normal((ROWS, 128))).astype(np.float32)
    return folder, model, batch, prompt


@pytest.mark.parametrize("with_prompt", [False, True])
def test_logits_loss_and_gradient(case, with_prompt):
    folder, model, batch, prompt = case
    given = prompt if with_prompt else None
    exact, single = (pairs_oracle.ask(folder, batch, given, exact=exact) for exact in (True, False))
    for ours, theirs, rough in zip(
        model.logits(batch, given), exact.logits, single.logits, strict=True
    ):
        assert relative(ours, theirs) < bound(relative(rough, theirs))
    allowed = bound(abs(single.loss - exact.loss) / exact.loss) * exact.loss
    assert abs(model.loss(given, batch) - exact.loss) < allowed
    if with_prompt:
        loss, grad = model.loss_and_grad(prompt, batch)
        assert abs(loss - exact.loss) < allowed
        assert relative(grad, exact.grad) < bound(relative(single.grad, exact.grad))


def generated(model, input_ids: list[int]) -> list[int]:
    """New tokens of transformers' own generation, without start and end."""
    ids = torch.tensor([input_ids])
    options = {"max_new_tokens": 50, "do_sample": False, "num_beams": 1}
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    new = out[0].tolist()[1:]
    return new[: new.index(2)] if 2 in new else new


def test_greedy_texts(case):
    folder, model, batch, prompt = case
    inputs = [ids for ids, _ in batch]
    theirs = pairs_oracle.load(folder, exact=False)
    got = model.generate(inputs, max_new_tokens=50, return_ids=True)
    assert got == [generated(theirs, ids) for ids in inputs]
    tuned = pairs_oracle.add_prompt(theirs, prompt)
    got = model.generate(inputs, prompt, max_new_tokens=50, return_ids=True)
    assert got == [generated(tuned, ids) for ids in inputs]
