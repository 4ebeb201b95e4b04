"""A training run in one file, so that a killed run goes on with the same bits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softprompt.formats.bounded_json import parse_json
from softprompt.formats.safetensors import open_safetensors, write_safetensors
from softprompt.formats.stored_tensor import StoredTensor

FILE_NAME = "checkpoint.safetensors"
_FORMAT = "softprompt-checkpoint-1"

#: Columns of `RunState.steps` and `RunState.evaluations`.
STEP_COLUMNS = ("loss", "learning_rate", "grad_norm")
EVALUATION_COLUMNS = ("step", "score", "loss")


@dataclass(frozen=True, eq=False)
class Best:
    """The best prompt so far, float32 ``[P, d]``, and what validation gave for it."""

    prompt: np.ndarray
    step: int
    score: float
    loss: float


@dataclass(frozen=True, eq=False)
class RunState:
    """Everything that the rest of a run depends on. Never changed: a step makes a new one.

    Attributes
    ----------
    prompt : ndarray of shape (num_virtual_tokens, hidden_size), float32
    step : int
        Steps taken.
    optimizer : dict
        ``state_dict()`` of the optimiser.
    batches : dict
        ``state_dict()`` of the batches.
    best : Best or None
        None before the first evaluation, and without validation.
    steps : tuple of tuple of float
        `STEP_COLUMNS` for each step.
    evaluations : tuple of tuple of float
        `EVALUATION_COLUMNS` for each evaluation.
    waited : int
        Evaluations since the best one.
    seconds : float
        Time spent, over all parts of a run that was resumed.
    """

    prompt: np.ndarray
    step: int
    optimizer: Mapping[str, Any]
    batches: Mapping[str, Any]
    best: Best | None = None
    steps: tuple[tuple[float, ...], ...] = ()
    evaluations: tuple[tuple[float, ...], ...] = ()
    waited: int = 0
    seconds: float = 0.0

    @property
    def evaluated(self) -> bool:
        """Whether validation has looked at the prompt as it is."""
        return bool(self.evaluations) and self.evaluations[-1][0] == self.step


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state and the settings of the run that it belongs to (JSON values)."""

    state: RunState
    settings: Mapping[str, Any]


def save_checkpoint(
    folder: str | os.PathLike[str], state: RunState, settings: Mapping[str, Any]
) -> None:
    """Write the checkpoint atomically: a kill leaves the earlier one or this one.

    Parameters
    ----------
    folder : str or os.PathLike
        Created if missing.
    state : RunState
    settings : mapping
        JSON values that decide the course of the run.

    Raises
    ------
    OSError
        If it cannot be written; the earlier checkpoint is then as it was.
    """
    scalars = {key: value for key, value in state.optimizer.items() if not _is_array(value)}
    meta: dict[str, Any] = {
        "step": state.step,
        "waited": state.waited,
        "seconds": state.seconds,
        "batches": dict(state.batches),
        "optimizer": scalars,
        "settings": dict(settings),
    }
    tensors = {
        "prompt": state.prompt,
        "steps": _table(state.steps, STEP_COLUMNS),
        "evaluations": _table(state.evaluations, EVALUATION_COLUMNS),
    }
    for key, value in state.optimizer.items():
        if _is_array(value):
            tensors[f"optimizer.{key}"] = value
    if state.best is not None:
        best = state.best
        meta["best"] = {"step": best.step, "score": best.score, "loss": best.loss}
        tensors["best"] = best.prompt
    path = Path(folder) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    # repr of a float, which json writes, reads back to the same bits.
    write_safetensors(path, tensors, {"format": _FORMAT, "state": json.dumps(meta)})


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint | None:
    """Read the checkpoint of a folder; nothing in it is executed.

    Returns
    -------
    Checkpoint or None
        None if the folder holds none.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or of another format.
    """
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return None
    stored = open_safetensors(path)
    if stored.metadata.get("format") != _FORMAT:
        found = stored.metadata.get("format")
        raise ValueError(f"{path}: format {found!r}, expected {_FORMAT!r}")
    where = f"{path}: state"
    meta = parse_json(stored.metadata.get("state", "").encode(), where=where)
    try:
        arrays = {name: _array(stored[name]) for name in stored}
        moments = {
            name.removeprefix("optimizer."): array
            for name, array in arrays.items()
            if name.startswith("optimizer.")
        }
        best = None
        if "best" in meta:
            best = Best(
                arrays["best"],
                int(meta["best"]["step"]),
                float(meta["best"]["score"]),
                float(meta["best"]["loss"]),
            )
        state = RunState(
            prompt=arrays["prompt"],
            step=int(meta["step"]),
            optimizer={**meta["optimizer"], **moments},
            batches=meta["batches"],
            best=best,
            steps=_tuples(arrays["steps"], STEP_COLUMNS),
            evaluations=_tuples(arrays["evaluations"], EVALUATION_COLUMNS),
            waited=int(meta["waited"]),
            seconds=float(meta["seconds"]),
        )
        settings = dict(meta["settings"])
    except (KeyError, TypeError, AttributeError, OverflowError) as err:
        raise ValueError(f"{path}: not a complete checkpoint ({err!r})") from err
    if len(state.steps) != state.step:
        raise ValueError(f"{path}: {len(state.steps)} rows of history for {state.step} steps")
    return Checkpoint(state, settings)


def check_settings(
    found: Mapping[str, Any], expected: Mapping[str, Any], *, folder: str | os.PathLike[str]
) -> None:
    """Raise ValueError, naming what differs, unless a checkpoint is of the run that is to go on."""
    expected = json.loads(json.dumps(expected))
    different = [
        f"{key} was {found.get(key)!r}, is {expected.get(key)!r}"
        for key in sorted({*found, *expected})
        if found.get(key) != expected.get(key)
    ]
    if different:
        raise ValueError(
            f"the checkpoint in {folder} is of another run, which cannot go on: "
            + "; ".join(different)
        )


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _table(rows: tuple[tuple[float, ...], ...], columns: tuple[str, ...]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(len(rows), len(columns))


def _tuples(table: np.ndarray, columns: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise TypeError(f"history of shape {table.shape}, expected [n, {len(columns)}]")
    return tuple(map(tuple, table.tolist()))


_DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


def _array(stored: StoredTensor) -> np.ndarray:
    # The reader has checked that type, shape and bytes agree.
    return (
        stored.data.view(np.dtype(_DTYPES[stored.dtype]).newbyteorder("<"))
        .astype(_DTYPES[stored.dtype])
        .reshape(stored.shape)
    )
