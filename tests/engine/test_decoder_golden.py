"""Every decoder family against golden values of transformers and PEFT in float64.

Tolerance 1e-5 of the largest logit, of the loss and of the gradient's norm, which are stored in
float32: about ten times what transformers' own float32 run differs by.
"""

from __future__ import annotations

import json
from pathlib import Path

import decoders
import numpy as np
import pytest

import softprompt

TOLERANCE = 1e-5
FOLDER = Path(__file__).resolve().parents[1] / "golden" / "decoders"
ROWS, SEED, NEW_TOKENS = 5, 20, 8


@pytest.fixture(scope="module", params=list(decoders.CONFIGS))
def case(request, tmp_path_factory):
    config = decoders.CONFIGS[request.param]
    with np.load(FOLDER / f"{config['model_type']}.npz", allow_pickle=False) as stored:
        start = request.param + "/"
        golden = {k.removeprefix(start): stored[k] for k in stored if k.startswith(start)}
    shapes = json.loads(str(golden["shapes"]))
    folder = tmp_path_factory.mktemp("decoder")
    decoders.write_decoder(folder, config, shapes, seed=SEED)
    assert decoders.weights_sha256(folder) == str(golden["sha256"])
    return config, softprompt.load_model(folder), golden


@pytest.mark.parametrize("rows", [0, ROWS])
def test_logits(case, rows):
    config, model, golden = case
    prompt = decoders.prompt(config, rows) if rows else None
    texts = [i + t for i, t in decoders.examples(config)]
    got = np.stack([logits[-1] for logits in model.logits(texts, prompt)])
    expected = golden[f"P{rows}/logits"]
    assert np.abs(got - expected).max() < TOLERANCE * np.abs(expected).max()


def test_loss_and_gradient(case):
    config, model, golden = case
    prompt, batch = decoders.prompt(config, ROWS), decoders.examples(config)
    loss, grad = model.loss_and_grad(prompt, batch)
    assert abs(loss - golden[f"P{ROWS}/loss"]) < TOLERANCE * loss
    expected = golden[f"P{ROWS}/grad"]
    assert np.linalg.norm(grad - expected) < TOLERANCE * np.linalg.norm(expected)
    inputs, targets = zip(*batch, strict=True)
    mean = -model.log_likelihood(list(inputs), list(targets)).sum() / sum(map(len, targets))
    assert abs(mean - golden["P0/loss"]) < TOLERANCE * mean


def test_greedy_tokens(case):
    config, model, golden = case
    expected = [[t for t in ids if t >= 0] for ids in golden[f"P{ROWS}/greedy"].tolist()]
    inputs = [input_ids for input_ids, _ in decoders.examples(config)]
    prompt = decoders.prompt(config, ROWS)
    got = model.generate(inputs, prompt, max_new_tokens=NEW_TOKENS, return_ids=True)
    assert got == expected


def test_threads_and_packs_change_no_bit(case):
    """One and three threads; and packs of 8 rows against those of all rows, within rounding."""
    config, model, _ = case
    prompt, batch = decoders.prompt(config, ROWS), decoders.examples(config)
    threads, model.num_threads = model.num_threads, 1
    loss, grad = model.loss_and_grad(prompt, batch)
    model.num_threads = 3
    again = model.loss_and_grad(prompt, batch)
    assert again[0] == loss
    np.testing.assert_array_equal(again[1], grad)
    packs, model._workers.pack_rows = model._workers.pack_rows, 8
    small = model.loss_and_grad(prompt, batch)
    model._workers.pack_rows, model.num_threads = packs, threads
    assert abs(small[0] - loss) < TOLERANCE * loss
    assert np.linalg.norm(small[1] - grad) < TOLERANCE * np.linalg.norm(grad)
