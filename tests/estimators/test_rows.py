"""Every form in which users hold rows becomes the same fields; what is no text is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.estimators.rows import collect_rows, collect_values
from softprompt.estimators.template import Template

ONE, TWO = Template("Q: {text}"), Template("{a} and {b}")


def _dataset(rows):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    return datasets.Dataset.from_list(rows)


TEXTS = ["one", "two", "three"]
DICTS = [{"text": text, "label": 1} for text in TEXTS]


@pytest.mark.parametrize(
    "X",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        np.array(TEXTS, object)[:, None],
        DICTS,
        np.array(DICTS, object),
        pd.Series(TEXTS, index=[7, 7, 2]),
        pd.DataFrame(DICTS, index=[3, 1, 2]),
        pd.DataFrame(DICTS).iloc[::-1].iloc[::-1],
        {"text": TEXTS, "label": [1, 2, 3]},
    ],
    ids=lambda X: type(X).__name__,
)
def test_one_field(X):
    assert collect_rows(X, ONE) == [{"text": text} for text in TEXTS]


def test_datasets():
    data = _dataset(DICTS)
    assert collect_rows(data, ONE) == [{"text": text} for text in TEXTS]
    assert collect_rows(data["text"], ONE) == [{"text": text} for text in TEXTS]
    assert collect_rows(data[:2], ONE) == [{"text": text} for text in TEXTS[:2]]
    assert collect_values(data["label"], name="y") == [1, 1, 1]


def test_several_fields_and_numbers():
    rows = [{"a": 1, "b": True, "c": object()}, {"a": 2.5, "b": np.int64(3)}]
    assert collect_rows(rows, TWO) == [{"a": "1", "b": "True"}, {"a": "2.5", "b": "3"}]


def test_texts_are_not_changed():
    odd = ["", " a ", "{b}", "{{", "\n", "naïve 😀", "a\x00b"]
    rows = [{"a": text, "b": "-"} for text in odd]
    assert [row["a"] for row in collect_rows(rows, TWO)] == odd


@pytest.mark.parametrize(
    ("X", "template", "error", "message"),
    [
        ("one text", ONE, TypeError, r"X is one text; pass a list of texts: \['one text'\]"),
        (b"bytes", ONE, TypeError, "X is one text"),
        (None, ONE, TypeError, "X must be a list of str or dict, .*; got NoneType"),
        (3, ONE, TypeError, "got int"),
        ((text for text in TEXTS), ONE, TypeError, "got generator"),
        (np.array("x"), ONE, TypeError, "got ndarray"),
        (np.zeros((3, 2)), ONE, ValueError, r"shape \(3, 2\)"),
        (["a", 3], ONE, TypeError, r"X\[1\] is int 3; expected a str or a dict with 'text'"),
        (["a", b"b"], ONE, TypeError, r"X\[1\] is bytes b'b'"),
        (["a", ("b",)], ONE, TypeError, r"X\[1\] is tuple"),
        (["a", None], ONE, ValueError, r"X\[1\] is missing \(None\)"),
        (["a", float("nan")], ONE, ValueError, r"X\[1\] is missing \(nan\)"),
        (pd.Series(["a", None]), ONE, ValueError, r"X\[1\] is missing"),
        (pd.Series(["a", pd.NA], dtype="string"), ONE, ValueError, r"X\[1\] is missing"),
        (pd.DataFrame({"text": ["a", None]}), ONE, ValueError, r"X\[1\]\['text'\] is missing"),
        (["a"], TWO, ValueError, r"X\[0\] is a text, and the template has 2 fields \('a', 'b'\)"),
        (
            [{"a": "x", "b": "y"}, {"a": "x", "c": "y"}],
            TWO,
            ValueError,
            r"X\[1\] has no field 'b', which the template names; its fields are 'a', 'c'",
        ),
        ([{}], ONE, ValueError, "its fields are none"),
        (pd.DataFrame({"a": ["x"]}), TWO, ValueError, "X has no column 'b'.*are 'a'"),
        ({"text": ["a"], "b": 1}, TWO, ValueError, "X has no column 'a'"),
        ({"text": "a"}, ONE, TypeError, r"X\['text'\] is str; pass a list of dicts"),
        ({"a": ["x"], "b": ["y", "z"]}, TWO, ValueError, "different lengths: {'a': 1, 'b': 2}"),
        ([{"text": ["a"]}], ONE, TypeError, r"X\[0\]\['text'\] must be a text, got list"),
        ([{"text": None}], ONE, ValueError, r"X\[0\]\['text'\] is missing"),
        (["a\ud800b"], ONE, ValueError, r"X\[0\]\['text'\] holds '\\ud800' at character 1"),
    ],
)
def test_what_is_no_row_is_named(X, template, error, message):
    with pytest.raises(error, match=message):
        collect_rows(X, template)


def test_a_data_set_reads_only_the_fields_of_the_template():
    data = _dataset(DICTS)
    with pytest.raises(ValueError, match=r"X has no column 'a'.*are 'text', 'label'"):
        collect_rows(data, Template("{a}"))


# ---- templates ----


@pytest.mark.parametrize(
    ("text", "row", "filled"),
    [
        ("Review: {s}\nSentiment:", {"s": "fine"}, "Review: fine\nSentiment:"),
        ("{a}{b}{a}", {"a": "1", "b": "2"}, "121"),
        ("{{{a}}}", {"a": "x"}, "{x}"),
        ("{a} {{json: 1}}", {"a": "{b}"}, "{b} {json: 1}"),
        ("{größe}", {"größe": "1"}, "1"),
    ],
)
def test_templates(text, row, filled):
    assert Template(text).fill(row) == filled


@given(st.text(), st.text())
def test_what_is_escaped_comes_out_as_it_was(literal, value):
    escaped = literal.replace("{", "{{").replace("}", "}}")
    assert Template(escaped + "{x}").fill({"x": value}) == literal + value


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, TypeError, "template must be a str, got NoneType"),
        ("Review:", ValueError, "has no field"),
        ("", ValueError, "has no field"),
        ("{{a}}", ValueError, "has no field"),
        ("{a", ValueError, "expected '}'"),
        ("a}", ValueError, "Single '}'"),
        ("{}", ValueError, "'{}' is not a field"),
        ("{0}", ValueError, "'{0}' is not a field"),
        ("{a.b}", ValueError, "'{a.b}' is not a field"),
        ("{a[0]}", ValueError, r"'{a\[0\]}' is not a field"),
        ("{a!r}", ValueError, "'{a!r}' is not a field"),
        ("{a:>10}", ValueError, "'{a:>10}' is not a field"),
        ("{a:{b}}", ValueError, "is not a field"),
        ("{a b}", ValueError, "is not a field"),
    ],
)
def test_what_is_no_template_is_named(text, error, message):
    with pytest.raises(error, match=message):
        Template(text)
