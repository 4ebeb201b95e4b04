"""Print a shell block of the README as it stands: ``python tools/readme_blocks.py 2``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def bash_blocks(text: str) -> list[str]:
    """Return the contents of all blocks fenced as bash, in order."""
    return re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    blocks = bash_blocks(README.read_text(encoding="utf-8"))
    number = int(sys.argv[1])
    if not 1 <= number <= len(blocks):
        sys.exit(f"{README.name}: {len(blocks)} bash blocks, asked for number {number}")
    sys.stdout.write(blocks[number - 1])


if __name__ == "__main__":
    main()
