"""A task that takes microseconds, and a run on it."""

from __future__ import annotations

import numpy as np

from softprompt.optim import AdamW, linear
from softprompt.tuner.loop import Run
from softprompt.tuner.objectives import Evaluation, digest_of


class Quadratic:
    """Mean squared distance of the prompt's mean row to the targets of some rows."""

    def __init__(self, targets: np.ndarray) -> None:
        self.num_rows = len(targets)
        self.targets = targets
        self.calls = 0
        self.seen: list[int] = []
        self.before = lambda: None

    def loss_and_grad(self, prompt, rows):
        self.calls += 1
        self.before()
        self.seen += rows.tolist()
        error = prompt.mean(axis=0) - self.targets[rows]
        grad = 2 * error.mean(axis=0) / len(prompt)
        return float((error**2).sum(axis=1).mean()), np.tile(grad, (len(prompt), 1)).astype("f4")

    def evaluate(self, prompt):
        self.before()
        loss = float(((prompt.mean(axis=0) - self.targets) ** 2).sum(axis=1).mean())
        return Evaluation(score=-round(loss, 1), loss=loss)

    def digest(self):
        return digest_of(self.targets)


TARGETS = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
START = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def run(objective=None, *, optimizer=None, **options) -> Run:
    settings = {
        "max_steps": 30,
        "batch_size": 4,
        "seed": 7,
        "validation": Quadratic(TARGETS[:5] + 1),
        "eval_every": 4,
        "max_grad_norm": 0.5,
        "checkpoint_every": 3,
        "progress": False,
    }
    optimizer = optimizer or AdamW(linear(0.1, 30, warmup_steps=2))
    return Run(objective or Quadratic(TARGETS), START, optimizer, **{**settings, **options})
