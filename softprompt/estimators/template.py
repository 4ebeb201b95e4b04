"""A template: text with named fields, which turns a row into the text that the model reads."""

from __future__ import annotations

import string
from collections.abc import Mapping


class Template:
    r"""A text with fields in braces, as ``"Review: {sentence}\nSentiment:"``.

    The syntax is the part of `str.format` that cannot surprise: a field is a name in braces, and
    ``{{`` and ``}}`` stand for braces. Positions, attributes, items, conversions and format
    specifications are refused.

    Parameters
    ----------
    text : str

    Attributes
    ----------
    text : str
    fields : tuple of str
        The fields in the order in which they first appear; a field may appear several times.

    Raises
    ------
    TypeError
        If `text` is not a str.
    ValueError
        If it has no field, or something else than names in braces.

    Examples
    --------
    >>> Template("Q: {question}\nA:").fill({"question": "Why?"})
    'Q: Why?\nA:'
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"template must be a str, got {type(text).__name__}: {text!r}")
        self.text = text
        self._pieces = _parse(text)
        self.fields = tuple(dict.fromkeys(name for _, name in self._pieces if name is not None))
        if not self.fields:
            raise ValueError(
                f"template {text!r} has no field, so that every row would be the same text; "
                "name a field in braces, as in '{text}'"
            )

    def fill(self, row: Mapping[str, str]) -> str:
        """Return the text with the row's value in the place of each field."""
        return "".join(
            literal if name is None else literal + row[name] for literal, name in self._pieces
        )

    @property
    def ends_in_blank(self) -> bool:
        """Whether the last thing in the template is white space of its own."""
        literal, name = self._pieces[-1]
        return name is None and literal[-1:].isspace()

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _parse(text: str) -> list[tuple[str, str | None]]:
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as err:
        raise ValueError(
            f"template {text!r}: {err}; write {{{{ and }}}} for braces that are no field"
        ) from err
    pieces: list[tuple[str, str | None]] = []
    for literal, name, specification, conversion in parsed:
        if name is not None and (specification or conversion or not name.isidentifier()):
            field = name + (f"!{conversion}" if conversion else "")
            field += f":{specification}" if specification else ""
            raise ValueError(
                f"template {text!r}: '{{{field}}}' is not a field; a field is a plain name in "
                "braces, as in '{text}'"
            )
        pieces.append((literal, name))
    return pieces
