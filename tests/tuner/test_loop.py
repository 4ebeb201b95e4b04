"""A run depends on its arguments alone, however often it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratic import START, TARGETS, Quadratic, run

from softprompt.optim import Adafactor, AdamW, linear
from softprompt.tuner import read_record, tune
from softprompt.tuner.batches import ShuffledEpochs
from softprompt.tuner.checkpoint import FILE_NAME, load_checkpoint
from softprompt.tuner.objectives import Evaluation


def assert_same(a, b):
    np.testing.assert_array_equal(a.prompt, b.prompt)
    assert (a.step, a.num_steps, a.score, a.loss) == (b.step, b.num_steps, b.score, b.loss)
    assert a.history == b.history


def without_seconds(path):
    record = read_record(path)
    for event in record["steps"] + record["evaluations"]:
        assert event.pop("seconds") >= 0
    return record


# ---- one run ----


def test_history_and_result():
    result = run().execute()
    assert [event["step"] for event in result.history["steps"]] == list(range(1, 31))
    rates = [event["learning_rate"] for event in result.history["steps"]]
    assert rates == [linear(0.1, 30, warmup_steps=2)(step) for step in range(30)]
    evaluations = result.history["evaluations"]
    assert [event["step"] for event in evaluations] == [0, 4, 8, 12, 16, 20, 24, 28, 30]
    best = max(evaluations, key=lambda event: (event["score"], -event["loss"]))
    assert (result.step, result.score, result.loss) == (
        best["step"],
        best["score"],
        best["loss"],
    )
    assert type(result.history["evaluations"][0]["step"]) is int


def test_arguments_are_not_written_to():
    start = START.copy()
    tune(Quadratic(TARGETS), start, AdamW(0.1), max_steps=3, batch_size=2, seed=0, progress=False)
    np.testing.assert_array_equal(start, START)


def test_of_equal_scores_the_lower_loss_wins():
    validation = Quadratic(TARGETS)
    losses = iter([3.0, 2.0, 2.5, 2.0])
    validation.evaluate = lambda prompt: Evaluation(score=0.5, loss=next(losses))
    result = run(validation=validation, max_steps=12, eval_every=4).execute()
    assert (result.step, result.loss) == (4, 2.0)


def test_gradients_are_clipped_and_their_norm_recorded():
    free = run(max_grad_norm=None, optimizer=AdamW(0.1), max_steps=1).execute()
    cut = run(max_grad_norm=1e-3, optimizer=AdamW(0.1), max_steps=1).execute()
    assert free.history["steps"] == cut.history["steps"]
    assert free.history["steps"][0]["grad_norm"] > 1e-3


def test_patience():
    validation = Quadratic(TARGETS)
    validation.evaluate = lambda prompt: Evaluation(score=0.5, loss=1.0)
    result = run(validation=validation, patience=3, max_steps=1000).execute()
    assert (result.num_steps, result.step) == (12, 0)


# ---- batches ----


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5), st.integers(0, 60))
def test_epochs_hold_every_row_once_and_go_on_anywhere(num_rows, batch_size, seed, stop):
    batches = ShuffledEpochs(num_rows, batch_size, seed)
    drawn = np.concatenate([batches.next_batch() for _ in range(stop + 1)])
    for epoch in range(len(drawn) // num_rows):
        rows = drawn[epoch * num_rows : (epoch + 1) * num_rows]
        assert sorted(rows) == list(range(num_rows))
    other = ShuffledEpochs(num_rows, batch_size, seed + 1)
    other.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    for _ in range(5):
        np.testing.assert_array_equal(other.next_batch(), batches.next_batch())


@pytest.mark.parametrize(
    "change", [{"state": "x"}, {"state": "-1"}, {"cursor": 99}, {"cursor": None}, {"uinteger": -1}]
)
def test_a_damaged_state_of_batches_is_refused(change):
    batches = ShuffledEpochs(5, 2, 0)
    with pytest.raises(ValueError, match="batches"):
        batches.load_state_dict({**batches.state_dict(), **change})


# ---- resuming ----


@pytest.mark.parametrize("make_optimizer", [lambda: AdamW(0.1), lambda: Adafactor(0.05)])
@pytest.mark.parametrize("stop_at", range(1, 40, 3))
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, make_optimizer, stop_at):
    whole = run(optimizer=make_optimizer(), record=tmp_path / "whole.jsonl").execute()
    passes = 0

    def stop():
        nonlocal passes
        passes += 1
        if passes == stop_at:
            raise KeyboardInterrupt

    options = {"checkpoint_dir": tmp_path / "run", "record": tmp_path / "run.jsonl"}
    objective, validation = Quadratic(TARGETS), Quadratic(TARGETS[:5] + 1)
    objective.before = validation.before = stop
    stopped = run(objective, optimizer=make_optimizer(), validation=validation, **options)
    try:
        stopped.execute()
    except KeyboardInterrupt:
        pass
    else:
        assert stop_at >= 39  # 30 steps and 9 evaluations
    resumed = run(optimizer=make_optimizer(), resume=True, **options).execute()
    assert_same(resumed, whole)
    assert without_seconds(tmp_path / "run.jsonl")["steps"] == whole.history["steps"]
    assert without_seconds(tmp_path / "run.jsonl")["evaluations"] == whole.history["evaluations"]


def test_ctrl_c_loses_no_complete_step(tmp_path):
    objective = Quadratic(TARGETS)

    def stop():
        if objective.calls == 18:
            raise KeyboardInterrupt

    objective.before = stop
    stopped = run(objective, checkpoint_dir=tmp_path, checkpoint_every=1000)
    with pytest.raises(KeyboardInterrupt):
        stopped.execute()
    assert load_checkpoint(tmp_path).state.step == 17
    assert stopped.result().num_steps == 17


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import os, signal
from quadratic import Quadratic, TARGETS, run

passes = 0
def die():
    global passes
    passes += 1
    if passes == {at}:
        os.kill(os.getpid(), signal.SIGKILL)

objective = Quadratic(TARGETS)
objective.before = die
run(objective, checkpoint_dir={folder!r}, record={record!r}, resume=True).execute()
"""


def test_kill_9_again_and_again(tmp_path):
    whole = run(record=tmp_path / "whole.jsonl").execute()
    folder, record = str(tmp_path / "run"), str(tmp_path / "run.jsonl")
    for at in (2, 5, 8, 11):
        script = KILLED.format(
            tests=str(Path(__file__).parent), at=at, folder=folder, record=record
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        died = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
        assert died.returncode == -signal.SIGKILL
    resumed = run(checkpoint_dir=folder, record=record, resume=True).execute()
    assert_same(resumed, whole)
    mine, its = without_seconds(record), without_seconds(tmp_path / "whole.jsonl")
    assert mine == its


def test_a_finished_run_is_not_run_again(tmp_path):
    first = run(checkpoint_dir=tmp_path).execute()
    objective = Quadratic(TARGETS)
    again = run(objective, checkpoint_dir=tmp_path, resume=True).execute()
    assert objective.calls == 0
    assert_same(again, first)


def test_a_checkpoint_is_not_replaced_by_another_run(tmp_path):
    run(checkpoint_dir=tmp_path, max_steps=3).execute()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(FileExistsError, match="step 3; pass resume=True to go on"):
        run(checkpoint_dir=tmp_path, max_steps=3).execute()
    assert (tmp_path / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 31}, "max_steps was 30, is 31"),
        ({"batch_size": 5}, "batch_size was 4, is 5"),
        ({"seed": 8}, "seed was 7, is 8"),
        ({"validation": None}, "validation_rows was '.*', is None"),
        ({"objective": Quadratic(TARGETS[1:])}, "training_rows was"),
        ({"optimizer": AdamW(0.2)}, r"optimizer was .*Schedule.*, is 'AdamW\(learning_rate=0.2"),
        ({"settings": {"position": "start"}}, "position was None, is 'start'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changes, message):
    run(checkpoint_dir=tmp_path).execute()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ValueError, match=message):
        run(**changes, checkpoint_dir=tmp_path, resume=True).execute()
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(tmp_path):
    objective = Quadratic(TARGETS.copy())

    def spoil():
        if objective.calls == 8:
            objective.targets[:] = np.nan

    objective.before = spoil
    spoiled = run(objective, checkpoint_dir=tmp_path)
    with pytest.raises(RuntimeError, match="step 8: the loss is nan and the gradient has 12"):
        spoiled.execute()
    assert load_checkpoint(tmp_path).state.step == 6
    resumed = run(checkpoint_dir=tmp_path, resume=True).execute()
    assert_same(resumed, run().execute())


def test_a_validation_that_is_not_finite_is_named():
    validation = Quadratic(TARGETS)
    validation.evaluate = lambda prompt: Evaluation(score=float("nan"), loss=1.0)
    with pytest.raises(RuntimeError, match="validation after step 0 gives the score nan"):
        run(validation=validation).execute()


# ---- damaged checkpoints ----


def test_damaged_checkpoints_are_named_and_never_executed(tmp_path):
    run(checkpoint_dir=tmp_path, max_steps=5).execute()
    path = tmp_path / FILE_NAME
    good = path.read_bytes()

    def resume():
        return run(checkpoint_dir=tmp_path, max_steps=5, resume=True).execute()

    rng = np.random.default_rng(0)
    for cut in [0, 1, 7, 8, 9, *rng.integers(10, len(good), 20).tolist()]:
        path.write_bytes(good[:cut])
        with pytest.raises(ValueError, match=FILE_NAME):
            resume()
    for old, new in [
        (b"softprompt-checkpoint-1", b"softprompt-checkpoint-9"),
        (b'\\"step\\": 5', b'\\"stop\\": 5'),
        (b'\\"step\\": 5', b'\\"step\\": 4'),
        (b'"prompt"', b'"prumpt"'),
        (b'\\"cursor\\"', b'\\"curser\\"'),
        (b'\\"num_steps\\"', b'\\"num_stops\\"'),
    ]:
        assert old in good
        path.write_bytes(good.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"checkpoint|batches|optimiser"):
            resume()
    for _ in range(200):
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with suppress(ValueError, TypeError, OverflowError, RuntimeError):
            resume()


def test_no_checkpoint_is_a_new_run(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "missing") is None
    assert_same(run(checkpoint_dir=tmp_path / "new", resume=True).execute(), run().execute())
