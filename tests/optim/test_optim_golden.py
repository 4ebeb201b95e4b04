"""AdamW and Adafactor against the values of torch and optax (tests/golden/optim)."""

import json
from pathlib import Path

import numpy as np
import pytest

from softprompt.optim import Adafactor, AdamW

FOLDER = Path(__file__).parents[1] / "golden" / "optim"


def cases(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


# Both sides work in float32 with another order of roundings: a few of its units (1.2e-7) a step,
# relative to the largest entry, over 4 steps.
TOLERANCE = 2e-6


@pytest.mark.parametrize(
    ("make", "case"),
    [(AdamW, case) for case in cases("adamw")] + [(Adafactor, case) for case in cases("adafactor")],
)
def test_golden_values(make, case):
    arguments = dict(case["arguments"])
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    optimizer = make(**arguments)
    prompt = np.array(case["start"], np.float32)
    for grad, expected in zip(case["gradients"], case["prompts"], strict=True):
        optimizer.step(prompt, np.array(grad, np.float32))
        expected = np.array(expected)
        error = np.abs(prompt - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE
