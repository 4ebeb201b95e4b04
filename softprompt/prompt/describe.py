"""Facts about a prompt's file, whoever wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .load import load_prompt_file
from .prefix import Prefix
from .prefix_files import is_prefix
from .soft_prompt import SoftPrompt


def describe(path: str | os.PathLike[str]) -> dict[str, object]:
    """Describe the prompt, or the prefix, in a file or folder.

    Parameters
    ----------
    path : str or os.PathLike
        Anything that `SoftPrompt.load` or `Prefix.load` reads.

    Returns
    -------
    dict
        JSON values. `kind` (as of `PromptFile`, or "prefix"), `num_virtual_tokens`, sizes, `norms`
        (smallest, mean and largest Euclidean norm of the rows; of a prefix, of its keys' and of its
        values' heads), `task`, `base_model`, `training`; of a prompt `file`, `tensor`, `dtype` and
        `shape` as stored, `position`, and `rms`, the root of the mean square of its values.

    Raises
    ------
    OSError, ValueError
        As those two.
    """
    path = Path(path)
    if is_prefix(path):
        return _of_prefix(Prefix.load(path))
    file = load_prompt_file(path, SoftPrompt)
    prompt = file.prompt
    values = prompt.embeddings.astype(np.float64)
    return {
        "kind": file.kind,
        "file": file.path,
        "tensor": file.tensor,
        "dtype": file.dtype,
        "shape": list(file.shape),
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "hidden_size": prompt.hidden_size,
        "position": prompt.position,
        "norms": norms(values),
        "rms": float(np.sqrt(np.square(values).mean())),
        "task": prompt.task,
        "base_model": prompt.base_model,
        "training": prompt.training,
    }


def norms(rows: np.ndarray) -> Mapping[str, float]:
    """Return the smallest, mean and largest Euclidean norm of rows.

    Parameters
    ----------
    rows : numpy.ndarray
        float64 `[..., width]`.

    Returns
    -------
    dict of str to float
        `min`, `mean`, `max`.
    """
    lengths = np.sqrt(np.square(rows).sum(axis=-1))
    return {
        "min": float(lengths.min()),
        "mean": float(lengths.mean()),
        "max": float(lengths.max()),
    }


def _of_prefix(prefix: Prefix) -> dict[str, object]:
    return {
        "kind": "prefix",
        "num_virtual_tokens": prefix.num_virtual_tokens,
        "num_layers": prefix.num_layers,
        "num_kv_heads": prefix.num_kv_heads,
        "head_dim": prefix.head_dim,
        "norms": {
            "keys": norms(prefix.keys.astype(np.float64)),
            "values": norms(prefix.values.astype(np.float64)),
        },
        "task": prefix.task,
        "base_model": prefix.base_model,
        "training": prefix.training,
    }
