"""Classes and label texts as a shell can say them.

A shell and a CSV file know texts only, JSON knows numbers too: class ``1`` of a JSONL file is the
class that ``--labels`` and a CSV file call ``1``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from softprompt.formats.bounded_json import parse_json


def parse_labels(text: str, template: str) -> dict[str, str]:
    """Return class name -> label text.

    Parameters
    ----------
    text : str
        A JSON object; or ``name=text,name=text``; or ``name,name``: names alone are put after a
        blank, unless the template ends in one.
    template : str

    Raises
    ------
    typer.BadParameter
        If it is none of these.
    """
    if text.lstrip().startswith("{"):
        try:
            labels = parse_json(text.encode(), where="--labels")
        except ValueError as err:
            raise typer.BadParameter(str(err), param_hint="--labels") from err
        return {str(name): str(value) for name, value in labels.items()}  # type: ignore[union-attr]
    pairs = [part.partition("=") for part in text.split(",")]
    blank = "" if template[-1:].isspace() else " "
    if not any(sign for _, sign, _ in pairs):
        pairs = [(name.strip(), "=", blank + name.strip()) for name, _, _ in pairs]
    labels = {name.strip(): value for name, _, value in pairs}
    if not all(sign for _, sign, _ in pairs) or not all(labels) or len(labels) < len(pairs):
        raise typer.BadParameter(
            f'{text!r}: expected a JSON object, "name=text,name=text" or "name,name", each name '
            "once",
            param_hint="--labels",
        )
    return labels


def class_name(value: Any) -> str:
    """Return a class as a shell says it: a text as it is, other values as JSON writes them."""
    return value if isinstance(value, str) else json.dumps(value)


def as_classes(values: Iterable[Any], classes: Sequence[Any]) -> list[Any]:
    """Return values with those that have a class's name replaced by the class."""
    by_name = {class_name(value): value for value in classes}
    return [by_name.get(class_name(value), value) for value in values]


def labels_for(names: dict[str, str] | None, y: Sequence[Any]) -> dict[Any, str] | None:
    """Return class -> label text, with the classes as they stand in the data."""
    if names is None:
        return None
    return dict(zip(as_classes(names, list(dict.fromkeys(y))), names.values(), strict=True))
