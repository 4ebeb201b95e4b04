"""Nothing under version control names somebody's machine or a package index."""

from __future__ import annotations

import re

from lint.tree import ROOT, tracked_files

# Written so that this file does not match itself.
PATTERNS = [
    r"(?<![\w.])/(?:work|root|Users)/\w",
    r"(?<![\w.])/home/(?!user\b|you\b)\w",
    r"(?<![\w.])/tmp/(?!\w*\b(?:softprompt)\b)[a-z0-9_]",
    r"(?<![\w.])/opt/(?!homebrew)\w",
    r"-index[-]url",
    r"//(?:pypi[.]org/simple|files[.]pythonhosted[.]org)",
    r"\bfile[:]///\w",
]
BINARY = {".npz", ".npy", ".png", ".gguf", ".safetensors", ".so", ".bin", ".pt", ".ckpt", ".prompt"}


def test_no_machine_paths() -> None:
    pattern = re.compile("|".join(PATTERNS))
    found = []
    for path in tracked_files():
        if path.suffix in BINARY:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []
