"""Records are complete, readable while they grow, and can be plotted."""

from __future__ import annotations

import json

import pytest
from quadratic import run

from softprompt.tuner import plot_record, read_record
from softprompt.tuner.record import RunRecord


def test_a_record_holds_the_run(tmp_path):
    path = tmp_path / "folder" / "run.jsonl"
    result = run(record=path, settings={"note": "naïve"}).execute()
    record = read_record(path)
    assert record["run"]["settings"]["batch_size"] == 4
    assert record["run"]["settings"]["note"] == "naïve"
    assert {"softprompt", "numpy", "python", "cpu"} <= set(record["run"])
    for kind in ("steps", "evaluations"):
        kept = [{k: v for k, v in event.items() if k != "seconds"} for event in record[kind]]
        assert kept == result.history[kind]


def test_a_record_can_be_read_while_it_is_written(tmp_path):
    path = tmp_path / "run.jsonl"
    record = RunRecord(path, {})
    record.write_step(1, {"loss": 0.5}, 0.1)
    with open(path, "ab") as file:
        file.write(b'{"type": "step", "st')
    assert read_record(path)["steps"] == [{"step": 1, "loss": 0.5, "seconds": 0.1}]
    record.close()


def test_a_new_run_replaces_a_record(tmp_path):
    path = tmp_path / "run.jsonl"
    for _ in range(2):
        run(record=path, max_steps=3).execute()
    assert len(read_record(path)["steps"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no record of a run"),
        ("{}\n", "no record of a run"),
        ('{"type": "step", "step": 1}\n', "no record of a run"),
        ('{"type": "run"}\n[1]\n', "line 2: expected an object, got list"),
        ('{"type": "run"}\n{"type": "stop"}\n', "line 2: type 'stop', expected step or"),
        ('{"type": "run"}\nnonsense\n', "line 2"),
        ('{"type": "run"}\n' + "[" * 5000 + "\n", "line 2"),
    ],
)
def test_what_is_no_record_is_named(tmp_path, text, message):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(path)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(OSError, match="missing"):
        read_record(tmp_path / "missing.jsonl")


def test_plots(tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = run(record=tmp_path / "run.jsonl").execute()
    for source in (tmp_path / "run.jsonl", result.history):
        axes = plot_record(source)
        [line] = axes.get_lines()
        assert list(line.get_xdata()) == list(range(1, 31))
        assert len(axes.figure.axes) == 2
        pyplot.close(axes.figure)
    figure, mine = pyplot.subplots()
    assert plot_record({"steps": [], "evaluations": []}, ax=mine) is mine
    assert len(figure.axes) == 1
    pyplot.close(figure)


def test_records_are_json_lines(tmp_path):
    run(record=tmp_path / "run.jsonl", max_steps=2).execute()
    types = [json.loads(line)["type"] for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert types == ["run", "evaluation", "step", "step", "evaluation"]
