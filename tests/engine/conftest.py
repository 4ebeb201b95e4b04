"""Models and batches large enough that the engine cuts its work into several pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tiny
from engine.build import CharTokenizer

import softprompt

SIZES = {
    "llama": {
        "vocab_size": 600,
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 256,
        "max_position_embeddings": 512,
    },
    "gpt2": {"vocab_size": 600, "n_embd": 96, "n_head": 6, "n_layer": 4, "n_positions": 512},
}


@dataclass(frozen=True)
class Case:
    """A model in its folder, and data for it."""

    name: str
    folder: object
    model: object
    prompt: np.ndarray
    examples: list
    choices: list

    @property
    def inputs(self) -> list:
        return [example[0] for example in self.examples]

    @property
    def targets(self) -> list:
        """A choice of every input."""
        return [len(ids) % len(self.choices) for ids in self.inputs]


@pytest.fixture(scope="session", params=list(SIZES))
def case(request, tmp_path_factory) -> Case:
    """A model of some hundred thousand weights, 40 examples of uneven length, a prompt, choices."""
    name = request.param
    folder = tiny.write_tiny(tmp_path_factory.mktemp("medium"), name, changes=SIZES[name])
    rng = np.random.default_rng(11)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(3, 600, size=rng.integers(low, high)).tolist()

    start = ids(12, 13)
    batch = [(start * int(rng.integers(2)) + ids(3, 30), ids(1, 4)) for _ in range(40)]
    common = ids(2, 3)
    return Case(
        name=name,
        folder=folder,
        model=softprompt.load_model(folder, tokenizer=CharTokenizer(600)),
        prompt=rng.standard_normal((17, 96)).astype(np.float32),
        examples=batch,
        choices=[common + ids(1, 3), ids(1, 2), common + ids(2, 4)],
    )
