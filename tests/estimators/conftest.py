"""A task that the fake model can learn, and estimators with settings for it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for workers of joblib, which import fake_model

from fake_model import FakeModel

from softprompt.estimators import SoftPromptClassifier, SoftPromptGenerator


@pytest.fixture
def model() -> FakeModel:
    return FakeModel(hidden_size=32)


@pytest.fixture
def task() -> tuple[list[str], list[str]]:
    """80 words and whether most of their letters are from the first half of an alphabet."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcxyz"), size=5)) for _ in range(80)]
    return words, ["low" if sum(c in "abc" for c in word) > 2 else "high" for word in words]


@pytest.fixture
def make(model):
    """A classifier with settings that learn the task in a second."""

    def make(**parameters) -> SoftPromptClassifier:
        settings = {
            "template": "{word}:",
            "labels": {"low": "-", "high": "+"},
            "num_virtual_tokens": 3,
            "learning_rate": 0.3,
            "max_steps": 40,
            "eval_every": 10,
            "random_state": 0,
            "progress": False,
        }
        return SoftPromptClassifier(**{"model": model, **settings, **parameters})

    return make


@pytest.fixture
def make_generator(model):
    def make(**parameters) -> SoftPromptGenerator:
        settings = {
            "template": "{word}:",
            "num_virtual_tokens": 3,
            "learning_rate": 0.3,
            "max_steps": 20,
            "eval_every": 10,
            "max_new_tokens": 4,
            "random_state": 0,
            "progress": False,
        }
        return SoftPromptGenerator(**{"model": model, **settings, **parameters})

    return make
