"""What is trained: the rows of a prompt, or a prefix, the keys and values of every layer.

Either is one float32 matrix with a row for each virtual token, so that loop, optimisers and
checkpoints do not tell them apart.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from softprompt.prompt import Prefix, SoftPrompt, is_prefix
from softprompt.tuner.defaults import LEARNING_RATE_OF_RMS, PREFIX_LEARNING_RATE_OF_RMS
from softprompt.tuner.optimizers import embedding_rms
from softprompt.tuner.starts import make_start

METHODS = ("prompt", "prefix")


class Method(Protocol):
    """What is trained, and how its matrix becomes something that a model takes."""

    def make_start(
        self,
        init: object,
        *,
        num_virtual_tokens: int,
        labels: Sequence[Sequence[int]] | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return the matrix that training starts from; see `softprompt.tuner.make_start`."""

    def learning_rate(self, optimizer: str, start: np.ndarray) -> float:
        """Return the rate that ``learning_rate="auto"`` is, for an optimiser's name."""

    def finished(self, matrix: np.ndarray, **records: Any) -> Any:
        """Return the prompt or prefix of a matrix, with `task`, `training`, `base_model`."""


class PromptTuning:
    """Prompt tuning: a matrix ``[num_virtual_tokens, hidden_size]`` of rows before the text.

    Parameters
    ----------
    model : Model
    position : {"start", "after_bos"}
        Where the rows stand.

    References
    ----------
    Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"
    (arXiv:2104.08691).
    """

    def __init__(self, model: Any, *, position: str = "start") -> None:
        self._model, self._position = model, position

    def make_start(self, init: object, **how: Any) -> np.ndarray:
        """See `Method`."""
        return make_start(init, model=self._model, **how)

    def learning_rate(self, optimizer: str, start: np.ndarray) -> float:
        """See `Method`: a fraction of the RMS of the model's embeddings."""
        return LEARNING_RATE_OF_RMS[optimizer] * embedding_rms(self._model.embeddings)

    def finished(self, matrix: np.ndarray, **records: Any) -> SoftPrompt:
        """See `Method`."""
        return SoftPrompt(matrix, position=self._position, **records)


class PrefixTuning:
    """Prefix tuning: a matrix as of `Prefix.flattened`, keys and values before the text.

    They start as what the rows of `make_start` leave in the model, or as another prefix. Nothing
    is reparametrised: started there, and not from random numbers, training needs no MLP.

    Parameters
    ----------
    model : Model

    References
    ----------
    Li, Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation"
    (arXiv:2101.00190); section 7.4 on starting from the activations of real words.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def make_start(self, init: object, *, num_virtual_tokens: int, **how: Any) -> np.ndarray:
        """See `Method`."""
        if isinstance(init, os.PathLike) and is_prefix(Path(init)):
            init = Prefix.load(init)
        if not isinstance(init, Prefix):
            rows = make_start(init, model=self._model, num_virtual_tokens=num_virtual_tokens, **how)
            return self._model.prefix(rows).flattened()
        init.check_model(self._model)
        if len(init) != num_virtual_tokens:
            raise ValueError(
                f"init has {len(init)} virtual tokens, expected "
                f"num_virtual_tokens={num_virtual_tokens}: the two must be equal"
            )
        return init.flattened()

    def learning_rate(self, optimizer: str, start: np.ndarray) -> float:
        """See `Method`: a fraction of the RMS of the start's keys and values."""
        rms = np.sqrt(np.mean(np.square(start, dtype=np.float64)))
        return PREFIX_LEARNING_RATE_OF_RMS[optimizer] * float(rms)

    def finished(self, matrix: np.ndarray, **records: Any) -> Prefix:
        """See `Method`."""
        config = self._model.config
        return Prefix.from_flattened(
            matrix, num_layers=config.num_layers, num_kv_heads=config.num_kv_heads, **records
        )


def make_method(name: str, model: Any, *, position: str) -> Method:
    """Return the method of a name.

    Parameters
    ----------
    name : {"prompt", "prefix"}
    model : Model
    position : {"start", "after_bos"}
        Where virtual tokens stand; those of a prefix stand before everything.

    Raises
    ------
    ValueError
        If the name is unknown, or a prefix is to stand elsewhere.
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r}: expected one of {', '.join(map(repr, METHODS))}")
    if name == "prompt":
        return PromptTuning(model, position=position)
    if position != "start":
        raise ValueError(
            f"prompt_position={position!r} with method='prefix': keys and values stand before "
            "everything, expected 'start'"
        )
    return PrefixTuning(model)
