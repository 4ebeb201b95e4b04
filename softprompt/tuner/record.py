"""The record of a run: one JSON object a line, written as it happens; reading and plotting it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softprompt._version import __version__
from softprompt.formats.atomic import write_bytes
from softprompt.formats.bounded_json import parse_json

_MAX_BYTES = 1 << 28  # a step takes some 120 bytes: two million steps
_MAX_LINE_BYTES = 1 << 20


class RunRecord:
    """Appends a run's events to a JSON-lines file.

    The first line describes the run (``"type": "run"``), the others are steps (``"step"``,
    ``"loss"``, ``"learning_rate"``, ``"grad_norm"``, ``"seconds"``) and evaluations (``"step"``,
    ``"score"``, ``"loss"``, ``"seconds"``); seconds are those that the event took.

    Parameters
    ----------
    path : str or os.PathLike
        Replaced, unless a run is resumed. Its folder is created if missing.
    settings : mapping
        JSON values that describe the run.
    after : tuple of (int, int), optional
        Resuming: steps and evaluations that the checkpoint holds. Later lines, written between
        the checkpoint and the kill, are removed.

    Raises
    ------
    OSError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        after: tuple[int, int] | None = None,
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"type": "run", **environment(), "settings": dict(settings)}
        kept = _line(header)
        if after is not None and path.exists():
            kept = _beginning(path, *after) or kept
        write_bytes(path, kept)
        self._file = open(path, "ab")  # noqa: SIM115 - closed by close()

    def write_step(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Append a step."""
        self._write({"type": "step", "step": step, **values, "seconds": round(seconds, 4)})

    def write_evaluation(self, values: Mapping[str, float], seconds: float) -> None:
        """Append an evaluation."""
        self._write({"type": "evaluation", **values, "seconds": round(seconds, 4)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Mapping[str, Any]) -> None:
        self._file.write(_line(event))
        self._file.flush()  # a killed process then loses nothing that it has written


def environment() -> dict[str, str]:
    """Return the versions and the CPU that a result depends on."""
    return {
        "softprompt": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpu": _cpu_name(),
    }


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the record of a run, also of one that is running or was killed.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    dict
        ``"run"``: the first line; ``"steps"`` and ``"evaluations"``: lists of dict, as in an
        estimator's ``history_``, with seconds.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no record. A last line that was not written to its end is left out.
    """
    lines = _lines(Path(path))
    if not lines or lines[0].get("type") != "run":
        raise ValueError(f"{path}: no record of a run; its first line must have the type 'run'")
    record: dict[str, Any] = {"run": lines[0], "steps": [], "evaluations": []}
    for number, event in enumerate(lines[1:], start=2):
        kind = event.pop("type", None)
        if kind not in ("step", "evaluation"):
            raise ValueError(f"{path}, line {number}: type {kind!r}, expected step or evaluation")
        record[f"{kind}s"].append(event)
    return record


def plot_record(source: str | os.PathLike[str] | Mapping[str, Any], ax: Any = None) -> Any:
    """Plot the training loss and the validation score over the steps.

    Parameters
    ----------
    source : path or dict
        A record's file, what `read_record` returns, or an estimator's ``history_``.
    ax : matplotlib.axes.Axes, optional
        Where to plot the loss; the score gets an axis on its right. Default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        That of the loss.

    Raises
    ------
    ImportError
        If matplotlib (extra ``plot``) is not installed.
    ValueError, OSError
        As `read_record`.
    """
    try:
        from matplotlib import pyplot
    except ImportError as err:
        raise ImportError("plotting needs matplotlib: pip install 'softprompt[plot]'") from err
    history = source if isinstance(source, Mapping) else read_record(source)
    if ax is None:
        _, ax = pyplot.subplots()
    steps, evaluations = history["steps"], history["evaluations"]
    ax.plot(
        [event["step"] for event in steps],
        [event["loss"] for event in steps],
        color="tab:blue",
        linewidth=1,
        label="training loss",
    )
    ax.set_xlabel("step")
    ax.set_ylabel("training loss")
    handles = ax.get_lines()
    if evaluations:
        right = ax.twinx()
        right.plot(
            [event["step"] for event in evaluations],
            [event["score"] for event in evaluations],
            color="tab:orange",
            marker="o",
            markersize=4,
            label="validation score",
        )
        right.set_ylabel("validation score")
        handles = [*handles, *right.get_lines()]
    ax.legend(handles=handles, loc="best")
    return ax


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _lines(path: Path) -> list[dict[str, Any]]:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"{path}: {size} bytes, a record has at most {_MAX_BYTES}")
    raw = path.read_bytes().split(b"\n")
    raw.pop()  # nothing, or a line that was not written to its end
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(raw, start=1)]


def _parse(line: bytes, where: str) -> dict[str, Any]:
    event = parse_json(line, where=where, max_bytes=_MAX_LINE_BYTES, max_depth=16)
    if not isinstance(event, dict):
        raise ValueError(f"{where}: expected an object, got {type(event).__name__}")
    return event


def _beginning(path: Path, num_steps: int, num_evaluations: int) -> bytes:
    """Return the header and the first events of each kind."""
    left = {"run": 1, "step": num_steps, "evaluation": num_evaluations}
    kept = []
    for event in _lines(path):
        kind = event.get("type")
        if left.get(kind, 0) > 0:
            left[kind] -= 1
            kept.append(_line(event))
    return b"".join(kept)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
