"""How alike prompts are, as work on prompt transfer measures it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .load import load_prompt
from .prefix import NO_ROWS, Prefix
from .similarity_table import SimilarityTable
from .soft_prompt import SoftPrompt, validate_prompt_array

METRICS = ("average", "per_token")


def similarity(prompts: object, metric: str = "average") -> SimilarityTable:
    """Compare prompts with each other by cosine similarity.

    Parameters
    ----------
    prompts : mapping or sequence
        At least two, of one width: SoftPrompts, arrays `[num_virtual_tokens, hidden_size]` or paths
        that `SoftPrompt.load` reads. A mapping names them; otherwise their names are the paths, or
        numbers. They may have different numbers of virtual tokens.
    metric : {"average", "per_token"}
        "average": the cosine similarity of the prompts' average vectors. "per_token": the average
        of the cosine similarities of all pairs of vectors, one of either prompt.

    Returns
    -------
    SimilarityTable
        Prints as a table; `values` is the symmetric matrix.

    Raises
    ------
    TypeError
        If `prompts` is one prompt or no collection, or one of them is a prefix or not of a floating
        type.
    ValueError
        If there are fewer than two, two names are equal, the widths differ, or the metric is
        unknown.

    Notes
    -----
    Computed in float64. The similarity with a vector of zeros counts as 0. Prompts for different
    models lie in different spaces, so that their similarity says nothing.

    Method: Vu, Lester, Constant, Al-Rfou and Cer, "SPoT: Better Frozen Model Adaptation through
    Soft Prompt Transfer", ACL 2022, section 4: the prompts of similar tasks are similar by both
    metrics, which predicts from which task's prompt another task gains when it starts there.

    Examples
    --------
    >>> print(softprompt.similarity(["sentiment", "spam"]))  # doctest: +SKIP
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r}: expected one of {', '.join(METRICS)}")
    named = _named(prompts)
    if len(named) < 2:
        raise ValueError(f"prompts: {len(named)}, expected at least two to compare")
    rows = {name: _rows(prompt, f"prompts[{name!r}]") for name, prompt in named.items()}
    (first, one), *others = rows.items()
    for name, array in others:
        if array.shape[1] != one.shape[1]:
            raise ValueError(
                f"prompts[{name!r}]: width {array.shape[1]}, expected {one.shape[1]}, that of "
                f"{first!r}"
            )
    # The average cosine of all pairs is the product of the averages of the unit vectors.
    if metric == "average":
        vectors = np.stack([_units(array.mean(axis=0)) for array in rows.values()])
    else:
        vectors = np.stack([_units(array).mean(axis=0) for array in rows.values()])
    values = np.clip(vectors @ vectors.T, -1.0, 1.0)
    return SimilarityTable(metric, tuple(named), (values + values.T) / 2)


def _named(prompts: object) -> dict[str, object]:
    if isinstance(prompts, Mapping):
        return {str(name): prompt for name, prompt in prompts.items()}
    if isinstance(prompts, str | os.PathLike | SoftPrompt | np.ndarray) or not isinstance(
        prompts, Sequence
    ):
        raise TypeError(
            f"prompts: {type(prompts).__name__}, expected a list of prompts, or a dict of them"
        )
    named: dict[str, object] = {}
    for number, prompt in enumerate(prompts):
        name = str(prompt) if isinstance(prompt, str | os.PathLike) else str(number)
        if name in named:
            raise ValueError(f"prompts: {name!r} stands there twice")
        named[name] = prompt
    return named


def _rows(prompt: object, where: str) -> np.ndarray:
    if isinstance(prompt, str | os.PathLike):
        prompt = load_prompt(Path(prompt))
    if isinstance(prompt, Prefix):
        raise TypeError(f"{where}: {NO_ROWS}")
    return validate_prompt_array(prompt, where=where).astype(np.float64)


def _units(vectors: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
