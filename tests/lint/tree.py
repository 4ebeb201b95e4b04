"""The repository as the checks in this folder see it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "softprompt"

_COMMENT_OR_STRING = re.compile(
    r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'""", re.DOTALL | re.VERBOSE
)


def c_files(*layers: str) -> list[Path]:
    """The C sources and headers of some layers, or of all."""
    folders = [CSRC / layer for layer in layers] or [CSRC]
    return sorted(path for folder in folders for path in folder.rglob("*.[ch]"))


def c_code(path: Path) -> str:
    """A C file without comments and with empty strings; its lines keep their numbers."""

    def blank(match: re.Match[str]) -> str:
        text = match[0]
        return '""' if text[0] == '"' else " " + "\n" * text.count("\n")

    return _COMMENT_OR_STRING.sub(blank, path.read_text(encoding="utf-8"))


def python_files() -> list[Path]:
    """The modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def tracked_files() -> list[Path]:
    """What git has under version control; skips where there is no repository (a source archive)."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the tests do not stand in a git repository")
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]
