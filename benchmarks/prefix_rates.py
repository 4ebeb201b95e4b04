"""How fast a prefix may be trained: the measurement behind its default learning rate.

Trains a prompt and prefixes of 20 virtual tokens on SST-2 for a few steps of 16 rows, the same rows
in every arm: AdamW, falling linearly, gradients clipped at 1, from the class labels. An arm is
``prompt:0.075`` (a share of the embeddings' RMS), ``prefix:0.01`` (a share of the RMS of all keys
and values of the start) or ``relative:0.02`` (every layer's keys and values move by this share of
their own RMS). What counts is the loss on 200 rows cut from the training split. Every run is one
JSON line.

    OMP_NUM_THREADS=1 python benchmarks/prefix_rates.py prompt:0.075 prefix:0.01 relative:0.02
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, versions
from defaults import MODEL, TASKS, split_rows

import softprompt
from softprompt.optim import AdamW, clip_by_norm, linear
from softprompt.tuner.optimizers import embedding_rms
from softprompt.tuner.starts import make_start

RESULTS = Path(__file__).parent / "results" / "prefix_rates.jsonl"
NUM_VIRTUAL_TOKENS, BATCH_SIZE, TRAINING_ROWS, SEED = 20, 16, 3000, 0


class Study:
    """The model, the rows, and the start of every arm."""

    def __init__(self, num_threads: int) -> None:
        self.model = softprompt.load_model(MODEL, num_threads=num_threads)
        _, template, labels = TASKS["sst2"]
        parts = split_rows("sst2", SEED, 300)
        encode = self.model.tokenizer.encode

        def encoded(part: str) -> tuple[list, np.ndarray]:
            rows, classes = parts[part]
            chosen = slice(0, TRAINING_ROWS)
            texts = [encode(template.format(**row)) for row in rows[chosen]]
            return texts, np.array(classes[chosen])

        self.rows, self.classes = encoded("training")
        self.selection, self.selected_classes = encoded("selection")
        self.answers = [encode(text, add_special_tokens=False) for text in labels.values()]
        self.prompt = make_start(
            "labels",
            num_virtual_tokens=NUM_VIRTUAL_TOKENS,
            model=self.model,
            labels=self.answers,
            rng=np.random.default_rng(SEED),
        )
        self.prefix = self.model.prefix(self.prompt).flattened()

    def units(self) -> np.ndarray:
        """The RMS of its layer's keys, or values, for every column of a prefix's matrix."""
        config = self.model.config
        parts = self.prefix.reshape(NUM_VIRTUAL_TOKENS, config.num_layers, 2, -1)
        rms = np.sqrt(np.square(parts).mean(axis=(0, 3)))
        return np.repeat(rms.reshape(-1), parts.shape[3]).astype(np.float32)

    def placed(self, kind: str, matrix: np.ndarray) -> Any:
        if kind == "prompt":
            return softprompt.SoftPrompt(matrix)
        config = self.model.config
        return softprompt.Prefix.from_flattened(
            matrix, num_layers=config.num_layers, num_kv_heads=config.num_kv_heads
        )

    def run(self, arm: str, steps: int) -> dict[str, Any]:
        """Train one arm."""
        kind, share = arm.split(":")
        start = self.prompt if kind == "prompt" else self.prefix
        units = self.units() if kind == "relative" else np.float32(1)
        size = {
            "prompt": lambda: embedding_rms(self.model.embeddings),
            "prefix": lambda: float(np.sqrt(np.square(start, dtype=np.float64).mean())),
            "relative": lambda: 1.0,
        }[kind]()
        begin = time.process_time()
        matrix, losses = (start / units).astype(np.float32), []
        optimizer = AdamW(linear(float(share) * size, steps))
        order = np.random.default_rng(7).permutation(len(self.rows))
        for step in range(steps):
            batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            examples = [(self.rows[i], self.answers[self.classes[i]]) for i in batch]
            loss, grad = self.model.loss_and_grad(self.placed(kind, matrix * units), examples)
            grad, _ = clip_by_norm((grad * units).astype(np.float32), 1.0)
            matrix = optimizer.step(matrix.copy(), grad)
            losses.append(loss)
        ranked = self.model.rank(self.selection, self.answers, self.placed(kind, matrix * units))
        right = ranked[np.arange(len(ranked)), self.selected_classes]
        return {
            "arm": arm,
            "steps": steps,
            "learning_rate": round(float(share) * size, 5),
            "training_loss_first_5": round(float(np.mean(losses[:5])), 4),
            "training_loss_last_10": round(float(np.mean(losses[-10:])), 4),
            "selection_loss": round(float(-right.mean()), 4),
            "selection_accuracy": float((ranked.argmax(axis=1) == self.selected_classes).mean()),
            "cpu_seconds": round(time.process_time() - begin, 1),
            "machine": machine(),
            "versions": versions("numpy"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    study = Study(options.threads)
    for arm in options.arms:
        line = json.dumps(study.run(arm, options.steps))
        print(line, flush=True)
        with options.results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
