"""What the golden values are about: models, batches and prompts, fixed once and for all.

Numbers are drawn as in `tests/tiny.py`, so that they are the same everywhere; the golden files hold
answers only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny

SEED = 20
PROMPT_LENGTHS = (1, 5)
NEW_TOKENS = 16


def examples(name: str) -> list[tuple[list[int], list[int]]]:
    """A batch of uneven length: common beginnings, one input of one token, targets of one to four
    tokens."""
    vocab = tiny.CONFIGS[name]["vocab_size"]
    random = np.random.RandomState(SEED + 1)

    def ids(count: int) -> list[int]:
        return (random.random_sample(count) * vocab).astype(int).tolist()

    start = ids(4)
    return [
        (start + ids(5), ids(1)),
        (start + ids(2), ids(3)),
        (ids(1), ids(2)),
        (start, ids(1)),
        ([vocab - 1, 0, *ids(11)], ids(4)),
    ]


def prompt(name: str, rows: int) -> np.ndarray:
    """A prompt `[rows, d]` float32 at the scale of the embeddings."""
    config = tiny.CONFIGS[name]
    width = config.get("hidden_size") or config["n_embd"]
    random = np.random.RandomState(SEED + 2 + rows)
    return (2.8 * random.random_sample((rows, width)) - 1.4).astype(np.float32)


def continued(name: str) -> list[list[int]]:
    """Inputs that are continued greedily."""
    return [input_ids for input_ids, _ in examples(name)]


def answers(name: str) -> dict[str, np.ndarray]:
    """The golden file of a model: `weights_sha256`, and under ``P{rows}/``: `logits` (all
    sequences' rows, one below the other, the prompt's rows among them), `loss`, `grad` and `greedy`
    (filled up with -1)."""
    with np.load(Path(__file__).parent / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)
