"""JSON with bounds: size, nesting, number of values, duplicate keys and numbers that are none."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .mapped_file import open_regular

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
DEFAULT_MAX_DEPTH = 64
DEFAULT_MAX_VALUES = 4_000_000

# Possessive repeats: hostile text costs linear time and no backtracking stack.
_STRING_BODY = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+'
_STRING = re.compile(_STRING_BODY + rb'(?:"|\\?\Z)', re.DOTALL)  # unterminated only at the end
_WHOLE_STRINGS = re.compile(rb'(?:[^"]++|' + _STRING_BODY + rb'")*+', re.DOTALL)
_CHUNK = 256 * 1024


def load_json(
    path: str | os.PathLike[str],
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_depth: int = DEFAULT_MAX_DEPTH,
    max_values: int = DEFAULT_MAX_VALUES,
) -> object:
    """Read a JSON file.

    Parameters
    ----------
    path : str or os.PathLike
        A regular file, UTF-8.
    max_bytes, max_depth, max_values : int
        See `parse_json`.

    Returns
    -------
    object
        dict, list, str, int, float, bool or None.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        See `parse_json`.
    """
    fd, size = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        if size > max_bytes:
            raise ValueError(f"{Path(path)}: {size} bytes of JSON, at most {max_bytes} are read")
        data = file.read(max_bytes + 1)
    return parse_json(
        data, where=str(Path(path)), max_bytes=max_bytes, max_depth=max_depth, max_values=max_values
    )


def parse_json(
    data: bytes,
    *,
    where: str,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_depth: int = DEFAULT_MAX_DEPTH,
    max_values: int = DEFAULT_MAX_VALUES,
) -> object:
    """Parse JSON text within bounds that are checked before anything is built.

    Parameters
    ----------
    data : bytes
        UTF-8, without byte order mark.
    where : str
        What is being parsed, usually a path: the start of every message.
    max_bytes : int
        Longest text accepted.
    max_depth : int
        Deepest nesting of arrays and objects accepted.
    max_values : int
        Most values (array items and object members) accepted. A value takes about 100 bytes of
        memory however short it is in the text.

    Returns
    -------
    object
        dict, list, str, int, float, bool or None.

    Raises
    ------
    ValueError
        If a bound is exceeded, the text is not JSON or not UTF-8, a key occurs twice in an object,
        or a number is not finite (`NaN`, `Infinity`, `1e999`).
    """
    if len(data) > max_bytes:
        raise ValueError(f"{where}: {len(data)} bytes of JSON, at most {max_bytes} are read")
    _check_structure(data, where, max_depth, max_values)

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"the key {_short(twice)} occurs twice in one object")
        return result

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"the number {_short(text)} is not finite")
        return value

    def constant(text: str) -> object:
        raise ValueError(f"{text} is not JSON")

    try:
        text = data.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=members, parse_float=number, parse_constant=constant
        )
    except UnicodeDecodeError as err:
        raise ValueError(f"{where}: not UTF-8 text at byte {err.start}") from err
    except RecursionError as err:
        raise ValueError(f"{where}: JSON nested too deeply") from err
    except ValueError as err:
        raise ValueError(f"{where}: {err}") from err


def _check_structure(data: bytes, where: str, max_depth: int, max_values: int) -> None:
    opened = data.count(b"[") + data.count(b"{")
    if opened <= max_depth and opened + data.count(b",") < max_values:
        return  # Brackets and commas inside strings only make these counts larger.
    values, depth = 1, 0
    for chunk in _chunks(data):
        bare = np.frombuffer(_STRING.sub(b"", chunk), dtype=np.uint8)
        opens = (bare == ord("[")) | (bare == ord("{"))
        closes = (bare == ord("]")) | (bare == ord("}"))
        values += int(np.count_nonzero(opens)) + int(np.count_nonzero(bare == ord(",")))
        if values > max_values:
            raise ValueError(f"{where}: more than {max_values} JSON values")
        steps = opens.astype(np.int8) - closes.astype(np.int8)
        depths = depth + np.cumsum(steps[steps != 0], dtype=np.int64)
        if depths.max(initial=0) > max_depth:
            raise ValueError(f"{where}: JSON nested more than {max_depth} deep")
        depth = int(depths[-1]) if depths.size else depth


def _chunks(data: bytes) -> Iterator[bytes]:
    """Cut at places that are in no string, about every `_CHUNK` bytes."""
    begin, size = 0, _CHUNK
    while begin + size < len(data):
        end = _WHOLE_STRINGS.match(data, begin, begin + size).end()
        if end == begin:  # One string longer than that.
            size *= 2
            continue
        yield data[begin:end]
        begin, size = end, _CHUNK
    yield data[begin:]


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")
