"""notebooks/quickstart.ipynb is what its script builds, was executed, and runs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(NOTEBOOKS / "build_quickstart.py"))


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOKS / "quickstart.ipynb", as_version=4)


def test_the_committed_notebook_is_the_scripts(script, committed):
    nbformat.validate(committed)
    built = script["build"]()
    assert [(c.id, c.cell_type, c.source) for c in committed.cells] == [
        (c.id, c.cell_type, c.source) for c in built.cells
    ]


def test_the_committed_notebook_was_executed(committed):
    cells = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = json.dumps([cell.outputs for cell in cells])
    for expected in ("zero-shot accuracy", "tuned accuracy", "image/png", "Nearest tokens"):
        assert expected in text
    assert '"output_type": "error"' not in text


def test_every_cell_runs(smollm2_path, script, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTPROMPT_QUICKSTART_STEPS", "2")
    done = script["execute"](script["build"](), tmp_path)
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code")
