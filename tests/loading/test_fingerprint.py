"""What a fingerprint depends on, and what not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny

import softprompt
from softprompt.model.fingerprint import fingerprint


@pytest.fixture
def model(tmp_path):
    return softprompt.load_model(tiny.write_tiny(tmp_path, "llama"))


def changed(model, slot, index):
    array = model.weights[slot].copy()
    array[index] = np.nextafter(array[index], np.float32(10))
    return fingerprint(model.spec, {**model.weights, slot: array})


def test_is_a_sha256(model):
    assert len(model.fingerprint) == 64
    assert set(model.fingerprint) <= set("0123456789abcdef")
    assert fingerprint(model.spec, dict(reversed(model.weights.items()))) == model.fingerprint


@pytest.mark.parametrize("slot", ["embedding.weight", "layers.2.down.weight", "final_norm.weight"])
@pytest.mark.parametrize("row", [0, -1])
def test_a_unit_in_the_last_place_changes_it(model, slot, row):
    index = (row, 0) if model.weights[slot].ndim == 2 else (row,)
    assert changed(model, slot, index) != model.fingerprint


def test_small_weights_are_hashed_whole(model):
    assert all(changed(model, "layers.1.up.weight", (i, 1)) != model.fingerprint for i in range(40))


def test_switches_change_it_and_limits_do_not(model):
    for change in ({"norm_eps": 1e-6}, {"activation": "relu"}, {"attention_scale": 1.0}):
        assert fingerprint(replace(model.spec, **change), model.weights) != model.fingerprint
    for change in ({"max_positions": 7}, {"norm_eps": float(np.float32(1e-5))}):
        assert fingerprint(replace(model.spec, **change), model.weights) == model.fingerprint


def test_known_value(model):
    """Saved prompts hold it: it must not change between versions."""
    assert model.fingerprint == "f658c2e08723a4d5612deffc7e55c1c8a3f3f503988187e2ecfcf9b968c71b41"
