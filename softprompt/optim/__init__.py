"""Optimisers of a soft prompt in NumPy, usable alone: ``optimizer.step(prompt, grad)``."""

from softprompt.optim.adafactor import Adafactor
from softprompt.optim.adamw import AdamW
from softprompt.optim.clipping import clip_by_norm
from softprompt.optim.names import OPTIMIZERS, SCHEDULES, make_optimizer
from softprompt.optim.optimizer import Optimizer
from softprompt.optim.schedules import Schedule, constant, cosine, linear

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Adafactor",
    "AdamW",
    "Optimizer",
    "Schedule",
    "clip_by_norm",
    "constant",
    "cosine",
    "linear",
    "make_optimizer",
]
