"""Makes softprompt/data/sms_spam_demo.jsonl from a folder with the collection in three splits.

    python tools/make_sms_spam_demo.py FOLDER

FOLDER holds train.jsonl, validation.jsonl and test.jsonl with "text" and "label" (ham, spam): the
SMS Spam Collection without exact repeats, cut 80/10/10. softprompt/data/README.md says how the rows
are chosen.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "softprompt" / "data" / "sms_spam_demo.jsonl"
# Test first, so that a near repeat is dropped from the rows that are trained on.
COUNTS = {
    "test": {"ham": 90, "spam": 60},
    "validation": {"ham": 60, "spam": 40},
    "train": {"ham": 150, "spam": 100},
}


def draw_key(row: dict) -> str:
    """Return the key that rows are drawn by: pseudo-random, and the same on every machine."""
    return hashlib.sha256(f"softprompt demo 0\n{row['text']}".encode()).hexdigest()


def normal_form(text: str) -> str:
    """Return `text` without what tells sendings of one message apart: numbers, case, spaces."""
    return re.sub(r"\d+", "0", re.sub(r"\s+", "", text.casefold()))


def choose(folder: Path) -> list[dict]:
    """Return the chosen rows, train first."""
    taken: set[str] = set()
    splits = {}
    for split, counts in COUNTS.items():
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        rows = sorted((json.loads(line) for line in lines if line), key=draw_key)
        left = dict(counts)
        chosen = []
        for row in rows:
            form = normal_form(row["text"])
            if left[row["label"]] and form not in taken:
                left[row["label"]] -= 1
                taken.add(form)
                chosen.append({"text": row["text"], "label": row["label"], "split": split})
        if any(left.values()):
            raise ValueError(f"{folder}: {split} has too few rows, {left} are missing")
        splits[split] = chosen
    return [row for split in reversed(COUNTS) for row in splits[split]]


def main(folder: str) -> None:
    rows = choose(Path(folder))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
