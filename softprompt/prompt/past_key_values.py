"""A prefix as a safetensors file of transformers' cache.

Tensors `past_key_values.<layer>.key` and `past_key_values.<layer>.value`, each
`[1, num_kv_heads, num_virtual_tokens, head_dim]`: the names and shapes of the inputs of models that
are exported with a cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..formats.safetensors import open_safetensors, write_safetensors
from .stored_prompt import stored_values

if TYPE_CHECKING:
    from .prefix import Prefix

_NAME = re.compile(r"past_key_values\.(0|[1-9]\d{0,4})\.(key|value)")


def write_past_key_values(prefix: Prefix, path: str | os.PathLike[str]) -> None:
    """Write a prefix as such a file.

    Parameters
    ----------
    prefix : Prefix
        What to write.
    path : str or os.PathLike
        The file to create or replace.

    Raises
    ------
    OSError
        If it cannot be written; the file is then as it was.
    """
    tensors: dict[str, np.ndarray] = {}
    for layer, (key, value) in enumerate(prefix.past_key_values()):
        tensors[f"past_key_values.{layer}.key"] = key
        tensors[f"past_key_values.{layer}.value"] = value
    write_safetensors(path, tensors, {"format": "pt"})


def read_past_key_values(path: str | os.PathLike[str], cls: type[Prefix]) -> Prefix:
    """Read such a file.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    cls : type
        `Prefix` or a subclass: what to build.

    Returns
    -------
    Prefix

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is damaged, or a layer's tensor is missing or of another shape than the first.
    """
    file = open_safetensors(path)
    if not is_past_key_values(file):
        raise ValueError(
            f"{file.path}: its tensors are not called past_key_values.<layer>.key and .value, "
            "expected those or the folder of a PEFT prefix"
        )
    both: dict[str, list[np.ndarray]] = {"key": [], "value": []}
    for kind, arrays in both.items():
        for layer in range((len(file) + 1) // 2):
            name = f"past_key_values.{layer}.{kind}"
            if name not in file:
                raise ValueError(f"{file.path}: no tensor {name!r} among {len(file)} tensors")
            array = stored_values(file[name])
            if (
                array.ndim != 4
                or array.shape[0] != 1
                or (arrays and array.shape != arrays[0].shape)
            ):
                raise ValueError(
                    f"{file.path}: tensor {name!r}: shape {list(array.shape)}, expected "
                    "[1, num_kv_heads, num_virtual_tokens, head_dim], the same in every layer"
                )
            arrays.append(array)
    try:
        keys, values = (np.concatenate(arrays).swapaxes(1, 2) for arrays in both.values())
        return cls(keys, values)
    except ValueError as err:
        raise ValueError(f"{file.path}: {err}") from err


def is_past_key_values(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are such a file's."""
    names = list(names)
    return bool(names) and all(_NAME.fullmatch(name) for name in names)
