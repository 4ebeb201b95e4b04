"""Presets: the paper's recipe, and what its optimiser becomes."""

import json

import numpy as np
import pytest

from softprompt.optim import Adafactor, make_optimizer
from softprompt.tuner.presets import PRESETS, preset


def test_lester2021_is_the_papers_recipe():
    recipe = preset("lester2021")
    assert recipe["num_virtual_tokens"] == 100
    assert (recipe["batch_size"], recipe["max_steps"], recipe["eval_every"]) == (32, 30_000, 1_000)
    assert (recipe["init"], recipe["objective"]) == ("labels", "tokens")

    optimizer = make_optimizer(
        recipe["optimizer"],
        recipe["learning_rate"],
        schedule=recipe["schedule"],
        warmup_steps=recipe["warmup_steps"],
        **recipe["optimizer_options"],
    )
    assert isinstance(optimizer, Adafactor)
    assert optimizer.current_learning_rate() == 0.3
    rng = np.random.default_rng(0)
    prompt = np.zeros((100, 64), np.float32)
    optimizer.step(prompt, rng.normal(size=prompt.shape).astype(np.float32))
    # As T5X runs it each step moves by an RMS of 0.3; rounding of a mean over 6,400 entries.
    assert np.sqrt(np.mean(prompt.astype(np.float64) ** 2)) == pytest.approx(0.3, rel=1e-5)


def test_a_preset_is_a_copy_of_plain_values():
    for name, recipe in PRESETS.items():
        assert json.loads(json.dumps(recipe)) == recipe
        preset(name)["optimizer_options"]["decay_rate"] = 0
        assert preset(name) == recipe


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"'lester2020'.*'lester2021'"):
        preset("lester2020")
