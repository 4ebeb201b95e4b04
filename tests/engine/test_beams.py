"""The rule of beam search, without a model: against all sequences of a small vocabulary, and
decisions that can be followed by hand. (tests/parity compares it with transformers.)
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.model.beams import BeamOptions, BeamSearch, log_softmax


def run(search: BeamSearch, log_probs_of) -> BeamSearch:
    """Drive a search by a function of the sequence; what `step` answers has to be what it says."""
    while not search.done:
        before = search.sequences
        chosen = search.step(np.array([log_probs_of(sequence) for sequence in before], np.float32))
        assert search.sequences == [[*before[parent], token] for parent, token in chosen]
        assert search.done == (not chosen)
    return search


def random_table(seed: int, vocab_size: int, *, spread: float = 1.0):
    """Log-probabilities by the last two tokens."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((vocab_size + 1, vocab_size + 1, vocab_size)) * spread
    table = log_softmax(logits.astype(np.float32))
    return lambda sequence: table[tuple(([-1, -1, *sequence])[-2:])]


def score_of(log_probs_of, sequence: list[int], penalty: float) -> float:
    total = sum(float(log_probs_of(sequence[:i])[token]) for i, token in enumerate(sequence))
    return total / len(sequence) ** penalty


def all_sequences(vocab_size: int, limit: int, ended) -> list[list[int]]:
    """Every sequence that `ended` finishes at its last token and not before, or that is full."""
    found = []
    for length in range(1, limit + 1):
        for sequence in map(list, itertools.product(range(vocab_size), repeat=length)):
            whole = length == limit or ended(sequence)
            if whole and not any(ended(sequence[:i]) for i in range(1, length)):
                found.append(sequence)
    return found


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("ends", [(), (3,), (0, 2)])
def test_with_room_for_all_sequences(ends, penalty, early_stopping):
    """So many beams that nothing is dropped: all sequences, by their scores."""
    for seed in range(4):
        log_probs_of = random_table(seed, 4)
        expected = all_sequences(4, 4, lambda sequence: sequence[-1] in ends)
        expected.sort(key=lambda one: -score_of(log_probs_of, one, penalty))
        options = BeamOptions(len(expected), penalty, early_stopping)
        search = run(BeamSearch(options, limit=4, end_ids=ends), log_probs_of)
        got = search.best(len(expected))
        assert sorted(got) == sorted(expected)
        scores = [score_of(log_probs_of, one, penalty) for one in got]
        # float32 sums of four terms
        np.testing.assert_allclose(search.best_scores(len(got)), scores, rtol=1e-6)
        np.testing.assert_allclose(
            scores, [score_of(log_probs_of, one, penalty) for one in expected], rtol=1e-6
        )


def test_sequences_that_end_by_other_signs():
    def ended(sequence: list[int]) -> bool:
        return sequence[-2:] == [1, 1] or sequence[-1] == 2

    log_probs_of = random_table(5, 3)
    expected = all_sequences(3, 5, ended)
    search = BeamSearch(
        BeamOptions(len(expected)), limit=5, end_ids=[2], has_ended=lambda ids: ids[-2:] == [1, 1]
    )
    assert sorted(run(search, log_probs_of).best(10**6)) == sorted(expected)


@given(
    st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 6), st.integers(1, 7),
    st.sampled_from([False, True, "never"]), st.floats(-2, 2),
    st.sets(st.integers(0, 8), max_size=3),
)  # fmt: skip
def test_what_every_search_keeps(seed, vocab_size, num_beams, limit, early, penalty, ends):
    ends = {end for end in ends if end < vocab_size}
    log_probs_of = random_table(seed, vocab_size, spread=2.0)
    search = BeamSearch(BeamOptions(num_beams, penalty, early), limit=limit, end_ids=ends)
    found = run(search, log_probs_of).best(num_beams)
    scores = search.best_scores(num_beams)
    assert min(num_beams, vocab_size) <= len(found) <= num_beams
    assert len({tuple(one) for one in found}) == len(found)
    assert scores == sorted(scores, reverse=True)
    for one, score in zip(found, scores, strict=True):
        assert one[-1] in ends or len(one) == limit
        assert not ends & set(one[:-1])
        assert math.isclose(score, score_of(log_probs_of, one, penalty), rel_tol=1e-5)
    assert search.best(1) == found[:1]
    assert search.sequences == []


def steps(search: BeamSearch, *rows: list[list[float]]) -> list[list[tuple[int, int]]]:
    with np.errstate(divide="ignore"):
        return [search.step(np.log(np.array(row, np.float32))) for row in rows]


def test_an_end_below_the_first_beams_is_dropped():
    search = BeamSearch(BeamOptions(2), limit=9, end_ids=[3])
    (chosen,) = steps(search, [[0.4, 0.3, 0.1, 0.2]])
    assert chosen == [(0, 0), (0, 1)]
    assert search.best(2) == []
    # Two ends among four: one is in the first two, the other one is not.
    (chosen,) = steps(search, [[0.3, 0.05, 0.05, 0.6], [0.4, 0.0, 0.3, 0.3]])
    assert chosen == [(0, 0), (1, 0)]
    assert search.best(2) == [[0, 3]]


def test_more_end_tokens_more_candidates():
    """Two of three candidates a beam may be ends, and there is still one that goes on."""
    search = BeamSearch(BeamOptions(2, early_stopping="never"), limit=9, end_ids=[0, 1])
    (chosen,) = steps(search, [[0.4, 0.3, 0.2, 0.1]])
    assert chosen == [(0, 2), (0, 3)]
    assert search.best(2) == [[0], [1]]


@pytest.mark.parametrize(
    ("penalty", "best", "done"),
    [
        # Sums: finished 0.2 and 0.1875, running 0.0375.
        (0.0, [[0, 2], [0, 0, 2]], {True: True, False: True, "never": True}),
        # The worst finished one has log(0.135) / 3; log(0.0375) / 3 is below, over 9 it is above.
        (1.0, [[0, 0, 2], [1, 0, 2]], {True: True, False: True, "never": False}),
        # Longer is worse: "never" takes the present length too.
        (-1.0, [[0, 2], [0, 0, 2]], {True: True, False: True, "never": True}),
    ],
)
def test_what_runs_may_become_better(penalty, best, done):
    for early, ends in done.items():
        search = BeamSearch(BeamOptions(2, penalty, early), limit=9, end_ids=[2])
        first = [[0.5, 0.4, 0.1]]
        second = [[0.5, 0.1, 0.4], [0.45, 0.15, 0.4]]
        steps(search, first, second)
        assert search.best(2) == [[0, 2]]  # the other end was the fourth candidate
        steps(search, [[0.1, 0.15, 0.75], [0.1, 0.15, 0.75]])
        assert search.best(2) == best
        assert search.done == ends


@pytest.mark.parametrize("early", [False, True, "never"])
def test_early_stopping_ends_though_better_sequences_run(early):
    search = BeamSearch(BeamOptions(2, 1.0, early), limit=9, end_ids=[2])
    steps(search, [[0.3, 0.3, 0.4]], [[0.9, 0.02, 0.08], [0.05, 0.05, 0.9]])
    assert search.best(2) == [[1, 2], [2]]
    # Running log(0.27) / 2 is above log(0.4) / 1.
    assert search.done == (early is True)


def test_a_penalty_prefers_long_or_short_sequences():
    first, second = [[0.2, 0.35, 0.45]], [[0.05, 0.05, 0.9], [0.1, 0.1, 0.8]]
    for penalty, best in ((0.0, [2]), (2.0, [1, 2]), (-1.0, [2])):
        search = BeamSearch(BeamOptions(2, penalty, "never"), limit=2, end_ids=[2])
        steps(search, first, second)
        assert search.best(1) == [best]


def test_equal_scores_go_by_beam_and_token():
    search = BeamSearch(BeamOptions(3), limit=3)
    flat = np.full(5, -1.0, np.float32)
    assert search.step(flat[None]) == [(0, 0), (0, 1), (0, 2)]
    assert search.step(np.stack([flat] * 3)) == [(0, 0), (0, 1), (0, 2)]
    assert search.step(np.stack([flat] * 3)) == []
    assert search.best(3) == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_none(value):
    """Results of a model with such weights are as useless as they are, but there are some."""
    search = BeamSearch(BeamOptions(3), limit=4, end_ids=[1])
    run(search, lambda sequence: np.full(6, value, np.float32))
    assert len(search.best(3)) == 3
    assert np.isnan(log_softmax(np.full((1, 4), value, np.float32))).all()


def test_log_softmax():
    logits = np.random.default_rng(0).standard_normal((3, 5000)).astype(np.float32) * 8
    exact = logits.astype(np.float64)
    exact -= np.logaddexp.reduce(exact, axis=1, keepdims=True)
    got = log_softmax(logits)
    assert got.dtype == np.float32
    # a sum of 5000 float32 numbers, pairwise, and one rounding of numbers up to 60
    np.testing.assert_allclose(got, exact, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_beams": 0}, ValueError, "num_beams = 0: expected at least 1"),
        ({"num_beams": 2.0}, TypeError, "num_beams = 2.0: expected an int"),
        ({"num_beams": True}, TypeError, "num_beams = True: expected an int"),
        ({"length_penalty": "1"}, TypeError, "length_penalty = '1': expected a number"),
        ({"length_penalty": math.nan}, ValueError, "length_penalty = nan: expected a finite"),
        ({"length_penalty": math.inf}, ValueError, "length_penalty = inf: expected a finite"),
        ({"early_stopping": "always"}, ValueError, "early_stopping = 'always': expected False"),
        ({"early_stopping": None}, ValueError, "early_stopping = None: expected False"),
        ({"early_stopping": 1}, ValueError, "early_stopping = 1: expected False"),
    ],
)
def test_options_that_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        BeamOptions(**options)


@pytest.mark.parametrize("penalty", [60.0, -60.0])
def test_a_penalty_beyond_float32(penalty):
    with pytest.raises(ValueError, match="50 tokens to that power"):
        BeamSearch(BeamOptions(2, penalty), limit=50)
    assert not BeamSearch(BeamOptions(2, penalty), limit=1).done
