"""What users have, lists, data frames and data sets, as one list of ``{field: text}``."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from softprompt.estimators.template import Template

_ACCEPTED = (
    "a list of str or dict, a pandas DataFrame or Series, a datasets.Dataset, or a NumPy array "
    "of texts"
)


def collect_rows(X: Any, template: Template, *, name: str = "X") -> list[dict[str, str]]:
    """Return the fields of `template` for every row of `X`.

    Parameters
    ----------
    X : list of str or dict, DataFrame, Series, datasets.Dataset, dict of columns, or ndarray
        A str is the value of the template's only field. An array has the shape ``[n]`` or
        ``[n, 1]``. A dict of columns is what slicing a ``datasets.Dataset`` returns. Values are
        texts; numbers are written with `str`.
    template : Template
    name : str, default "X"
        What messages call `X`.

    Returns
    -------
    list of dict

    Raises
    ------
    TypeError
        If `X`, a row or a value has a type that is no text.
    ValueError
        If a row lacks a field, or a value is missing or not encodable.
    """
    rows = []
    for number, row in enumerate(_iterate(X, template, name)):
        where = f"{name}[{number}]"
        if isinstance(row, str):
            if len(template.fields) > 1:
                raise ValueError(
                    f"{where} is a text, and the template has {len(template.fields)} fields "
                    f"({_names(template.fields)}); pass a dict with these keys"
                )
            row = {template.fields[0]: row}
        elif not isinstance(row, Mapping):
            expected = f"a str or a dict with {_names(template.fields)}"
            if _is_missing(row):
                raise ValueError(f"{where} is missing ({row!r}); expected {expected}")
            raise TypeError(f"{where} is {type(row).__name__} {_short(row)}; expected {expected}")
        rows.append({field: _text(row, field, where) for field in template.fields})
    return rows


def collect_texts(values: Any, *, name: str) -> list[str]:
    """Return a one-dimensional collection of texts as a list of str, with the checks of rows."""
    return [row["text"] for row in collect_rows(values, Template("{text}"), name=name)]


def collect_values(values: Any, *, name: str) -> list[Any]:
    """Return the entries of a list, array, Series or column, as they are."""
    if values is None or isinstance(values, (str, bytes, Mapping)) or not _is_iterable(values):
        raise TypeError(f"{name} must hold one value a row, got {type(values).__name__}")
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) == 2 and shape[1] == 1:
        values = np.asarray(values)[:, 0]
    elif shape is not None and len(shape) != 1:
        raise ValueError(f"{name} must have one dimension, got the shape {tuple(shape)}")
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def check_same_length(num_rows: int, values: Sequence[Any], *, rows: str, name: str) -> None:
    """Raise ValueError unless there is one value a row."""
    if len(values) != num_rows:
        raise ValueError(
            f"{rows} has {num_rows} rows and {name} {len(values)} values; there must be one a row"
        )


def _iterate(X: Any, template: Template, name: str) -> Iterable[Any]:
    if isinstance(X, (str, bytes)):
        raise TypeError(f"{name} is one text; pass a list of texts: [{_short(X)}]")
    if isinstance(X, Mapping):
        return _rows_of_columns(X, template, name)
    columns = getattr(X, "columns", None)
    if columns is not None and hasattr(X, "to_dict"):
        return _rows_of_columns({str(key): X[key] for key in columns}, template, name)
    if hasattr(X, "column_names") and hasattr(X, "select_columns"):
        # A data set decodes what is read (images, audio): read only what the template uses.
        _check_columns(X.column_names, template, name)
        return X.select_columns(list(template.fields))
    if not _is_iterable(X) or not hasattr(X, "__len__"):
        raise TypeError(f"{name} must be {_ACCEPTED}; got {type(X).__name__}")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) == 2 and shape[1] == 1:
        return [row[0] for row in X]
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"{name} has the shape {tuple(shape)}; an array of texts has the shape [n] or [n, 1]. "
            "For several fields pass dicts or a DataFrame"
        )
    return X


def _rows_of_columns(columns: Mapping[str, Any], template: Template, name: str) -> Iterable[Any]:
    """Rows of what is stored by columns, made of the template's fields only."""
    _check_columns(columns, template, name)
    chosen = {field: columns[field] for field in template.fields}
    for field, column in chosen.items():
        if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
            raise TypeError(
                f"{name} is a dict, read as columns, but {name}[{field!r}] is "
                f"{type(column).__name__}; pass a list of dicts for single rows"
            )
    lengths = {field: len(column) for field, column in chosen.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name} has columns of different lengths: {lengths}")
    return (dict(zip(chosen, values, strict=True)) for values in zip(*chosen.values(), strict=True))


def _check_columns(columns: Collection[str], template: Template, name: str) -> None:
    for field in template.fields:
        if field not in columns:
            raise ValueError(
                f"{name} has no column {field!r}, which the template names; its columns are "
                f"{_names(columns)}"
            )


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise ValueError(
            f"{where} has no field {field!r}, which the template names; its fields are "
            f"{_names(row)}"
        )
    value = row[field]
    where = f"{where}[{field!r}]"
    if _is_missing(value):
        raise ValueError(f"{where} is missing ({value!r}); fill or drop the row")
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"{where} must be a text, got {type(value).__name__} {_short(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as err:
            raise ValueError(
                f"{where} holds {value[err.start]!r} at character {err.start}, half of a "
                "surrogate pair, which no text file can hold"
            ) from err
    return str(value)


def _is_missing(value: Any) -> bool:
    # pandas' NA and NaT are told by their type's name, so that pandas need not be imported.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def _is_iterable(X: Any) -> bool:
    # Every array has the method, but one without dimensions cannot be iterated over.
    return hasattr(X, "__iter__") and getattr(X, "shape", None) != ()


def _names(names: Iterable[Any]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
