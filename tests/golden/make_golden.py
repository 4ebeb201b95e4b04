"""Make the golden files: ``python tests/golden/make_golden.py``, with torch, transformers 5 and
peft 0.21.

Each tiny folder is run by transformers and PEFT in float64 (with the two places patched where
transformers rounds to float32 on the way, see `parity.oracle.load`): logits (kept in float32), loss
and gradient of the prompt of a padded batch, and greedy tokens. The differences of transformers'
own float32 run are printed, to be judged by who makes them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))

import tiny  # noqa: E402
from golden import cases  # noqa: E402
from parity import oracle  # noqa: E402


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def make(name: str, folder: Path) -> dict[str, np.ndarray]:
    """All golden values of one tiny model."""
    values: dict[str, np.ndarray] = {"weights_sha256": np.array(tiny.weights_sha256(folder))}
    batch = cases.examples(name)
    for rows in (0, *cases.PROMPT_LENGTHS):
        answers, greedy = [], []
        for exact in (True, False):
            model = oracle.load(folder, exact=exact)
            if rows:
                model = oracle.add_prompt(model, cases.prompt(name, rows))
            answers.append(oracle.ask(model, batch))
            greedy.append(
                [oracle.greedy(model, ids, cases.NEW_TOKENS) for ids in cases.continued(name)]
            )
        if greedy[0] != greedy[1]:
            raise SystemExit(
                f"{name}, P={rows}: greedy tokens depend on rounding, take another seed"
            )
        exact, single = answers
        key = f"P{rows}/"
        values[key + "logits"] = np.concatenate(exact.logits).astype(np.float32)
        values[key + "loss"] = np.array(exact.loss)
        values[key + "greedy"] = np.array(
            [ids + [-1] * (cases.NEW_TOKENS - len(ids)) for ids in greedy[0]], dtype=np.int16
        )
        error = relative(np.concatenate(single.logits), np.concatenate(exact.logits))
        print(f"{name}, P={rows}: loss {exact.loss:.6f}, float32 logits off by {error:.1e}")
        print("  greedy", greedy[0])
        if rows:
            values[key + "grad"] = exact.grad
            print(f"  float32 gradient off by {relative(single.grad, exact.grad):.1e}")
    return values


def main() -> None:
    for name in tiny.CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            values = make(name, tiny.write_tiny(Path(folder), name, seed=cases.SEED))
        path = Path(__file__).parent / f"{name}.npz"
        np.savez_compressed(path, **values)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
