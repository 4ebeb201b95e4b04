"""Make the golden files of the families with an encoder: ``python
tests/golden/make_pair_golden.py``, with torch, transformers 5 and peft 0.21.

One file for each ``model_type``, with all its configurations of `pairs`: names and shapes of the
tensors, the hash of the weights, and by transformers and PEFT in float64 (see
`parity.pairs_oracle`) the last rows' logits of all targets, the loss and the gradient of a prompt,
and greedy tokens; and how far transformers' own float32 run is from that.
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
import pairs  # noqa: E402
from parity import pairs_oracle  # noqa: E402

ROWS, SEED, NEW_TOKENS = 5, 20, 8


def off(got: np.ndarray, exact: np.ndarray) -> float:
    """Norm of the difference over the norm of what is exact."""
    return float(np.linalg.norm(np.subtract(got, exact)) / np.linalg.norm(exact))


def make(name: str, folder: Path) -> dict[str, np.ndarray]:
    """All golden values of one configuration."""
    config = pairs.CONFIGS[name]
    pairs_oracle.write(folder, config, seed=SEED)
    batch, prompt = pairs.examples(config), pairs.prompt(config, ROWS)
    plain = pairs_oracle.ask(folder, batch, None, exact=True)
    tuned = pairs_oracle.ask(folder, batch, prompt, exact=True)
    errors = [
        [
            max(off(a[-1], b[-1]) for a, b in zip(rough.logits, exact.logits, strict=True)),
            off(rough.loss, exact.loss),
            0.0 if exact.grad is None else off(rough.grad, exact.grad),
        ]
        for given, exact in ((None, plain), (prompt, tuned))
        for rough in [pairs_oracle.ask(folder, batch, given, exact=False)]
    ]
    model = pairs_oracle.add_prompt(pairs_oracle.load(folder, exact=False), prompt)
    greedy = [
        pairs_oracle.greedy(model, ids, config.get("decoder_start_token_id", 0), NEW_TOKENS)
        for ids, _ in batch
    ]
    shapes = pairs_oracle.tensor_shapes(folder, config)
    return {
        "shapes": np.array(json.dumps({key: list(shape) for key, shape in shapes.items()})),
        "sha256": np.array(decoders.weights_sha256(folder)),
        "P0/logits": np.stack([rows[-1] for rows in plain.logits]).astype(np.float32),
        "P0/loss": np.array(plain.loss),
        f"P{ROWS}/logits": np.stack([rows[-1] for rows in tuned.logits]).astype(np.float32),
        f"P{ROWS}/loss": np.array(tuned.loss),
        f"P{ROWS}/grad": tuned.grad.astype(np.float32),
        "P0/float32": np.array(errors[0]),
        f"P{ROWS}/float32": np.array(errors[1]),
        f"P{ROWS}/greedy": np.array(
            [ids + [-1] * (NEW_TOKENS - len(ids)) for ids in greedy], dtype=np.int16
        ),
    }


def main() -> None:
    target = Path(__file__).parent / "pairs"
    target.mkdir(exist_ok=True)
    for model_type in sorted({config["model_type"] for config in pairs.CONFIGS.values()}):
        values: dict[str, np.ndarray] = {}
        for name, config in pairs.CONFIGS.items():
            if config["model_type"] == model_type:
                with tempfile.TemporaryDirectory() as folder:
                    made = make(name, Path(folder))
                values |= {f"{name}/{key}": value for key, value in made.items()}
        path = target / f"{model_type}.npz"
        np.savez_compressed(path, **values)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
