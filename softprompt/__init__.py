"""Prompt tuning of frozen language models on the CPU (Lester, Al-Rfou, Constant 2021).

Public names are resolved at first use, so that importing the package costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from softprompt._version import __version__

_PUBLIC = {
    "Model": "softprompt.model.model",
    "Prefix": "softprompt.prompt",
    "PromptModelMismatchWarning": "softprompt.prompt",
    "SoftPrompt": "softprompt.prompt",
    "SoftPromptClassifier": "softprompt.estimators",
    "SoftPromptGenerator": "softprompt.estimators",
    "TextStart": "softprompt.tuner.starts",
    "load_model": "softprompt.model.load",
    "load_prompt": "softprompt.prompt",
    "neighbors": "softprompt.prompt",
    "optim": "softprompt.optim",
    "plot_record": "softprompt.tuner.record",
    "read_record": "softprompt.tuner.record",
    "similarity": "softprompt.prompt",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'softprompt' has no attribute {name!r}")
    loaded = importlib.import_module(module)
    value = loaded if module.endswith(f".{name}") else getattr(loaded, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
