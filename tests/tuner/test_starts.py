"""Starts of a prompt, on a small table of embeddings and a tokenizer of words."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.prompt import SoftPrompt
from softprompt.tuner.starts import TextStart, common_tokens, embedding_statistics, make_start

WORDS = ["<s>", "</s>", "<0x0A>", "<unused7>", "[PAD]", " ", "\n", "\N{REPLACEMENT CHARACTER}"]
WORDS += ["spam", "ham", "yes", "no", "<", "]", "maybe", "later"]
TEXT = np.arange(8, 16)


class Table:
    """Embeddings that, like a model's, give rows only and refuse to become one big array."""

    def __init__(self, rows):
        self.rows = rows
        self.largest_block = 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, ids):
        assert isinstance(ids, np.ndarray)
        assert ids.dtype.kind in "iu"
        self.largest_block = max(self.largest_block, len(ids))
        return self.rows[ids]

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the whole table was asked for")


class Words:
    vocab_size = len(WORDS)

    def encode(self, text, add_special_tokens=True):
        ids = [WORDS.index(word) for word in text.split()]
        return [0, *ids] if add_special_tokens else ids

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(WORDS[i] for i in ids if not (skip_special_tokens and i in (0, 1)))

    def id_to_token(self, token):
        return WORDS[token]


def make_model(vocab_size=20, hidden_size=6, tokenizer=True):
    rows = np.random.default_rng(3).normal(0.5, 0.1, (vocab_size, hidden_size))
    config = SimpleNamespace(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_positions=64,
        bos_token_id=0,
        eos_token_ids=(1,),
        pad_token_id=None,
        family="llama",
    )
    return SimpleNamespace(
        embeddings=Table(rows.astype(np.float32)),
        tokenizer=Words() if tokenizer else None,
        config=config,
        fingerprint="0" * 64,
    )


def start(init, rows=4, model=None, seed=0, labels=None):
    model = model or make_model()
    rng = np.random.default_rng(seed)
    result = make_start(init, num_virtual_tokens=rows, model=model, labels=labels, rng=rng)
    assert result.dtype == np.float32
    assert result.shape == (rows, model.config.hidden_size)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    return result


def rows_of(prompt, model):
    """Return the token of each row of `prompt`."""
    return [int(np.flatnonzero((model.embeddings.rows == row).all(axis=1))[0]) for row in prompt]


def test_common_tokens_are_text():
    np.testing.assert_array_equal(common_tokens(make_model()), TEXT)
    np.testing.assert_array_equal(common_tokens(make_model(), 3), TEXT[:3])
    # Without a tokenizer: all but the special ones.
    np.testing.assert_array_equal(common_tokens(make_model(tokenizer=False)), np.arange(2, 20))
    # A tokenizer that knows no text at all.
    model = make_model()
    model.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "")
    np.testing.assert_array_equal(common_tokens(model), np.arange(2, 20))


def test_population_of_5000():
    assert common_tokens(make_model(vocab_size=9000, tokenizer=False))[-1] == 5001


@given(rows=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_vocabulary_without_repetition(rows, seed):
    model = make_model()
    tokens = rows_of(start("vocabulary", rows, model, seed), model)
    assert len(set(tokens)) == rows
    assert set(tokens) <= set(TEXT.tolist())


def test_vocabulary_with_repetition_where_there_are_too_few():
    model = make_model()
    assert set(rows_of(start("vocabulary", 60, model), model)) <= set(TEXT.tolist())


def test_labels_then_vocabulary():
    model = make_model()
    prompt = start("labels", 4, model, labels=[[8], [9, 10, 9]])
    table = model.embeddings.rows.astype(np.float64)
    np.testing.assert_array_equal(prompt[0], model.embeddings.rows[8])
    # One rounding to float32.
    np.testing.assert_allclose(prompt[1], (2 * table[9] + table[10]) / 3, rtol=1e-7)
    np.testing.assert_array_equal(prompt[2:], start("vocabulary", 4, model)[2:])


def test_more_labels_than_rows():
    model = make_model()
    with pytest.warns(UserWarning, match="first 2 of 3 labels"):
        prompt = start("labels", 2, model, labels=[[8], [9], [10]])
    assert rows_of(prompt, model) == [8, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start("labels", 3, model, labels=[[8], [9], [10]])


def test_text_is_repeated_or_cut_without_special_tokens():
    model = make_model()
    assert rows_of(start(TextStart("spam ham no"), 5, model), model) == [8, 9, 11, 8, 9]
    assert rows_of(start(TextStart("spam ham no"), 2, model), model) == [8, 9]


def test_random_has_the_embeddings_scale():
    model = make_model(vocab_size=9000, tokenizer=False)
    table = model.embeddings.rows * np.float32([1, 1, 1, 1, 1, 5]) + np.float32([0, 9, 0, 0, 0, 0])
    model.embeddings = Table(table)
    model.config.max_positions = 4000
    prompt = start("random", 4000, model)
    # Of 4,000 draws: 5 standard errors of the mean are 0.08 sd, of the sd 0.06 sd.
    deviation = table.std(axis=0)
    assert (np.abs(prompt.mean(axis=0) - table.mean(axis=0)) < 0.08 * deviation).all()
    assert (np.abs(prompt.std(axis=0) - deviation) < 0.06 * deviation).all()
    assert model.embeddings.largest_block < 9000


def test_statistics_in_blocks():
    rows = np.random.default_rng(1).normal(3, 0.01, (9001, 5)).astype(np.float32)
    mean, std = embedding_statistics(Table(rows))
    # float64 sums in another order; the variance is a difference of numbers 1e5 times larger.
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, rows.std(axis=0, dtype=np.float64), rtol=1e-7)
    assert (embedding_statistics(Table(np.ones((3, 2), np.float32)))[1] == 0).all()


@pytest.mark.parametrize("init", ["labels", "vocabulary", "random"])
def test_only_the_generator_decides(init):
    labels = [[8]]
    state = np.random.get_state()[1].copy()
    first, again, other = (start(init, labels=labels, seed=seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert (np.random.get_state()[1] == state).all()


def test_array_and_prompt_and_file(tmp_path):
    array = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    prompt = SoftPrompt(array)
    prompt.save(tmp_path / "saved")
    for init in (array, array.astype(np.float64), array.tolist(), prompt, tmp_path / "saved"):
        result = start(init)
        assert (result == array).all()
        assert not np.shares_memory(result, array)


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("label", ValueError, "init='label'.*'labels', 'vocabulary', 'random'.*TextStart"),
        ("labels", ValueError, "needs class labels.*'vocabulary'"),
        (None, TypeError, "init.*None"),
        ({"text": "spam"}, TypeError, "init.*spam"),
        (TextStart(""), ValueError, "TextStart.*at least one token"),
        (np.zeros((3, 6)), ValueError, "3 rows.*num_virtual_tokens=4"),
        (SoftPrompt(np.zeros((5, 6))), ValueError, "5 rows.*num_virtual_tokens=4"),
        (np.zeros((4, 5)), ValueError, "init.*5"),
        (np.zeros(6), ValueError, "init"),
        (np.full((4, 6), np.nan), ValueError, "init.*NaN|init.*nan"),
        (np.zeros((4, 6), int), TypeError, "init.*int64"),
        (SoftPrompt(np.zeros((4, 5))), ValueError, "5"),
    ],
)
def test_bad_init(init, error, message):
    with pytest.raises(error, match=message):
        start(init)


def test_missing_file(tmp_path):
    with pytest.raises(OSError, match="nothing"):
        start(tmp_path / "nothing")


@pytest.mark.parametrize("ids", [[], [20], [-1], [2**40], [2**70], [0.5], 3])
def test_bad_labels(ids):
    with pytest.raises(ValueError, match="label 1"):
        start("labels", labels=[[8], ids])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_virtual_tokens": 0}, ValueError, "num_virtual_tokens.*0"),
        ({"num_virtual_tokens": -3}, ValueError, "num_virtual_tokens.*-3"),
        ({"num_virtual_tokens": 10**12}, ValueError, "num_virtual_tokens.*<= 64.*1000000000000"),
        ({"num_virtual_tokens": 2.0}, TypeError, "num_virtual_tokens.*2.0"),
        ({"rng": 0}, TypeError, "rng.*Generator.*0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    valid = {"num_virtual_tokens": 4, "model": make_model(), "rng": np.random.default_rng(0)}
    with pytest.raises(error, match=message):
        make_start("random", **(valid | arguments))


def test_text_needs_a_tokenizer_and_a_str():
    with pytest.raises(ValueError, match="tokenizer"):
        start(TextStart("spam"), model=make_model(tokenizer=False))
    with pytest.raises(TypeError, match="3"):
        TextStart(3)
