"""Writing a prompt as other systems read it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.npy import write_npy
from ..formats.safetensors import write_safetensors
from .mismatch import check_prompt_model
from .past_key_values import write_past_key_values

if TYPE_CHECKING:
    from .prefix import Prefix
    from .soft_prompt import SoftPrompt

TARGETS = ("peft", "npy", "prompt_embeds", "prefix", "cartridge", "past_key_values")
"""What `export_prompt` writes."""

OF_A_MODEL = ("prefix", "cartridge", "past_key_values")
"""Those that hold keys and values, which a model computes."""

_PEFT_TYPES = {"prefix": "PREFIX_TUNING", "cartridge": "CARTRIDGE"}


def export_prompt(
    prompt: SoftPrompt, path: str | os.PathLike[str], to: str, model: object = None
) -> Path:
    """Write a prompt; see `SoftPrompt.export`.

    Parameters
    ----------
    prompt : SoftPrompt
        What to write.
    path : str or os.PathLike
        Where to.
    to : str
        One of `TARGETS`.
    model : softprompt.Model, optional
        Computes keys and values.

    Returns
    -------
    pathlib.Path
        The file or folder.

    Raises
    ------
    OSError, TypeError, ValueError
        See `SoftPrompt.export`.
    """
    path = Path(path)
    if to not in TARGETS:
        raise ValueError(f"to={to!r}: expected one of {', '.join(TARGETS)}")
    if to in OF_A_MODEL:
        if model is None:
            raise TypeError(f"to={to!r}: keys and values are a model's, and model is None")
        check_prompt_model(
            prompt.num_virtual_tokens, prompt.hidden_size, prompt.base_model, model, stacklevel=4
        )
        return export_prefix(model.prefix(prompt), path, to)
    if to == "peft":
        return prompt.save(path)
    if prompt.position != "start":
        warnings.warn(
            f"{path}: the prompt stands after the beginning-of-text token, which this file cannot "
            "say; whoever reads it has to put it there",
            stacklevel=3,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if to == "npy":
        write_npy(path, prompt.embeddings)
    else:
        write_safetensors(path, {to: prompt.embeddings}, {"format": "pt"})
    return path


def export_prefix(prefix: Prefix, path: str | os.PathLike[str], to: str) -> Path:
    """Write a prefix; see `Prefix.export`.

    Parameters
    ----------
    prefix : Prefix
        What to write.
    path : str or os.PathLike
        Where to.
    to : str
        "peft" or one of `OF_A_MODEL`.

    Returns
    -------
    pathlib.Path
        The file or folder.

    Raises
    ------
    OSError, ValueError
        See `Prefix.export`.
    """
    path = Path(path)
    if to == "peft" or to in _PEFT_TYPES:
        return prefix.save(path, peft_type=_PEFT_TYPES.get(to, "PREFIX_TUNING"))
    if to not in TARGETS:
        raise ValueError(f"to={to!r}: expected one of {', '.join(('peft', *OF_A_MODEL))}")
    if to not in OF_A_MODEL:
        raise ValueError(
            f"to={to!r} is a form of prompts, rows of embeddings; a prefix has keys and values, "
            f"expected one of {', '.join(('peft', *OF_A_MODEL))}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_past_key_values(prefix, path)
    return path
