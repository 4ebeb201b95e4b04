"""Scores of generated texts: one number a row, between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Metric = str | Callable[[Sequence[str], Sequence[str]], float]


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return 1.0 where a prediction is its reference, apart from white space around it.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    pairs = zip(predictions, references, strict=True)
    return np.array([float(mine.strip() == its.strip()) for mine, its in pairs])


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return the F-measure of the longest common subsequence of words, without stemming.

    Computed by the package ``rouge-score`` (extra ``text``).

    Returns
    -------
    ndarray of shape (n,), float64

    Raises
    ------
    ImportError
        If the package is not installed.

    References
    ----------
    Lin 2004, "ROUGE: a package for automatic evaluation of summaries", section 3.1.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as err:
        raise ImportError(
            "metric='rougeL' needs the package rouge-score: pip install 'softprompt[text]'"
        ) from err
    scorer = RougeScorer(["rougeL"])
    pairs = zip(predictions, references, strict=True)
    return np.array([scorer.score(its, mine)["rougeL"].fmeasure for mine, its in pairs])


METRICS = {"exact_match": exact_match, "rougeL": rouge_l}


def check_metric(metric: Any) -> None:
    """Raise unless `metric` is the name of one or callable."""
    if not callable(metric) and not (isinstance(metric, str) and metric in METRICS):
        raise ValueError(f"metric must be one of {sorted(METRICS)} or a callable, got {metric!r}")


def score_texts(
    metric: Metric,
    predictions: Sequence[str],
    references: Sequence[str],
    sample_weight: np.ndarray | None = None,
) -> float:
    """Return the mean score of generated texts.

    Parameters
    ----------
    metric : {"exact_match", "rougeL"} or callable
        A callable takes the predictions and the references and returns one float.
    predictions, references : sequence of str
    sample_weight : ndarray of shape (n,), optional
        Not with a callable.

    Raises
    ------
    ValueError
        If the metric is unknown, or weights are given to a callable.
    TypeError
        If a callable does not return a number.
    """
    check_metric(metric)
    if not callable(metric):
        return float(np.average(METRICS[metric](predictions, references), weights=sample_weight))
    if sample_weight is not None:
        raise ValueError(
            "sample_weight cannot be used with a metric of one's own: it gives one number for "
            "all rows"
        )
    score = metric(list(predictions), list(references))
    try:
        return float(score)
    except (TypeError, ValueError) as err:
        raise TypeError(f"metric {metric!r} must return a number, got {score!r}") from err
