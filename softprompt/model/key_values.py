"""The keys and values that a prompt leaves in every layer, computed once by the engine."""

from __future__ import annotations

import numpy as np

from softprompt.model.frozen import FrozenModel
from softprompt.model.prefix_layout import from_engine
from softprompt.model.sequences import PromptTable
from softprompt.prompt import Prefix, SoftPrompt
from softprompt.prompt.mismatch import model_facts

__all__ = ["compute_prefix"]


def compute_prefix(model: FrozenModel, prompt: object) -> Prefix:
    """Compute a prompt's prefix; see `Model.prefix`.

    Parameters
    ----------
    model : FrozenModel
    prompt : SoftPrompt or array of shape (num_virtual_tokens, hidden_size)

    Returns
    -------
    Prefix

    Raises
    ------
    TypeError, ValueError
        See `Model.prefix`.
    """
    if prompt is None:
        raise TypeError("prompt: expected an array or a SoftPrompt, got None")
    if isinstance(prompt, Prefix):
        raise TypeError(
            "prompt: expected an array or a SoftPrompt, got a Prefix: it is one already"
        )
    if model.spec.num_encoder_layers:
        raise ValueError(
            "a prompt leaves no keys and values of its own in an encoder: its rows read the text "
            "as well"
        )
    bos = model.config.bos_token_id
    table = PromptTable([prompt], spec=model.spec, bos_token_id=bos)
    ids = np.zeros(0, np.int32)
    if isinstance(prompt, SoftPrompt) and prompt.position == "after_bos":
        if bos is None:
            raise ValueError(
                "prompt: its position is 'after_bos', and the model has no beginning-of-text token"
            )
        ids = np.array([bos], np.int32)
    symbols, _ = table.symbols(0, ids)
    if len(symbols) > model.spec.max_positions:
        raise ValueError(
            f"prompt: {len(symbols)} rows are longer than the model's context of "
            f"{model.spec.max_positions}"
        )
    stored = _key_values(model, symbols.astype(np.int32), table.matrix)
    keys, values = from_engine(*stored, model.spec)
    records = {}
    if isinstance(prompt, SoftPrompt):
        records = {"task": prompt.task, "training": prompt.training}
    return Prefix(keys, values, base_model=model_facts(model), **records)


def _key_values(
    model: FrozenModel, symbols: np.ndarray, matrix: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of the rows `symbols`, each [num_layers, rows, kv_width]."""
    with model._workers.lend() as worker:
        context = worker.context
        segment = context.segment_create(-1, len(symbols))
        try:
            context.segment_extend(
                np.array([segment], np.int32),
                np.array([0, len(symbols)], np.int32),
                symbols,
                matrix,
                np.zeros(0, np.int32),
                model.num_threads,
            )
            return context.segment_key_values(segment)
        finally:
            context.segment_release(segment)
