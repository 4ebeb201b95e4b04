"""The training loop: steps, evaluations, checkpoints, and what a run gives."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from softprompt.optim import Optimizer, clip_by_norm
from softprompt.tuner.batches import ShuffledEpochs
from softprompt.tuner.checkpoint import (
    EVALUATION_COLUMNS,
    FILE_NAME,
    STEP_COLUMNS,
    Best,
    RunState,
    check_settings,
    load_checkpoint,
    save_checkpoint,
)
from softprompt.tuner.defaults import EVAL_EVERY
from softprompt.tuner.objectives import Objective, Validation, digest_of
from softprompt.tuner.progress import Progress
from softprompt.tuner.record import RunRecord


@dataclass(frozen=True, eq=False)
class TuneResult:
    """What a run gives.

    Attributes
    ----------
    prompt : ndarray of shape (num_virtual_tokens, hidden_size), float32
        The best prompt by validation; without validation the last one.
    step : int
        Steps after which it was reached.
    num_steps : int
        Steps taken.
    score, loss : float or None
        What validation gave for it.
    history : dict
        ``"steps"``: for each step, from 1 on, a dict with ``step``, ``loss``, ``learning_rate``
        and ``grad_norm`` (before clipping). ``"evaluations"``: dicts with ``step``, ``score`` and
        ``loss``; the first is of the start, step 0.
    seconds : float
        Time spent, over all parts of a run that was resumed.
    """

    prompt: np.ndarray
    step: int
    num_steps: int
    score: float | None
    loss: float | None
    history: dict[str, list[dict[str, float]]]
    seconds: float


class Run:
    """One training run. `execute` runs it; `result` says what there is so far.

    Parameters
    ----------
    objective : Objective
        The rows that are trained on.
    start : ndarray of shape (num_virtual_tokens, hidden_size), float32
        Where the prompt starts; copied.
    optimizer : Optimizer
        A new one; it belongs to the run.
    max_steps : int >= 1
    batch_size : int >= 1
    seed : int
        Of the order of the rows.
    validation : Validation, optional
        Decides which prompt is the best.
    eval_every : int >= 1
        Steps between evaluations; the start and the end are evaluated too.
    patience : int >= 1, optional
        Evaluations without a better one after which the run ends; None for never.
    max_grad_norm : float > 0, optional
        Longer gradients are scaled down to this norm.
    checkpoint_dir : path, optional
        Folder of the run's checkpoint.
    checkpoint_every : int >= 1
        Steps between checkpoints; the end, and Ctrl-C, write one too.
    resume : bool
        Go on from the folder's checkpoint if there is one. Without it, a folder that has one is
        refused, so that no run replaces another.
    settings : mapping
        JSON values that decide the course of the run beyond those above. A checkpoint of other
        settings or rows is refused.
    record : path, optional
        File of the run's record.
    progress : bool or "auto"
        Show a bar; ``"auto"``: on a terminal or in a notebook.

    Notes
    -----
    A run depends on its arguments alone. Its state is one immutable value that each step replaces
    when it is complete. So an interruption at any moment leaves a state to go on from, and a
    resumed run gives the same bits as one that was never stopped.
    """

    def __init__(
        self,
        objective: Objective,
        start: np.ndarray,
        optimizer: Optimizer,
        *,
        max_steps: int,
        batch_size: int,
        seed: int,
        validation: Validation | None = None,
        eval_every: int = EVAL_EVERY,
        patience: int | None = None,
        max_grad_norm: float | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        record: str | os.PathLike[str] | None = None,
        progress: bool | str = "auto",
    ) -> None:
        self._objective, self._validation = objective, validation
        self._optimizer = optimizer
        self._batches = ShuffledEpochs(objective.num_rows, batch_size, seed)
        self._max_steps, self._eval_every, self._patience = max_steps, eval_every, patience
        self._max_grad_norm = max_grad_norm
        self._checkpoint_dir, self._checkpoint_every = checkpoint_dir, checkpoint_every
        self._resume, self._record_path, self._progress = resume, record, progress
        start = np.array(start, np.float32, order="C")
        self._settings = {
            **(settings or {}),
            "max_steps": max_steps,
            "batch_size": batch_size,
            "seed": seed,
            "eval_every": eval_every,
            "patience": patience,
            "max_grad_norm": max_grad_norm,
            "optimizer": repr(optimizer),
            "start": digest_of(start),
            "training_rows": objective.digest(),
            "validation_rows": validation.digest() if validation is not None else None,
        }
        self._state = RunState(
            prompt=start,
            step=0,
            optimizer=optimizer.state_dict(),
            batches=self._batches.state_dict(),
        )
        self._saved: RunState | None = None

    def execute(self) -> TuneResult:
        """Train to the end and return the result.

        Raises
        ------
        ValueError
            If the folder's checkpoint is damaged or of another run.
        FileExistsError
            If it holds a checkpoint and `resume` is False.
        OSError
            If a checkpoint or the record cannot be written.
        RuntimeError
            If a loss or gradient is not finite. The last checkpoint stays.
        KeyboardInterrupt
            Passed on, after writing a checkpoint of the last complete step.
        """
        resumed = self._restore()
        record = self._open_record(resumed)
        bar = Progress(self._max_steps, self._state.step, show=self._progress)
        try:
            while not self._advance(record, bar):
                pass
        except KeyboardInterrupt:
            self._save()
            raise
        finally:
            bar.close()
            if record is not None:
                record.close()
        return self.result()

    def result(self) -> TuneResult:
        """Return what there is after the last complete step."""
        state = self._state
        best = state.best
        return TuneResult(
            prompt=state.prompt if best is None else best.prompt,
            step=state.step if best is None else best.step,
            num_steps=state.step,
            score=None if best is None else best.score,
            loss=None if best is None else best.loss,
            history={
                "steps": [
                    {"step": number, **dict(zip(STEP_COLUMNS, row, strict=True))}
                    for number, row in enumerate(state.steps, start=1)
                ],
                "evaluations": [
                    {**dict(zip(EVALUATION_COLUMNS, row, strict=True)), "step": int(row[0])}
                    for row in state.evaluations
                ],
            },
            seconds=state.seconds,
        )

    def _advance(self, record: RunRecord | None, bar: Progress) -> bool:
        """Do what comes next, an evaluation or a step; return whether the run has ended."""
        state = self._state
        ended = state.step >= self._max_steps
        if self._validation is not None:
            if not state.evaluated and (ended or state.step % self._eval_every == 0):
                self._evaluate(self._validation, record, bar)
                state = self._state
            ended = ended or (self._patience is not None and state.waited >= self._patience)
        if ended or state.step % self._checkpoint_every == 0:
            self._save()
        if not ended:
            self._step(record, bar)
        return ended

    def _step(self, record: RunRecord | None, bar: Progress) -> None:
        begin = time.perf_counter()
        state = self._state
        number = state.step + 1
        loss, grad = self._objective.loss_and_grad(state.prompt, self._batches.next_batch())
        if not math.isfinite(loss) or not np.isfinite(grad).all():
            raise RuntimeError(
                f"step {number}: the loss is {loss} and the gradient has "
                f"{int((~np.isfinite(grad)).sum())} values that are not finite; the learning rate "
                f"({self._optimizer.current_learning_rate():g}) may be too high"
            )
        if self._max_grad_norm is None:
            norm = float(np.sqrt(np.sum(np.square(grad, dtype=np.float64))))
        else:
            grad, norm = clip_by_norm(grad, self._max_grad_norm)
        rate = self._optimizer.current_learning_rate()
        prompt = self._optimizer.step(state.prompt.copy(), grad)
        values = (float(loss), float(rate), norm)
        seconds = time.perf_counter() - begin
        if record is not None:  # before the state: resuming removes a line that came too early
            record.write_step(number, dict(zip(STEP_COLUMNS, values, strict=True)), seconds)
        self._state = replace(
            state,
            prompt=prompt,
            step=number,
            optimizer=self._optimizer.state_dict(),
            batches=self._batches.state_dict(),
            steps=(*state.steps, values),
            seconds=state.seconds + seconds,
        )
        bar.step(loss)

    def _evaluate(self, validation: Validation, record: RunRecord | None, bar: Progress) -> None:
        begin = time.perf_counter()
        state = self._state
        found = validation.evaluate(state.prompt)
        if not (math.isfinite(found.score) and math.isfinite(found.loss)):
            raise RuntimeError(
                f"validation after step {state.step} gives the score {found.score} and the loss "
                f"{found.loss}; both must be finite"
            )
        best, waited = state.best, state.waited + 1
        if best is None or (found.score, -found.loss) > (best.score, -best.loss):
            best, waited = Best(state.prompt, state.step, found.score, found.loss), 0
        values = (float(state.step), float(found.score), float(found.loss))
        seconds = time.perf_counter() - begin
        if record is not None:
            named = dict(zip(EVALUATION_COLUMNS, values, strict=True))
            record.write_evaluation({**named, "step": state.step}, seconds)
        self._state = replace(
            state,
            best=best,
            waited=waited,
            evaluations=(*state.evaluations, values),
            seconds=state.seconds + seconds,
        )
        bar.evaluation(found.score)

    def _restore(self) -> bool:
        """Take the state of the folder's checkpoint, if there is one; return whether there is."""
        if self._checkpoint_dir is None:
            return False
        checkpoint = load_checkpoint(self._checkpoint_dir)
        if checkpoint is None:
            return False
        if not self._resume:
            raise FileExistsError(
                f"{Path(self._checkpoint_dir) / FILE_NAME} is the checkpoint of a run at step "
                f"{checkpoint.state.step}; pass resume=True to go on, or another checkpoint_dir"
            )
        check_settings(checkpoint.settings, self._settings, folder=self._checkpoint_dir)
        if checkpoint.state.prompt.shape != self._state.prompt.shape:
            raise ValueError(
                f"the checkpoint in {self._checkpoint_dir} has a prompt of the shape "
                f"{checkpoint.state.prompt.shape}, expected {self._state.prompt.shape}"
            )
        self._optimizer.load_state_dict(checkpoint.state.optimizer)
        self._batches.load_state_dict(dict(checkpoint.state.batches))
        self._state = self._saved = checkpoint.state
        return True

    def _open_record(self, resumed: bool) -> RunRecord | None:
        if self._record_path is None:
            return None
        after = (len(self._state.steps), len(self._state.evaluations)) if resumed else None
        return RunRecord(self._record_path, self._settings, after=after)

    def _save(self) -> None:
        if self._checkpoint_dir is not None and self._saved is not self._state:
            save_checkpoint(self._checkpoint_dir, self._state, self._settings)
            self._saved = self._state


def tune(
    objective: Objective,
    start: np.ndarray,
    optimizer: Optimizer,
    *,
    on_interrupt: Callable[[TuneResult], None] | None = None,
    **options: Any,
) -> TuneResult:
    """Train a prompt.

    Parameters
    ----------
    objective, start, optimizer, **options
        See `Run`.
    on_interrupt : callable, optional
        Called with the result so far when Ctrl-C stops the run, before KeyboardInterrupt goes on.

    Returns
    -------
    TuneResult

    Raises
    ------
    ValueError, OSError, RuntimeError, KeyboardInterrupt
        See `Run.execute`.
    """
    run = Run(objective, start, optimizer, **options)
    try:
        return run.execute()
    except KeyboardInterrupt:
        if on_interrupt is not None:
            on_interrupt(run.result())
        raise
