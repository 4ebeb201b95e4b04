"""Rows that ship with the package, for the demo and for examples."""

from __future__ import annotations

import json
from importlib import resources


def load_sms_spam_demo() -> dict[str, list[dict[str, str]]]:
    """Return 500 rows of the SMS Spam Collection: text messages, each ``"ham"`` or ``"spam"``.

    Returns
    -------
    dict
        ``"train"`` (250 rows), ``"validation"`` (100) and ``"test"`` (150), each a list of
        ``{"text": ..., "label": "ham" or "spam"}``; 40 % of each are spam (of the whole collection
        12 to 13 %). In a new list each time.

    References
    ----------
    Almeida, Gómez Hidalgo, Yamakami 2011, "Contributions to the Study of SMS Spam Filtering: New
    Collection and Results", DocEng '11. CC BY 4.0; README.md beside the file says what was chosen.

    Examples
    --------
    >>> rows = load_sms_spam_demo()["train"]
    >>> rows[0]
    {'text': 'I meant middle left or right?', 'label': 'ham'}
    """
    file = resources.files(__name__).joinpath("sms_spam_demo.jsonl")
    splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            splits[row.pop("split")].append(row)
    return splits
