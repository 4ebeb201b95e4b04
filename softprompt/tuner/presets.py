"""Named recipes: sets of estimator parameters."""

from __future__ import annotations

import copy
from typing import Any

#: Recipes by name, as parameters of `SoftPromptClassifier` and `SoftPromptGenerator`.
#:
#: ``"lester2021"`` is the recipe of Lester, Al-Rfou, Constant 2021 ("The Power of Scale for
#: Parameter-Efficient Prompt Tuning", sections 3.1 and 3.2) with what its released configuration
#: adds: the step that T5X restores with the LM-adapted T5, from which Adafactor goes on counting.
#: Its learning rate of 0.3 belongs to the scale of T5's embeddings: each step moves the prompt by
#: an RMS of 0.3. On a decoder whose embeddings have an RMS of 0.02 to 0.15 it jumps far out of the
#: embeddings at once; override ``learning_rate`` (1 to 5 % of that RMS is a start).
#: Not part of it: the released configuration's dropout of 0.1 in the frozen model and its z-loss
#: of 1e-4. The generator, which has no class labels, needs ``init="vocabulary"`` instead.
PRESETS: dict[str, dict[str, Any]] = {
    "lester2021": {
        "num_virtual_tokens": 100,
        "init": "labels",
        "prompt_position": "start",
        "objective": "tokens",
        "optimizer": "adafactor",
        "optimizer_options": {
            "weight_decay": 1e-5,
            "decay_rate": 0.8,
            "initial_step": 1_100_000,
            "clipping_threshold": 1.0,
            "multiply_by_parameter_scale": False,
        },
        "learning_rate": 0.3,
        "schedule": "constant",
        "warmup_steps": 0,
        "batch_size": 32,
        "max_steps": 30_000,
        "eval_every": 1_000,
    },
}


def preset(name: str) -> dict[str, Any]:
    """Return a copy of the parameters of a recipe of `PRESETS`.

    Parameters
    ----------
    name : str

    Returns
    -------
    dict
        To be passed on: ``SoftPromptClassifier(model, template=..., labels=...,
        **preset("lester2021"))``. Plain values only.

    Raises
    ------
    ValueError
        If there is no recipe of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}: expected one of {', '.join(map(repr, PRESETS))}")
    return copy.deepcopy(PRESETS[name])
