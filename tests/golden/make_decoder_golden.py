"""Make the decoder families' golden files: ``python tests/golden/make_decoder_golden.py``, with
torch, transformers 5 and peft 0.21.

One file for each ``model_type``, with all its configurations of `decoders`: names and shapes of the
tensors, the hash of the weights, and by transformers and PEFT in float64 (see
`parity.families_oracle`) the last rows' logits of all texts, the loss and the gradient of a prompt,
and greedy tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))

import decoders  # noqa: E402
from parity import families_oracle, oracle  # noqa: E402

ROWS, SEED, NEW_TOKENS = 5, 20, 8


def make(name: str, folder: Path) -> dict[str, np.ndarray]:
    """All golden values of one configuration."""
    config = decoders.CONFIGS[name]
    families_oracle.write(folder, config, seed=SEED)
    batch, prompt = decoders.examples(config), decoders.prompt(config, ROWS)
    plain = families_oracle.ask(folder, batch, None, exact=True)
    tuned = families_oracle.ask(folder, batch, prompt, exact=True)
    model = oracle.add_prompt(families_oracle.load(folder, exact=False), prompt)
    greedy = [families_oracle.greedy(model, ids, NEW_TOKENS) for ids, _ in batch]
    shapes = families_oracle.tensor_shapes(folder)
    return {
        "shapes": np.array(json.dumps({key: list(shape) for key, shape in shapes.items()})),
        "sha256": np.array(decoders.weights_sha256(folder)),
        "P0/logits": np.stack([rows[-1] for rows in plain.logits]).astype(np.float32),
        "P0/loss": np.array(plain.loss),
        f"P{ROWS}/logits": np.stack([rows[-1] for rows in tuned.logits]).astype(np.float32),
        f"P{ROWS}/loss": np.array(tuned.loss),
        f"P{ROWS}/grad": tuned.grad.astype(np.float32),
        f"P{ROWS}/greedy": np.array(
            [ids + [-1] * (NEW_TOKENS - len(ids)) for ids in greedy], dtype=np.int16
        ),
    }


def main() -> None:
    target = Path(__file__).parent / "decoders"
    target.mkdir(exist_ok=True)
    for model_type in sorted({config["model_type"] for config in decoders.CONFIGS.values()}):
        values: dict[str, np.ndarray] = {}
        for name, config in decoders.CONFIGS.items():
            if config["model_type"] == model_type:
                with tempfile.TemporaryDirectory() as folder:
                    made = make(name, Path(folder))
                values |= {f"{name}/{key}": value for key, value in made.items()}
        path = target / f"{model_type}.npz"
        np.savez_compressed(path, **values)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
