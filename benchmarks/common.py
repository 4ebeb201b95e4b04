"""What the benchmarks share: rows, facts about the machine, Markdown tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SST2_TEMPLATE = "Review: {sentence}\nSentiment:"
SST2_LABELS = {0: " negative", 1: " positive"}


def read_rows(dataset: str, split: str) -> list[dict[str, Any]]:
    """Rows of a data set of the folder beside the repository, or of ``SOFTPROMPT_SHARED``."""
    shared = Path(os.environ.get("SOFTPROMPT_SHARED") or ROOT.parent / "shared")
    path = shared / "data" / dataset / f"{split}.jsonl"
    if not path.is_file():
        raise SystemExit(f"no rows at {path}: set SOFTPROMPT_SHARED to the folder that holds data/")
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def machine() -> dict[str, Any]:
    """CPU, its cores, the engine's path on it, and the date."""
    from softprompt.model.threads import engine

    facts = engine().info()
    return {
        "cpu": _cpu_name(),
        "available_cpus": facts["available_cpus"],
        "cpu_path": facts["cpu"],
        "blas": facts["blas"],
        "blas_core": facts["blas_core"],
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.date.today().isoformat(),
    }


def _cpu_name() -> str:
    """The name that the CPU gives itself, with family and model, which virtual machines hide
    less."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    facts = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts.get('model', '?')})"
    return name


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, softprompt and installed packages."""
    import softprompt

    own = {"python": platform.python_version(), "softprompt": softprompt.__version__}
    return own | {name: importlib.metadata.version(name) for name in packages}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
