"""The Python of README.md and of docs/prefix-tuning.md runs as it stands, with fewer steps; the
README's shell lines have known options.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import softprompt
from softprompt.cli.app import app

README = Path(__file__).parents[2] / "README.md"
PREFIX_TUNING = README.parent / "docs" / "prefix-tuning.md"
REVIEWS = ["a moving and funny film", "dull , slow and far too long"] * 8


def python_blocks(page: Path = README) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python[ \t]*\n(.*?)^```[ \t]*$", text, re.MULTILINE | re.DOTALL)


def test_there_are_python_blocks():
    assert python_blocks()


def test_python_blocks_run(smollm2_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # 150 steps take minutes; what is tested is that every line is true.
    for estimator in (softprompt.SoftPromptClassifier, softprompt.SoftPromptGenerator):
        monkeypatch.setitem(estimator.__init__.__kwdefaults__, "max_steps", 2)
    names = {
        "rows": [{"sentence": text} for text in REVIEWS],
        "y": [1, 0] * 8,
    }
    for number, block in enumerate(python_blocks(), start=1):
        exec(compile(block, f"{README.name}, Python block {number}", "exec"), names)
    assert names["grad"].shape == names["prompt"].embeddings.shape
    assert "Nearest tokens" in capsys.readouterr().out
    # The page goes on with the README's names.
    for number, block in enumerate(python_blocks(PREFIX_TUNING), start=1):
        exec(compile(block, f"{PREFIX_TUNING.name}, Python block {number}", "exec"), names)
    assert isinstance(names["clf"].prompt_, softprompt.Prefix)
    assert names["moved"] != names["prefix"]


def shell_commands() -> list[str]:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh[ \t]*\n(.*?)^```[ \t]*$", text, re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("command", shell_commands())
def test_shell_lines_have_options_that_exist(command, capsys):
    program, *arguments = shlex.split(command, comments=True)
    assert program == "softprompt"
    with pytest.raises(SystemExit) as exit_info:
        app([*arguments, "--help"])  # an unknown option is refused before help is shown
    assert exit_info.value.code == 0
