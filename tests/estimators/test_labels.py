"""Classes, label texts, demonstrations and splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.estimators.demonstrations import choose_demonstrations, render_demonstrations
from softprompt.estimators.labels import Labels
from softprompt.estimators.splits import split_validation
from softprompt.estimators.template import Template


@pytest.mark.parametrize(
    ("labels", "y", "error", "message"),
    [
        ("positive", [], TypeError, "labels must be a dict of class -> text, a list of texts"),
        (3, [], TypeError, "labels must be a dict"),
        ({}, [], ValueError, "at least two classes, got 0"),
        ({"a": "x"}, [], ValueError, "at least two classes, got 1"),
        ([" x"], [], ValueError, "at least two classes, got 1"),
        (None, ["a", "a"], ValueError, "at least two classes, got 1"),
        ({"a": "x", "b": None}, [], TypeError, r"labels\['b'\] must be a text, got NoneType"),
        ({"a": "x", "b": 3}, [], TypeError, r"labels\['b'\] must be a text, got int"),
        ({"a": "x", "b": ""}, [], ValueError, r"labels\['b'\] must be a text"),
        ({"a": "x", "b": " "}, [], ValueError, r"labels\['b'\] must be a text"),
        ({"a": "x", "b": "x"}, [], ValueError, "classes 'a' and 'b' the same text 'x'"),
        (["x", "y", "x"], [], ValueError, "labels holds 'x' twice"),
        (["x", 3], [], TypeError, r"labels\[1\] must be a text, got int"),
        ({"a": "x", 1: "y"}, [], TypeError, r"classes must be of one kind.*\['int', 'str'\]"),
        ({None: "x", "b": "y"}, [], TypeError, "a class must be a str, an int or a bool"),
        ({("a",): "x", "b": "y"}, [], TypeError, "a class must be .*got tuple"),
        (None, ["a", ["b"]], TypeError, r"y\[1\] must be a str, an int or a bool, got list"),
        (None, ["a", None], TypeError, r"y\[1\] must be .*got NoneType"),
        (None, [1.0, float("nan")], ValueError, r"y\[1\] = nan is missing"),
        (None, [1.0, 0.37], ValueError, r"y\[1\] = 0.37 is a measurement"),
    ],
)
def test_labels_that_cannot_be_are_named(labels, y, error, message):
    with pytest.raises(error, match=message):
        Labels.resolve(labels, y, blank=True)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([0, 1, 2], ValueError, r"y\[2\] = 2 is not a class; labels has \[0, 1\]"),
        ([0, None], ValueError, r"y\[1\] = None is not a class"),
        ([0, np.nan], ValueError, r"y\[1\] = nan is not a class"),
        ([0, "1"], ValueError, r"y\[1\] = '1' is not a class"),
        ([0, [1]], ValueError, r"y\[1\] = \[1\] is not a class"),
        (np.zeros((2, 2)), ValueError, r"y must have one dimension, got the shape \(2, 2\)"),
        ("01", TypeError, "y must hold one value a row, got str"),
        (None, TypeError, "y must hold one value a row, got NoneType"),
        (5, TypeError, "y must hold one value a row, got int"),
    ],
)
def test_values_that_are_no_class_are_named(y, error, message):
    with pytest.raises(error, match=message):
        Labels({0: "-", 1: "+"}).encode(y)


def test_numbers_for_a_list_of_texts_get_a_hint():
    with pytest.raises(ValueError, match=r"pass labels as a dict, \{0: text, 1: text\}"):
        Labels.resolve([" no", " yes"], [], blank=True).encode([0])


def test_labels_that_the_model_cannot_tell_apart_are_named():
    labels = Labels({0: "Yes", 1: "yes"})
    with pytest.raises(ValueError, match="'Yes' and 'yes' are the same tokens"):
        labels.encode_texts(lambda text: [ord(c) for c in text.lower()], length_normalize=False)
    with pytest.raises(ValueError, match="'Yes' gives no tokens"):
        labels.encode_texts(lambda text: [], length_normalize=False)


def test_a_label_that_begins_another_is_named_where_it_matters():
    labels = Labels({0: "no", 1: "not sure"})
    encode = str.encode
    with pytest.raises(ValueError, match="class 1 would never be predicted"):
        labels.encode_texts(lambda text: list(encode(text)), length_normalize=False)
    assert len(labels.encode_texts(lambda text: list(encode(text)), length_normalize=True)) == 2


def test_a_common_first_token_is_no_problem():
    labels = Labels({0: "not good", 1: "not bad"})
    assert len(labels.encode_texts(lambda text: list(text.encode()), length_normalize=False)) == 2


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 60), st.integers(0, 9))
def test_demonstrations_are_balanced(classes, count, seed):
    classes = np.array(classes)
    count = min(count, len(classes))
    chosen = choose_demonstrations(classes, count, np.random.default_rng(seed))
    assert len(set(chosen)) == len(chosen) == count
    shown = np.bincount(classes[chosen], minlength=5)
    there = np.bincount(classes, minlength=5)
    for value in range(5):
        if shown[value] < there[value]:
            assert shown.max() <= shown[value] + 1


def test_more_demonstrations_than_rows_are_refused():
    with pytest.raises(ValueError, match="examples=3 demonstrations need as many rows, got 2"):
        choose_demonstrations(np.array([0, 1]), 3, np.random.default_rng(0))


def test_demonstrations_are_filled_templates_with_answers():
    rows = [{"a": "x"}, {"a": "y"}]
    assert render_demonstrations(Template("{a}:"), rows, [" 1", " 2"]) == "x: 1\n\ny: 2\n\n"
    assert render_demonstrations(Template("{a}:"), [], []) == ""


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.floats(0, 0.99),
    st.integers(0, 9),
)
def test_splits_are_stratified_partitions(classes, fraction, seed):
    classes = np.array(classes)
    training, held_out = split_validation(classes, fraction, np.random.default_rng(seed))
    assert sorted([*training, *held_out]) == list(range(len(classes)))
    for value in set(classes.tolist()):
        count = int((classes == value).sum())
        aside = int((classes[held_out] == value).sum())
        assert aside < count
        assert abs(aside - count * fraction) <= 1
    if fraction == 0:
        assert not len(held_out)
