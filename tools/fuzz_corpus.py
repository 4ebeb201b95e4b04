"""Inputs of the C fuzz targets: a folder of files to lines of hexadecimal digits, and back.

python tools/fuzz_corpus.py pack FOLDER FILE.hex COUNT
python tools/fuzz_corpus.py unpack FOLDER FILE.hex ...
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def pack(folder: Path, target: Path, count: int) -> None:
    """Write at most `count` of a folder's files, of all sizes, the smallest first."""
    inputs = sorted((path.read_bytes() for path in folder.iterdir()), key=lambda b: (len(b), b))
    step = max(1.0, len(inputs) / count)
    chosen = [inputs[int(i * step)] for i in range(min(count, len(inputs)))]
    head = "# Made by tools/c_fuzz.sh: some of the inputs that reach something new."
    target.write_text("\n".join([head, *(data.hex() for data in chosen)]) + "\n")


def unpack(folder: Path, sources: list[Path]) -> None:
    """Write every line of some files as a file of its own."""
    for source in sources:
        for line in source.read_text().splitlines() if source.exists() else []:
            if not line.startswith("#"):
                data = bytes.fromhex(line)
                (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    if sys.argv[1] == "pack":
        pack(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        unpack(Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
