import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from softprompt.prompt import SoftPrompt, neighbors

# The package's name for the module is the function.
neighbors_module = importlib.import_module("softprompt.prompt.neighbors")
RNG = np.random.default_rng(21)


class Rows:
    """Embeddings as a model has them: rows when asked, never the whole table by accident."""

    def __init__(self, table):
        self.table = table
        self.largest = 0

    def __getitem__(self, index):
        rows = self.table[index]
        self.largest = max(self.largest, len(rows))
        return rows

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the whole table was asked for")


class Tokenizer:
    TOKENS = (" great", "\n", "\u2581good", "<s>", "\ufffd", "語", "x" * 60)

    def decode(self, ids, skip_special_tokens=True):
        (token_id,) = ids
        assert not skip_special_tokens
        if token_id == 4:
            return "\ufffd"
        return self.TOKENS[token_id % 7].replace("\u2581", "")

    def id_to_token(self, token_id):
        return "<0xE8>" if token_id == 4 else self.TOKENS[token_id % 7]


def a_model(table, tokenizer=None):
    table = np.asarray(table, dtype="f4")
    config = SimpleNamespace(vocab_size=table.shape[0], hidden_size=table.shape[1])
    return SimpleNamespace(config=config, embeddings=Rows(table), tokenizer=tokenizer)


def ids_and_values(rows, metric):
    near = [getattr(row, metric) for row in rows]
    return [[n.token_id for n in row] for row in near], [[n.value for n in row] for row in near]


@pytest.mark.parametrize("block", [64, 2**21])
@pytest.mark.parametrize("k", [1, 5, 97])
def test_against_scikit_learn(monkeypatch, block, k):
    monkeypatch.setattr(neighbors_module, "_BLOCK_VALUES", block)
    table = RNG.normal(size=(97, 8)).astype("f4")
    prompt = SoftPrompt(RNG.normal(size=(6, 8)))
    rows = neighbors(prompt, a_model(table), k=k).rows
    wide, prompt_wide = table.astype("f8"), prompt.embeddings.astype("f8")
    similarity, distance = (
        cosine_similarity(prompt_wide, wide),
        euclidean_distances(prompt_wide, wide),
    )
    ids, values = ids_and_values(rows, "cosine")
    assert ids == np.argsort(-similarity, axis=1, kind="stable")[:, :k].tolist()
    # Both sides are float64 sums of 8 terms.
    np.testing.assert_allclose(values, -np.sort(-similarity, axis=1)[:, :k], rtol=0, atol=1e-12)
    ids, values = ids_and_values(rows, "euclidean")
    assert ids == np.argsort(distance, axis=1, kind="stable")[:, :k].tolist()
    np.testing.assert_allclose(values, np.sort(distance, axis=1)[:, :k], rtol=0, atol=1e-7)
    np.testing.assert_allclose([r.norm for r in rows], np.linalg.norm(prompt_wide, axis=1))


@settings(max_examples=60)
@given(st.data())
def test_ties_go_to_the_lower_id(data):
    """Tables of few different rows, cut into blocks anywhere, against a plain sort."""
    kinds = RNG.normal(size=(3, 5)).astype("f4")
    kinds[2] = 0
    which = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=40))
    table = kinds[which]
    k = data.draw(st.integers(1, len(table)))
    prompt = np.concatenate([kinds, RNG.normal(size=(1, 5))]).astype("f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors_module, "_BLOCK_VALUES", 5 * data.draw(st.integers(1, 12)))
        rows = neighbors(prompt, a_model(table), k=k).rows
    for row, vector in zip(rows, prompt.astype("f8"), strict=True):
        norms = [np.linalg.norm(kind.astype("f8")) * np.linalg.norm(vector) for kind in kinds]
        cosine = [
            kind @ vector / norm if norm else 0.0 for kind, norm in zip(kinds, norms, strict=True)
        ]
        distance = [np.linalg.norm(kind.astype("f8") - vector) for kind in kinds]
        keys = {
            "cosine": [-round(x, 9) for x in cosine],
            "euclidean": [round(x, 9) for x in distance],
        }
        for metric, of_kind in keys.items():
            expected = sorted((of_kind[kind], token) for token, kind in enumerate(which))[:k]
            assert [n.token_id for n in getattr(row, metric)] == [token for _, token in expected]


def test_exact_copies_have_distance_zero_and_similarity_one():
    table = RNG.normal(size=(50, 16)).astype("f4") * 100
    rows = neighbors(table[7:9], a_model(table), k=1).rows
    assert [(r.euclidean[0].token_id, r.euclidean[0].value) for r in rows] == [(7, 0.0), (8, 0.0)]
    assert all(r.cosine[0].value <= 1 for r in rows)
    # float64 rounding of a sum of 16 products and two roots.
    assert all(r.cosine[0].value > 1 - 1e-12 for r in rows)


def test_rows_of_zeros():
    table = [[0, 0], [1, 0], [-1, 0], [0, 1]]
    zero, one = neighbors(np.array([[0.0, 0.0], [1.0, 0.0]]), a_model(table), k=4).rows
    assert [(n.token_id, n.value) for n in zero.cosine] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert [(n.token_id, n.value) for n in one.cosine] == [(1, 1), (0, 0), (3, 0), (2, -1)]
    assert [n.token_id for n in zero.euclidean] == [0, 1, 2, 3]
    assert not any(str(n.value).startswith("-0") for n in zero.cosine + one.cosine)


def test_the_table_is_read_in_blocks(monkeypatch):
    monkeypatch.setattr(neighbors_module, "_BLOCK_VALUES", 80)
    model = a_model(RNG.normal(size=(100, 8)))
    neighbors(np.ones((1, 8)), model, k=3)
    assert model.embeddings.largest == 10


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0: expected 1 to 9, the size of the vocabulary"),
        ({"k": 10}, ValueError, "k=10: expected 1 to 9"),
        ({"k": -1}, ValueError, "k=-1"),
        ({"k": 2.0}, TypeError, r"k=2\.0: expected an integer"),
        ({"k": True}, TypeError, "k=True"),
        ({"metric": "manhattan"}, ValueError, "metric='manhattan': expected 'cosine'"),
        ({"prompt": np.ones((2, 5))}, ValueError, "expected rows of 4 values"),
        ({"prompt": np.full((2, 4), np.nan)}, ValueError, "row 0, column 0 is nan"),
        ({"prompt": np.ones((2, 4), int)}, TypeError, "int64"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"prompt": np.ones((2, 4)), "model": a_model(np.ones((9, 4))), **change}
    with pytest.raises(error, match=message):
        neighbors(**arguments)


def test_numpy_integers_are_integers():
    assert neighbors(np.ones((1, 2)), a_model(np.ones((3, 2))), k=np.int32(2)).k == 2


def test_as_data():
    model = a_model(np.eye(7), Tokenizer())
    table = neighbors(np.eye(7)[:2] * 2, model, k=1)
    assert len(table) == 2
    data = table.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert (data["k"], data["metric"]) == (1, "both")
    assert "do not explain" in data["note"]
    assert data["rows"][1] == {
        "row": 1,
        "norm": 2.0,
        "cosine": [{"token_id": 1, "token": "\n", "similarity": 1.0}],
        "euclidean": [{"token_id": 1, "token": "\n", "distance": 1.0}],
    }
    only = neighbors(np.eye(7)[:1], model, k=1, metric="cosine").to_dict()
    assert set(only["rows"][0]) == {"row", "norm", "cosine"}


def test_as_text():
    text = str(neighbors(np.eye(7)[:7] * 2, a_model(np.eye(7), Tokenizer()), k=1))
    assert repr(neighbors(np.eye(7)[:7] * 2, a_model(np.eye(7), Tokenizer()), k=1)) == text
    lines = text.splitlines()
    assert lines[0] == "Nearest tokens by cosine similarity"
    assert lines[1].split() == ["row", "norm", "1"]
    assert "' great' 1" in lines[2]
    assert r"'\n' 1" in lines[3]
    assert "' good' 1" in lines[4]  # The space that decoding drops.
    assert "'<s>' 1" in lines[5]
    assert "'<0xE8>' 1" in lines[6]  # Part of a character.
    assert "'語' 1" in lines[7]
    assert "'xxxxxxxxxxxxxxxxxxxxx...' 1" in lines[8]
    assert "Nearest tokens by Euclidean distance" in lines
    assert lines[-1].startswith("Neighbours describe where a row lies; they do not explain")


def test_columns_are_aligned_under_wide_characters():
    table = np.eye(7)[[5, 0, 1]]
    text = str(neighbors(table, a_model(np.eye(7), Tokenizer()), k=2, metric="cosine"))
    first, second = text.splitlines()[2:4]
    # The wide character takes two columns of a terminal.
    assert first.index("' great'") + 1 == second.index("'\\n'")


def test_as_html():
    class Hostile:
        def decode(self, ids, skip_special_tokens=True):
            return "<script>&"

    html = neighbors(np.eye(3), a_model(np.eye(3), Hostile()), k=1)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;&amp;" in html
    assert html.count("<table>") == html.count("</table>") == 2
    assert "do not explain" in html


@pytest.mark.parametrize("error", [TypeError, IndexError, ValueError])
def test_without_a_usable_tokenizer_ids_are_shown(error):
    class Broken:
        def decode(self, ids):
            raise error

    for tokenizer in (None, Broken()):
        table = neighbors(np.eye(3)[2:], a_model(np.eye(3), tokenizer), k=1, metric="euclidean")
        assert table.rows[0].euclidean[0].token is None
        assert table.to_dict()["rows"][0]["euclidean"][0] == {
            "token_id": 2,
            "token": None,
            "distance": 0.0,
        }
        assert str(table).splitlines()[2].split() == ["0", "1", "2", "0"]
