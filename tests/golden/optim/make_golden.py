"""Makes adamw.json with torch and adafactor.json with optax.

    python tests/golden/optim/make_golden.py adamw        # needs torch
    python tests/golden/optim/make_golden.py adafactor    # needs optax (jax)

optax's Adafactor is the public, maintained twin of T5X's: the same decay, factoring, clipping and
weight decay after the learning rate; its `decay_offset` of -n is our `initial_step` of n.
Files: a list of cases {"arguments", "start", "gradients", "prompts"}; `prompts[i]` is the prompt
after step i. All numbers are float32 except the arguments.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def inputs(seed: int, shape: tuple[int, int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a start [P, d] and gradients [steps, P, d]; one row's gradient is always 0."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=shape)
    gradients = rng.normal(size=(steps, *shape)) * 10.0 ** rng.uniform(-4, 1, (steps, shape[0], 1))
    gradients[:, 1] = 0
    return start.astype(np.float32), gradients.astype(np.float32)


def adamw(arguments: dict, start: np.ndarray, gradients: np.ndarray) -> list[np.ndarray]:
    import torch

    prompt = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.AdamW(
        [prompt],
        arguments["learning_rate"],
        **{name: value for name, value in arguments.items() if name != "learning_rate"},
    )
    prompts = []
    for gradient in gradients:
        prompt.grad = torch.tensor(gradient)
        optimizer.step()
        prompts.append(prompt.detach().numpy().copy())
    return prompts


def adafactor(arguments: dict, start: np.ndarray, gradients: np.ndarray) -> list[np.ndarray]:
    import jax.numpy as jnp
    import optax

    optimizer = optax.adafactor(
        arguments["learning_rate"],
        min_dim_size_to_factor=arguments.get("min_dim_size_to_factor", 128),
        decay_rate=arguments.get("decay_rate", 0.8),
        decay_offset=-arguments.get("initial_step", 0),
        multiply_by_parameter_scale=arguments.get("multiply_by_parameter_scale", False),
        clipping_threshold=arguments.get("clipping_threshold", 1.0),
        weight_decay_rate=arguments.get("weight_decay", 1e-5),
        eps=1e-30,
        factored=arguments.get("factored", True),
    )
    prompt = jnp.array(start)
    state = optimizer.init(prompt)
    prompts = []
    for gradient in gradients:
        updates, state = optimizer.update(jnp.array(gradient), state, prompt)
        prompt = optax.apply_updates(prompt, updates)
        prompts.append(np.array(prompt))
    return prompts


CASES = {
    "adamw": [
        ({"learning_rate": 1e-3, "weight_decay": 0.0}, (3, 4)),
        ({"learning_rate": 0.3, "weight_decay": 0.1}, (3, 4)),
        ({"learning_rate": 0.1, "betas": [0.5, 0.9], "eps": 1e-3, "weight_decay": 0.01}, (2, 5)),
    ],
    "adafactor": [
        ({"learning_rate": 0.3}, (3, 4)),
        ({"learning_rate": 0.3, "initial_step": 1_100_000}, (3, 4)),
        ({"learning_rate": 0.01, "min_dim_size_to_factor": 3}, (3, 4)),
        ({"learning_rate": 0.3, "min_dim_size_to_factor": 2, "initial_step": 1_100_000}, (4, 2)),
        ({"learning_rate": 0.3, "min_dim_size_to_factor": 3}, (3, 3)),
        ({"learning_rate": 0.3, "min_dim_size_to_factor": 3, "factored": False}, (3, 4)),
        ({"learning_rate": 0.1, "clipping_threshold": None, "decay_rate": 0.5}, (3, 4)),
        ({"learning_rate": 0.1, "clipping_threshold": 0.5, "weight_decay": 0.1}, (3, 4)),
        ({"learning_rate": 0.1, "multiply_by_parameter_scale": True}, (3, 4)),
    ],
}


def main(name: str) -> None:
    cases = []
    for seed, (arguments, shape) in enumerate(CASES[name]):
        start, gradients = inputs(seed, shape, steps=4)
        prompts = {"adamw": adamw, "adafactor": adafactor}[name](arguments, start, gradients)
        arrays = {"start": start, "gradients": gradients, "prompts": np.array(prompts)}
        lists = {key: array.tolist() for key, array in arrays.items()}
        cases.append({"arguments": arguments, **lists})
    text = ",\n".join(json.dumps(case) for case in cases)
    (FOLDER / f"{name}.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
