"""A soft prompt's folder: a PEFT adapter directory plus `softprompt.json`.

    adapter_config.json        PEFT's configuration, keys of PEFT 0.18 and later
    adapter_model.safetensors  one tensor `prompt_embeddings`, byte for byte as PEFT writes it
    softprompt.json            position, task, training record, model facts, hash of the tensor file
    README.md                  a short model card (one that somebody else wrote is left alone)

They are written as one: see `softprompt.prompt.staged_folder`. A folder that PEFT wrote has the
first two, or `adapter_model.bin`, a file of torch, in place of the tensor file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.bounded_json import load_json
from ..formats.safetensors import open_safetensors, write_safetensors
from ..formats.torch_file import open_torch
from .model_card import model_card
from .peft_config import CONFIG_MAX_BYTES, PeftFacts, peft_config, read_peft_config
from .prompt_file import PromptFile, prompt_file
from .soft_prompt import POSITIONS
from .staged_folder import (
    CONFIG_NAME,
    RECORD_NAME,
    TENSOR_FILE_NAME,
    check_against_record,
    committed_path,
    load_folder,
    read_record,
    save_folder,
)
from .stored_prompt import check_prompt_tensor

if TYPE_CHECKING:
    from ..formats.stored_tensor import StoredTensor
    from .soft_prompt import SoftPrompt

TORCH_FILE_NAME = "adapter_model.bin"
TENSOR_NAME = "prompt_embeddings"

FORMAT = "softprompt"
FORMAT_VERSION = 1


def save_adapter(prompt: SoftPrompt, folder: str | os.PathLike[str]) -> Path:
    """Write a prompt's folder; see `SoftPrompt.save`.

    Parameters
    ----------
    prompt : SoftPrompt
        What to save.
    folder : str or os.PathLike
        Created with its parents if missing.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    OSError
        If it cannot be written; the earlier prompt or the new one can be loaded.
    """
    buffer = io.BytesIO()
    write_safetensors(buffer, {TENSOR_NAME: prompt.embeddings}, {"format": "pt"})
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "hidden_size": prompt.hidden_size,
        "position": prompt.position,
        "task": prompt.task,
        "training": prompt.training,
        "base_model": prompt.base_model,
    }
    config = peft_config(
        prompt.num_virtual_tokens, prompt.hidden_size, prompt.training, prompt.base_model
    )
    return save_folder(folder, record, config, model_card(prompt), buffer.getvalue())


def load_adapter(folder: Path, cls: type[SoftPrompt]) -> PromptFile:
    """Read a prompt's folder, or one made by PEFT; see `SoftPrompt.load`.

    Parameters
    ----------
    folder : pathlib.Path
    cls : type
        `SoftPrompt` or a subclass: what to build.

    Returns
    -------
    PromptFile

    Raises
    ------
    OSError, ValueError
        See `SoftPrompt.load`.
    """
    return load_folder(folder, lambda place: _read_folder(place, cls), stacklevel=6)


def is_record(value: object) -> bool:
    """Return whether a value of `softprompt.json` can be a record: an object or nothing."""
    return value is None or isinstance(value, dict)


def is_positive(value: object) -> bool:
    """Return whether a value of `softprompt.json` is a size."""
    return type(value) is int and value > 0


_CHECKS = {
    "position": lambda value: value in POSITIONS,
    "num_virtual_tokens": is_positive,
    "hidden_size": is_positive,
    "task": is_record,
    "training": is_record,
    "base_model": is_record,
}


def _read_folder(folder: Path, cls: type[SoftPrompt]) -> tuple[PromptFile, Path | None]:
    """Return the prompt, and its tensor file's path if that is a staged one."""
    record = read_record(folder / RECORD_NAME, FORMAT, FORMAT_VERSION, _CHECKS)
    config_path = committed_path(folder, CONFIG_NAME, record)
    tensor_path = committed_path(folder, TENSOR_FILE_NAME, record)
    if not config_path.exists():
        raise FileNotFoundError(f"{folder}: {RECORD_NAME} without {CONFIG_NAME}")
    facts = read_peft_config(load_json(config_path, max_bytes=CONFIG_MAX_BYTES), str(config_path))
    if record is None and not tensor_path.exists() and (folder / TORCH_FILE_NAME).exists():
        stored = only_prompt(open_torch(folder / TORCH_FILE_NAME), folder / TORCH_FILE_NAME)
        return _of_peft(stored, facts, config_path, cls), None
    if not tensor_path.exists():
        raise FileNotFoundError(f"{folder}: {CONFIG_NAME} without {TENSOR_FILE_NAME}")
    file = open_safetensors(tensor_path)
    stored = only_prompt(file, tensor_path)
    if record is None:
        return _of_peft(stored, facts, config_path, cls), None
    _encoder_rows(stored, facts, config_path)
    expected = [record["num_virtual_tokens"], record["hidden_size"]]
    check_against_record(file.path, file.content, list(stored.shape), expected, record)
    records = {key: record.get(key) for key in ("position", "task", "training", "base_model")}
    staged = None if tensor_path == folder / TENSOR_FILE_NAME else tensor_path
    return prompt_file("softprompt", stored, cls, **records), staged


def _of_peft(
    stored: StoredTensor, facts: PeftFacts, config_path: Path, cls: type[SoftPrompt]
) -> PromptFile:
    rows = _encoder_rows(stored, facts, config_path)
    return prompt_file("peft", stored, cls, num_virtual_tokens=rows, base_model=facts.base_model())


def only_prompt(tensors: Mapping[str, StoredTensor], path: Path) -> StoredTensor:
    """Return an adapter's one tensor, checked.

    Raises
    ------
    ValueError
        If it has another name or shape, or there are others: trained weights of the model.
    """
    if TENSOR_NAME not in tensors:
        names = ", ".join(sorted(tensors)[:4]) or "none"
        raise ValueError(
            f"{path}: no tensor {TENSOR_NAME!r}, expected it in a prompt-tuning adapter; it has: "
            f"{names}"
        )
    if len(tensors) > 1:
        others = sorted(name for name in tensors if name != TENSOR_NAME)
        raise ValueError(
            f"{path}: also holds {', '.join(others[:4])}: trained weights beside the prompt (as of "
            f"a classification head), expected only {TENSOR_NAME!r}"
        )
    return check_prompt_tensor(tensors[TENSOR_NAME])


def _encoder_rows(stored: StoredTensor, facts: PeftFacts, config_path: Path) -> int:
    where = f"{stored.source}: tensor {TENSOR_NAME!r}: shape {list(stored.shape)}"
    rows, columns = stored.shape
    if rows not in facts.possible_rows:
        expected = " or ".join(map(str, facts.possible_rows))
        raise ValueError(
            f"{where}, expected {expected} rows: {config_path} says num_virtual_tokens = "
            f"{facts.num_virtual_tokens}"
        )
    if facts.token_dim is not None and columns != facts.token_dim:
        raise ValueError(
            f"{where}, expected {facts.token_dim} columns: {config_path} says token_dim = "
            f"{facts.token_dim}"
        )
    return facts.num_virtual_tokens
