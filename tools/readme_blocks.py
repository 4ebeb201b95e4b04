"""Print the n-th block of README.md that is fenced as bash (1: the first), as it stands.

    python tools/readme_blocks.py 2 | bash

Only the standard library, so that it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def bash_blocks(text: str) -> list[str]:
    """The contents of the bash blocks of a Markdown text, in order."""
    return re.findall(r"^```bash[ \t]*\n(.*?)^```[ \t]*$", text, re.MULTILINE | re.DOTALL)


def main() -> None:
    blocks = bash_blocks(README.read_text(encoding="utf-8"))
    number = int(sys.argv[1]) if len(sys.argv) == 2 and sys.argv[1].isdigit() else 0
    if not 1 <= number <= len(blocks):
        sys.exit(f"usage: readme_blocks.py N, with N from 1 to {len(blocks)}")
    print(blocks[number - 1], end="")


if __name__ == "__main__":
    main()
