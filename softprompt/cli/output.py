"""What commands print: for people, or one JSON object with ``--json``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

__all__ = ["plain", "show", "show_json"]


def plain(value: Any) -> Any:
    """Turn NumPy values into what JSON knows."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def show_json(values: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(plain(values), ensure_ascii=False, indent=2))


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print values, one a line, or as a JSON object."""
    if as_json:
        show_json(values)
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        print(f"{name.replace('_', ' '):{width}}  {value}")
