"""Which tensor of a file is a prompt, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..formats.stored_tensor import StoredTensor
from .soft_prompt import validate_prompt_array

MAX_VALUES = 2**28  # Of one prompt; 1 GiB in float32, hundreds of times the largest in use.

NAMES = ("prompt_embeddings", "prompt_embeds", "soft_embeds", "prompt_embedding.weight")
"""Last parts of the names that prompts have: in PEFT, in vLLM's requests, in OpenPrompt and in
adapter-transformers."""

_NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


def find_prompt_tensor(tensors: Mapping[str, StoredTensor], path: str) -> StoredTensor:
    """Choose the tensor of a file that is a prompt.

    Parameters
    ----------
    tensors : mapping of str to StoredTensor
        All tensors of the file.
    path : str
        The file, for messages.

    Returns
    -------
    StoredTensor
        The one with a name of `NAMES`, whatever stands before it; otherwise the only one. Its shape
        is checked.

    Raises
    ------
    ValueError
        If no tensor has such a name and there are several, or several have; or the shape or the
        type is not that of a prompt.
    """
    named = [name for name in tensors if any(f".{name}".endswith(f".{known}") for known in NAMES)]
    if len(named) != 1 and len(tensors) != 1:
        found = ", ".join(sorted(named or tensors)[:4]) or "none"
        raise ValueError(
            f"{path}: {len(named) or len(tensors)} tensors could be the prompt ({found}), expected "
            f"one alone, or one named {' or '.join(NAMES)}"
        )
    return check_prompt_tensor(tensors[named[0] if named else next(iter(tensors))])


def check_prompt_tensor(stored: StoredTensor) -> StoredTensor:
    """Check that a tensor can be a prompt; returns it.

    Raises
    ------
    ValueError
        If it is not floating, not two-dimensional, empty, or of more than `MAX_VALUES` values.
    """
    where = f"{stored.source}: tensor {stored.name!r}"
    if stored.dtype not in _NUMPY_TYPES:
        raise ValueError(
            f"{where}: dtype {stored.dtype}, expected one of {', '.join(_NUMPY_TYPES)}"
        )
    if len(stored.shape) != 2 or 0 in stored.shape:
        raise ValueError(
            f"{where}: shape {list(stored.shape)}, expected [num_virtual_tokens, hidden_size]"
        )
    if stored.shape[0] * stored.shape[1] > MAX_VALUES:
        raise ValueError(
            f"{where}: shape {list(stored.shape)}, expected at most {MAX_VALUES} values"
        )
    return stored


def prompt_values(stored: StoredTensor) -> np.ndarray:
    """Return a checked tensor's numbers.

    Parameters
    ----------
    stored : StoredTensor
        See `check_prompt_tensor`.

    Returns
    -------
    numpy.ndarray
        float32 `[rows, columns]`.

    Raises
    ------
    ValueError
        If one is NaN, infinite or too large for float32.
    """
    where = f"{stored.source}: tensor {stored.name!r}"
    return validate_prompt_array(stored_values(stored), where=where)


def stored_values(stored: StoredTensor) -> np.ndarray:
    """Return a floating tensor's numbers, unchecked.

    Parameters
    ----------
    stored : StoredTensor

    Returns
    -------
    numpy.ndarray
        float16, float32 or float64, of the tensor's shape; bfloat16 as float32.

    Raises
    ------
    ValueError
        If it is not floating.
    """
    if stored.dtype not in _NUMPY_TYPES:
        raise ValueError(
            f"{stored.source}: tensor {stored.name!r}: dtype {stored.dtype}, expected one of "
            f"{', '.join(_NUMPY_TYPES)}"
        )
    values = stored.data.view(_NUMPY_TYPES[stored.dtype]).reshape(stored.shape)
    if stored.dtype == "BF16":  # The upper half of a float32.
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values
