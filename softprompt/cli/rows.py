"""Rows from JSONL, CSV and TSV files, and rows to JSONL."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from softprompt.formats.bounded_json import parse_json

_MAX_LINE_BYTES = 1 << 24
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file.

    Parameters
    ----------
    path : Path
        ``.jsonl`` (one object a line), ``.csv`` or ``.tsv`` (the first line names the fields);
        ``-`` is JSONL from stdin. UTF-8.

    Returns
    -------
    list of dict

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it has no rows, another form, or a line that is no row; the message names the line.
    """
    suffix = path.suffix.lower()
    if str(path) == "-":
        rows = _json_lines(sys.stdin.buffer.read(), "stdin")
    elif suffix in _DELIMITERS:
        rows = _table(path.read_bytes(), str(path), _DELIMITERS[suffix])
    elif suffix in _JSON_LINES:
        rows = _json_lines(path.read_bytes(), str(path))
    else:
        known = ", ".join((*_JSON_LINES, *_DELIMITERS))
        raise ValueError(f"{path}: the name ends in {suffix!r}, expected one of {known}")
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def column(rows: Iterable[Mapping[str, Any]], field: str, path: Path) -> list[Any]:
    """Return one field of every row.

    Raises
    ------
    ValueError
        If a row lacks it, or it is null.
    """
    values = []
    for number, row in enumerate(rows):
        if row.get(field) is None:
            raise ValueError(
                f"{path}, row {number}: no field {field!r}; its fields are "
                f"{', '.join(map(repr, row))}"
            )
        values.append(row[field])
    return values


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    from softprompt.formats.atomic import write_bytes

    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows]
    write_bytes(path, "".join(lines).encode())


def _json_lines(data: bytes, where: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        row = parse_json(line.strip(), where=place, max_bytes=_MAX_LINE_BYTES)
        if not isinstance(row, dict):
            raise ValueError(f"{place}: {type(row).__name__}, expected an object of fields")
        rows.append(row)
    return rows


def _table(data: bytes, where: str, delimiter: str) -> list[dict[str, str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ValueError(f"{where}: byte {err.start} is not UTF-8") from err
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        names = next(lines, [])
        if len(set(names)) < len(names):
            raise ValueError(f"{where}, line 1: a field is named twice: {names}")
        for values in lines:
            if not values:
                continue
            if len(values) != len(names):
                raise ValueError(
                    f"{where}, line {lines.line_num}: {len(values)} values, expected "
                    f"{len(names)}: {', '.join(names)}"
                )
            rows.append(dict(zip(names, values, strict=True)))
    except csv.Error as err:
        raise ValueError(f"{where}, line {lines.line_num}: {err}") from err
    return rows
