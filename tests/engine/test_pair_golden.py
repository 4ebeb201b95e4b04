"""Every family with an encoder against golden values of transformers and PEFT in float64.

Tolerance: 1e-5 of the norm, or four times what transformers' own float32 run of the same model
differs by, where that is more (T5 does not scale its scores: rounding grows in its softmaxes).
"""

from __future__ import annotations

import json
from pathlib import Path

import decoders
import numpy as np
import pairs
import pytest

import softprompt

TOLERANCE = 1e-5
LOGITS, LOSS, GRAD = range(3)
FOLDER = Path(__file__).resolve().parents[1] / "golden" / "pairs"
ROWS, SEED, NEW_TOKENS = 5, 20, 8


@pytest.fixture(scope="module", params=list(pairs.CONFIGS))
def case(request, tmp_path_factory):
    config = pairs.CONFIGS[request.param]
    with np.load(FOLDER / f"{config['model_type']}.npz", allow_pickle=False) as stored:
        start = request.param + "/"
        golden = {k.removeprefix(start): stored[k] for k in stored if k.startswith(start)}
    shapes = json.loads(str(golden["shapes"]))
    folder = tmp_path_factory.mktemp("pair")
    decoders.write_decoder(folder, config, shapes, seed=SEED)
    assert decoders.weights_sha256(folder) == str(golden["sha256"])
    return config, softprompt.load_model(folder), golden


def off(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def bound(golden: dict, which: int, rows: int = ROWS) -> float:
    return max(TOLERANCE, 4.0 * float(golden[f"P{rows}/float32"][which]))


@pytest.mark.parametrize("rows", [0, ROWS])
def test_logits(case, rows):
    config, model, golden = case
    prompt = pairs.prompt(config, rows) if rows else None
    got = np.stack([logits[-1] for logits in model.logits(pairs.examples(config), prompt)])
    for ours, expected in zip(got, golden[f"P{rows}/logits"], strict=True):
        assert off(ours, expected) < bound(golden, LOGITS, rows)


def test_loss_and_gradient(case):
    config, model, golden = case
    prompt, batch = pairs.prompt(config, ROWS), pairs.examples(config)
    loss, grad = model.loss_and_grad(prompt, batch)
    assert off(loss, golden[f"P{ROWS}/loss"]) < bound(golden, LOSS)
    assert off(grad, golden[f"P{ROWS}/grad"]) < bound(golden, GRAD)
    assert off(model.loss(None, batch), golden["P0/loss"]) < bound(golden, LOSS, 0)


def test_greedy_tokens(case):
    config, model, golden = case
    if "decoder_start_token_id" not in config:
        with pytest.raises(ValueError, match="no decoder_start_token_id"):
            model.generate([[3, 4]], return_ids=True)
        return
    expected = [[t for t in ids if t >= 0] for ids in golden[f"P{ROWS}/greedy"].tolist()]
    inputs = [input_ids for input_ids, _ in pairs.examples(config)]
    prompt = pairs.prompt(config, ROWS)
    got = model.generate(inputs, prompt, max_new_tokens=NEW_TOKENS, return_ids=True)
    assert got == expected


def test_threads_and_packs(case):
    """One and three threads: the same bits. Packs of 8 rows against those of all rows: rounding."""
    config, model, golden = case
    prompt, batch = pairs.prompt(config, ROWS), pairs.examples(config)
    threads, model.num_threads = model.num_threads, 1
    loss, grad = model.loss_and_grad(prompt, batch)
    model.num_threads = 3
    again = model.loss_and_grad(prompt, batch)
    assert again[0] == loss
    np.testing.assert_array_equal(again[1], grad)
    packs, model._workers.pack_rows = model._workers.pack_rows, 8
    small = model.loss_and_grad(prompt, batch)
    model._workers.pack_rows, model.num_threads = packs, threads
    assert off(small[0], loss) < bound(golden, LOSS)
    assert off(small[1], grad) < bound(golden, GRAD)
