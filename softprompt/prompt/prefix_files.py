"""A prefix's folder: a PEFT adapter directory (PREFIX_TUNING or CARTRIDGE) plus `softprompt.json`.

Written as one, as a prompt's folder is: see `softprompt.prompt.staged_folder`. The tensor is
`prompt_embeddings`, `[num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim]`.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.bounded_json import load_json
from ..formats.mapped_file import open_regular
from ..formats.safetensors import open_safetensors, write_safetensors
from ..formats.torch_file import open_torch
from .adapter_files import TENSOR_NAME, TORCH_FILE_NAME, is_positive, is_record, only_prompt
from .model_card import prefix_card
from .past_key_values import is_past_key_values, read_past_key_values
from .peft_config import CONFIG_MAX_BYTES, PREFIX_TYPES, prefix_config, read_prefix_config
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
from .stored_prompt import prompt_values

if TYPE_CHECKING:
    from .prefix import Prefix

FORMAT = "softprompt-prefix"
FORMAT_VERSION = 1
_SIZES = ("num_virtual_tokens", "num_layers", "num_kv_heads", "head_dim")
_RECORDS = ("task", "training", "base_model")


def save_prefix(prefix: Prefix, folder: str | os.PathLike[str], peft_type: str) -> Path:
    """Write a prefix's folder; see `Prefix.save`."""
    if peft_type not in PREFIX_TYPES:
        raise ValueError(f"peft_type={peft_type!r}: expected one of {', '.join(PREFIX_TYPES)}")
    buffer = io.BytesIO()
    write_safetensors(buffer, {TENSOR_NAME: prefix.flattened()}, {"format": "pt"})
    sizes = {name: getattr(prefix, name) for name in _SIZES}
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **sizes,
        **{name: getattr(prefix, name) for name in _RECORDS},
    }
    config = prefix_config(peft_type, *sizes.values(), base_model=prefix.base_model)
    return save_folder(folder, record, config, prefix_card(prefix), buffer.getvalue())


def load_prefix(folder: str | os.PathLike[str], cls: type[Prefix]) -> Prefix:
    """Read a prefix's folder, or one made by PEFT; see `Prefix.load`."""
    folder = Path(folder)
    if folder.is_file():
        return read_past_key_values(folder, cls)
    return load_folder(folder, lambda place: _read_folder(place, cls), stacklevel=4)


def is_prefix(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder's adapter, or a file, is a prefix, by its configuration or names.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is damaged.
    """
    path = Path(path)
    if path.is_file():
        fd, _ = open_regular(path)
        with os.fdopen(fd, "rb") as file:
            start = file.read(9)
        # a safetensors file: the header's length, then the header
        return start[8:] == b"{" and is_past_key_values(open_safetensors(path))
    path = path / CONFIG_NAME
    if not path.is_file():
        return False
    config = load_json(path, max_bytes=CONFIG_MAX_BYTES)
    return isinstance(config, dict) and config.get("peft_type") in PREFIX_TYPES


def _read_folder(folder: Path, cls: type[Prefix]) -> tuple[Prefix, Path | None]:
    checks = dict.fromkeys(_SIZES, is_positive) | dict.fromkeys(_RECORDS, is_record)
    record = read_record(folder / RECORD_NAME, FORMAT, FORMAT_VERSION, checks)
    config_path = committed_path(folder, CONFIG_NAME, record)
    tensor_path = committed_path(folder, TENSOR_FILE_NAME, record)
    config = load_json(config_path, max_bytes=CONFIG_MAX_BYTES)
    tokens, layers, heads, head_dim = read_prefix_config(config, str(config_path))
    if record is None and not tensor_path.exists() and (folder / TORCH_FILE_NAME).exists():
        tensor_path = folder / TORCH_FILE_NAME
        file = open_torch(tensor_path)
    else:
        file = open_safetensors(tensor_path)
    stored = only_prompt(file, tensor_path)
    expected = [tokens, layers * 2 * heads * head_dim]
    if list(stored.shape) != expected:
        raise ValueError(
            f"{tensor_path}: tensor {TENSOR_NAME!r}: shape {list(stored.shape)}, expected "
            f"{expected} by {config_path}"
        )
    if record is not None:
        said = [record[name] for name in _SIZES]
        check_against_record(
            str(tensor_path), file.content, [tokens, layers, heads, head_dim], said, record
        )
    records = {name: record.get(name) for name in _RECORDS} if record is not None else {}
    if record is None and isinstance(config.get("base_model_name_or_path"), str):
        records = {"base_model": {"name_or_path": config["base_model_name_or_path"]}}
    is_staged = record is not None and tensor_path != folder / TENSOR_FILE_NAME
    prefix = cls.from_flattened(
        prompt_values(stored), num_layers=layers, num_kv_heads=heads, **records
    )
    return prefix, tensor_path if is_staged else None
