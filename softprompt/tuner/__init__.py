"""Training: where a prompt starts, recipes, the loop, checkpoints and the run's record."""

from softprompt.tuner.loop import Run, TuneResult, tune
from softprompt.tuner.methods import METHODS, make_method
from softprompt.tuner.presets import PRESETS, preset
from softprompt.tuner.record import plot_record, read_record
from softprompt.tuner.starts import TextStart, make_start

__all__ = [
    "METHODS",
    "PRESETS",
    "Run",
    "TextStart",
    "TuneResult",
    "make_method",
    "make_start",
    "plot_record",
    "preset",
    "read_record",
    "tune",
]
