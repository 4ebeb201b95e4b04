"""Beam search: which sequences go on, and which are finished. Numbers in, decisions out.

The rule is that of transformers 5 (`GenerationMixin._beam_search`): scores are sums of
log-probabilities in float32; of the likeliest ``max(2, 1 + end tokens) * num_beams`` continuations
the first `num_beams` that do not end go on, and those that end are finished if they are among the
first `num_beams`; a finished sequence counts its score over length ** length_penalty. Two
departures, where transformers has no rule: equal scores are taken in the order of beam and token,
and a beam that does not exist (the first step has one) is not an entry of score -1e9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BeamOptions", "BeamSearch", "log_softmax"]

UNFINISHED = np.float32(-1e9)
"""What transformers takes for the score of a finished sequence that is not there yet."""


@dataclass(frozen=True)
class BeamOptions:
    """The options of a search, checked.

    Parameters
    ----------
    num_beams : int
        Sequences that are followed; at least 1.
    length_penalty : float
        Exponent of the length that a finished sequence's score is divided by. The score is
        negative: above 0 favours long sequences, below 0 short ones.
    early_stopping : bool or "never"
        When a search with `num_beams` finished sequences ends. True: at once. False: when the best
        running one, with the length it has now, is no better than the worst of them. "never": when
        it could not become better with any length (it takes the longest one where `length_penalty`
        is above 0).

    Raises
    ------
    TypeError, ValueError
        An option of another type or out of its range.
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self) -> None:
        check_positive_int("num_beams", self.num_beams)
        penalty = self.length_penalty
        if isinstance(penalty, bool) or not isinstance(penalty, (int, float, np.number)):
            raise TypeError(f"length_penalty = {penalty!r}: expected a number")
        if not math.isfinite(penalty):
            raise ValueError(f"length_penalty = {penalty!r}: expected a finite number")
        early = self.early_stopping
        if not isinstance(early, (bool, np.bool_)) and not (
            isinstance(early, str) and early == "never"
        ):
            raise ValueError(f'early_stopping = {early!r}: expected False, True or "never"')

    def check_limit(self, limit: int) -> None:
        """Check that scores of sequences of up to `limit` tokens are numbers.

        Raises
        ------
        ValueError
            `limit` to the power `length_penalty` is beyond float32.
        """
        if abs(self.length_penalty) * math.log(limit) > math.log(np.finfo(np.float32).max):
            raise ValueError(
                f"length_penalty = {self.length_penalty}: {limit} tokens to that power are too "
                "many for float32"
            )


def check_positive_int(name: str, value: object) -> None:
    """Raise if an option is not an int of at least 1.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} = {value!r}: expected an int")
    if value < 1:
        raise ValueError(f"{name} = {value}: expected at least 1")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of the last axis.

    Parameters
    ----------
    logits : ndarray of float32, shape (..., vocab_size)

    Returns
    -------
    ndarray of float32, shape (..., vocab_size)
    """
    with np.errstate(invalid="ignore"):  # of infinite logits
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class BeamSearch:
    """The search for the continuations of one input.

    It starts with one running sequence. Each `step` takes log-probabilities for the
    running sequences and answers which of them go on, and how; until `done`.

    Parameters
    ----------
    options : BeamOptions
    limit : int
        Most tokens of a sequence, at least 1; one that reaches it is finished.
    end_ids : collection of int
        Tokens that finish a sequence.
    has_ended : callable (list of int) -> bool, optional
        Whether a sequence without an end token is finished all the same.
    beginning : sequence of int
        Tokens that every sequence begins with; they count as its tokens, and not for its score. If
        they are `limit` tokens the search is done.

    Raises
    ------
    ValueError
        See `BeamOptions.check_limit`.

    References
    ----------
    transformers 5, src/transformers/generation/utils.py, `_beam_search`.
    """

    def __init__(
        self,
        options: BeamOptions,
        *,
        limit: int,
        end_ids: Collection[int] = (),
        has_ended: Callable[[list[int]], bool] | None = None,
        beginning: Sequence[int] = (),
    ) -> None:
        options.check_limit(limit)
        self.options = options
        self.limit = limit
        self.sequences: list[list[int]] = [list(beginning)]
        self.done = len(beginning) >= limit
        self._end_ids = frozenset(end_ids)
        self._has_ended = has_ended
        self._scores = np.zeros(1, np.float32)
        self._finished: list[tuple[np.float32, list[int]]] = []
        if self.done:
            self._finished = [(np.float32(0), list(beginning))] * options.num_beams

    def step(self, log_probs: np.ndarray) -> list[tuple[int, int]]:
        """Take the next token of every running sequence.

        Parameters
        ----------
        log_probs : ndarray of float32, shape (len(sequences), vocab_size)
            After each of `sequences`. NaN counts as minus infinity.

        Returns
        -------
        list of (int, int)
            The sequences that run now: which former one each continues, and its new token; the
            best first, none if the search is done. `sequences` has them in this order.
        """
        num_beams = self.options.num_beams
        continued = []
        scores, parents, tokens = self._best(log_probs, max(2, 1 + len(self._end_ids)) * num_beams)
        for place, score in enumerate(scores):
            parent, token = int(parents[place]), int(tokens[place])
            sequence = [*self.sequences[parent], token]
            if self._ends(sequence):
                if place < num_beams:
                    self._finish(score, sequence)
            elif len(continued) < num_beams:
                continued.append((score, parent, sequence))
        self._finished.sort(key=lambda one: -one[0])
        del self._finished[num_beams:]
        self._scores = np.array([score for score, _, _ in continued], np.float32)
        length = len(self.sequences[0]) + 1
        self.sequences = [sequence for _, _, sequence in continued]
        self.done = not continued or not self._can_improve(length)
        if self.done:
            self.sequences = []
            return []
        return [(parent, sequence[-1]) for _, parent, sequence in continued]

    def best(self, count: int) -> list[list[int]]:
        """Return the finished sequences with the highest scores, best first, at most `count`.

        A sequence that an end token finished has that token as its last.
        """
        return [sequence for _, sequence in self._finished[:count]]

    def best_scores(self, count: int) -> list[float]:
        """Return the scores of `best`: sums of log-probabilities over length ** length_penalty."""
        return [float(score) for score, _ in self._finished[:count]]

    def _best(self, log_probs: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
        """Scores, former sequences and tokens of the best continuations."""
        vocab_size = log_probs.shape[1]
        scores = (log_probs + self._scores[:, None]).ravel()
        scores[np.isnan(scores)] = -np.inf
        count = min(count, len(scores))
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= least)
        places = places[np.argsort(-scores[places], kind="stable")][:count]
        return scores[places], places // vocab_size, places % vocab_size

    def _ends(self, sequence: list[int]) -> bool:
        return (
            len(sequence) == self.limit
            or sequence[-1] in self._end_ids
            or (self._has_ended is not None and self._has_ended(sequence))
        )

    def _finish(self, score: np.float32, sequence: list[int]) -> None:
        self._finished.append((score / self._divisor(len(sequence)), sequence))

    def _divisor(self, length: int) -> np.float32:
        return np.float32(float(length) ** float(self.options.length_penalty))

    def _can_improve(self, length: int) -> bool:
        """Whether a running sequence of this length may still become one of the best."""
        if len(self._finished) < self.options.num_beams:
            return True
        if isinstance(self.options.early_stopping, str):
            if self.options.length_penalty > 0:
                length = self.limit
        elif self.options.early_stopping:
            return False
        return bool(self._scores[0] / self._divisor(length) > self._finished[-1][0])
