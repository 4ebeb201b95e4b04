"""Exit codes that scripts can use, one line for an error, nothing but the result on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from softprompt.cli import rows as cli_rows
from softprompt.cli.labels import class_name, parse_labels


def test_stdout_holds_the_json_object_alone(model_folder, trained):
    done = subprocess.run(
        [sys.executable, "-m", "softprompt", "generate", "aba", "--prompt", trained, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)) == {"model", "results"}
    assert "loading" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "--prompt", "{missing}", "--data", "{data}"], "missing"),
        (["info", "no-such-model-anywhere"], "no-such-model-anywhere"),
        (["predict", "--prompt", "{prompt}", "--data", "{missing}.jsonl"], "missing.jsonl"),
        (["predict", "--prompt", "{prompt}", "--data", "{missing}.xlsx"], "'.xlsx'"),
        (["neighbors", "{prompt}", "-k", "0"], "k=0"),
        (["evaluate", "--prompt", "{prompt}", "--data", "{data}", "--label-field", "no"], "'no'"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(
    run, write, rows, trained, tmp_path, monkeypatch, arguments, expected
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {
        "prompt": trained,
        "missing": tmp_path / "missing",
        "data": write("test.jsonl", rows),
    }
    done = run(*(argument.format(**places) for argument in arguments), "--json", code=1)
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if not line.startswith("loading ")]
    if "--data" in arguments:
        lines = [line for line in lines if not line.startswith("scoring ")]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


def test_debug_shows_the_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "softprompt", "neighbors", tmp_path / "none", "--debug"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no-such-command"], "no-such-command"),
        (["train"], "--model"),
        (["generate", "a", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["generate", "a"], "--model"),
        (["generate", "a", "b", "--prompt", "{prompt}", "--stream"], "--stream"),
        (["generate", "a", "--prompt", "{prompt}", "--stream", "--json"], "--stream"),
        (["predict", "--data", "{data}"], "--template"),
        (["predict", "--data", "{data}", "--template", "{{word}}"], "--labels"),
        (["predict", "--data", "{data}", "--prompt", "{prompt}", "--labels", "a,b"], "--labels"),
        (["generate", "a", "b", "c", "--prompt", "{prompt}", "--prompt", "{prompt}"], "--prompt"),
        (["demo", "--steps", "0"], "--steps"),
        (["evaluate", "--data", "{data}", "--template", "x", "--examples", "2"], "--examples"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, write, rows, trained, arguments, expected):
    places = {"data": write("test.jsonl", rows), "prompt": trained}
    done = run(*(argument.format(**places) for argument in arguments), code=2)
    assert done.out == ""
    assert expected in done.err


def test_an_interrupt_is_exit_code_130(write, rows, model_folder, tmp_path):
    command = [
        sys.executable, "-m", "softprompt", "train", "--model", model_folder, "--data",
        write("train.jsonl", rows), "--template", "{word}:", "--max-steps", "1000000",
        "--record", tmp_path / "run.jsonl", "--output", tmp_path / "prompt",
        "--checkpoint-dir", tmp_path / "checkpoint",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)  # training has begun when its record exists
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    hint, last = err.splitlines()[-2:]
    assert last == "interrupted"
    assert hint == f"the same command with --resume goes on from {tmp_path / 'checkpoint'}"
    assert list((tmp_path / "checkpoint").iterdir())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2: list"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3: 1 values, expected 2"),
        ("a.csv", b"a,a\n1,2\n", "named twice"),
        ("a.csv", b"a,b\n\xff,2\n", "byte 4 is not UTF-8"),
        ("a.csv", b'a,b\n"1,2\n', "line 2"),
        ("a.csv", b"", "no rows"),
    ],
)
def test_damaged_rows_name_the_line(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        cli_rows.read_rows(tmp_path / name)


def test_rows_of_spreadsheets(tmp_path):
    (tmp_path / "a.csv").write_bytes('\ufeffa,b\r\n"x, ""y""\nz",ü\r\n'.encode())
    assert cli_rows.read_rows(tmp_path / "a.csv") == [{"a": 'x, "y"\nz', "b": "ü"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ham,spam", {"ham": " ham", "spam": " spam"}),
        ("0= bad,1= good", {"0": " bad", "1": " good"}),
        ('{"0": " bad, very", "1": "="}', {"0": " bad, very", "1": "="}),
    ],
)
def test_labels(text, expected):
    assert parse_labels(text, "{text}:") == expected


def test_class_names():
    assert [class_name(value) for value in ("a", 1, True)] == ["a", "1", "true"]
