"""The demo's rows: counts, no leaks between splits, the stated rule of choice, attribution."""

import runpy
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from softprompt.data import load_sms_spam_demo

TOOL = Path(__file__).parents[2] / "tools" / "make_sms_spam_demo.py"


def test_counts():
    splits = load_sms_spam_demo()
    counts = {name: Counter(row["label"] for row in rows) for name, rows in splits.items()}
    assert counts == {
        "train": {"ham": 150, "spam": 100},
        "validation": {"ham": 60, "spam": 40},
        "test": {"ham": 90, "spam": 60},
    }
    for rows in splits.values():
        for row in rows:
            assert set(row) == {"text", "label"}
            assert row["text"].strip()


def test_classes_are_mixed():
    """A part of the rows, from the start, has both classes."""
    for rows in load_sms_spam_demo().values():
        assert {row["label"] for row in rows[:16]} == {"ham", "spam"}


def test_each_call_returns_its_own_rows():
    load_sms_spam_demo()["train"][0]["text"] = "changed"
    assert load_sms_spam_demo()["train"][0]["text"] != "changed"


def test_no_message_stands_twice():
    if not TOOL.exists():
        pytest.skip(f"{TOOL} is only in the source tree")
    normal_form = runpy.run_path(str(TOOL))["normal_form"]
    forms = [normal_form(row["text"]) for rows in load_sms_spam_demo().values() for row in rows]
    assert len(set(forms)) == len(forms) == 500


def test_rows_are_those_of_the_stated_rule(shared_dir):
    chosen = runpy.run_path(str(TOOL))["choose"](shared_dir / "data" / "sms_spam")
    splits = load_sms_spam_demo()
    shipped = [{**row, "split": name} for name, rows in splits.items() for row in rows]
    assert shipped == chosen


def test_attribution_ships_with_the_rows():
    text = resources.files("softprompt.data").joinpath("README.md").read_text(encoding="utf-8")
    for words in ("CC BY 4.0", "Almeida", "Gómez Hidalgo", "Yamakami", "2011", "Changes"):
        assert words in text
