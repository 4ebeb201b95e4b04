"""Similarity of prompts against its definition, and the table that shows it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

import softprompt
from softprompt.prompt import SoftPrompt, similarity

RNG = np.random.default_rng(5)


def prompts(*rows: int, width: int = 6) -> list[np.ndarray]:
    return [RNG.normal(size=(n, width)).astype("f4") for n in rows]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 7))
def test_against_the_definition(rows, width):
    arrays = prompts(*rows, width=width)
    wide = [array.astype("f8") for array in arrays]
    average = [[cosine_similarity([a.mean(0)], [b.mean(0)])[0, 0] for b in wide] for a in wide]
    per_token = [[cosine_similarity(a, b).mean() for b in wide] for a in wide]
    # float64 sums of a few terms
    np.testing.assert_allclose(similarity(arrays).values, average, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        similarity(arrays, metric="per_token").values, per_token, rtol=0, atol=1e-12
    )


def test_scale_and_order_of_rows_change_nothing():
    one, two = prompts(4, 3)
    expected = similarity([one, two]).values
    np.testing.assert_allclose(similarity([8 * one[::-1], two / 4]).values, expected, atol=1e-12)
    assert np.array_equal(expected, expected.T)
    np.testing.assert_allclose(np.diag(expected), 1)


def test_zeros_count_as_zero():
    table = similarity({"zeros": np.zeros((2, 3)), "ones": np.ones((2, 3))})
    np.testing.assert_array_equal(table.values, [[0, 0], [0, 1]])


def test_names_and_files(tmp_path):
    one, two = (SoftPrompt(array) for array in prompts(4, 3))
    one.save(tmp_path / "one")
    two.export(tmp_path / "two.npy")
    by_path = similarity([tmp_path / "one", str(tmp_path / "two.npy")])
    assert by_path.names == (str(tmp_path / "one"), str(tmp_path / "two.npy"))
    assert similarity([one, two]).names == ("0", "1")
    named = softprompt.similarity({"a": one, "b": tmp_path / "two.npy"})
    assert named.names == ("a", "b")
    np.testing.assert_array_equal(named.values, by_path.values)
    np.testing.assert_array_equal(np.asarray(named), named.values)
    assert len(named) == 2


def test_the_table():
    table = similarity({"a" * 50: np.eye(2), "<b>": np.eye(2) * [[1.0], [-1.0]]})
    lines = str(table).splitlines()
    assert lines[0].startswith("Cosine similarity of the prompts' average")
    assert lines[1].split() == ["1", "2"]
    assert lines[2].split() == ["1", "..." + "a" * 29, "1.000", "0.000"]
    assert len({len(line) for line in lines[1:]}) == 1
    assert repr(table) == str(table)
    assert "&lt;b&gt;" in table._repr_html_()
    assert table.to_dict()["names"] == ["a" * 50, "<b>"]
    assert table.to_dict()["values"][0][0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([np.ones((2, 3))], ValueError, "prompts: 1, expected at least two"),
        ({}, ValueError, "prompts: 0, expected at least two"),
        (np.ones((2, 3)), TypeError, "prompts: ndarray, expected a list"),
        (SoftPrompt(np.ones((2, 3))), TypeError, "prompts: SoftPrompt, expected a list"),
        ("a folder", TypeError, "prompts: str, expected a list"),
        (5, TypeError, "prompts: int, expected a list"),
        ([np.ones((2, 3)), np.ones((2, 4))], ValueError, r"prompts\['1'\]: width 4, expected 3"),
        ([np.ones((2, 3)), np.ones(3)], ValueError, r"prompts\['1'\]: shape \(3,\)"),
        ([np.ones((2, 3)), np.ones((2, 3), int)], TypeError, r"prompts\['1'\]: dtype int64"),
        ([np.ones((2, 3)), [[np.nan] * 3]], ValueError, r"prompts\['1'\]: row 0, column 0 is nan"),
        (["none/such", "other"], FileNotFoundError, "none/such"),
        (["a", "a"], ValueError, "'a' stands there twice"),
    ],
)
def test_bad_arguments(value, error, message):
    with pytest.raises(error, match=message):
        similarity(value)


def test_bad_metric():
    with pytest.raises(ValueError, match="metric='euclidean': expected one of average, per_token"):
        similarity(prompts(2, 2), metric="euclidean")
