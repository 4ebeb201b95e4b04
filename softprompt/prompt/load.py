"""Reading a prompt from whatever file or folder somebody has it in."""

from __future__ import annotations

import os
from pathlib import Path

from ..formats.bounded_json import load_json
from ..formats.bounded_zip import open_zip
from ..formats.mapped_file import open_regular
from ..formats.npy import NPY_START, open_npy, read_npz
from ..formats.safetensors import open_safetensors
from ..formats.torch_file import LEGACY_START, is_torch_archive, open_torch
from .adapter_files import TORCH_FILE_NAME, load_adapter
from .other_systems import (
    RUPROMPTS_CONFIG,
    RUPROMPTS_TENSOR,
    T5X_NAMES,
    TGIS_NAMES,
    load_adapters,
    load_ruprompts,
    load_t5x,
    load_tgis,
)
from .peft_config import CONFIG_MAX_BYTES
from .prefix import Prefix
from .prefix_files import is_prefix
from .prompt_file import PromptFile, prompt_file
from .soft_prompt import SoftPrompt
from .staged_folder import CONFIG_NAME, RECORD_NAME, TENSOR_FILE_NAME
from .stored_prompt import find_prompt_tensor

_OPENPROMPT_NAME = "soft_embeds"
_TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def load_prompt_file(path: str | os.PathLike[str], cls: type[SoftPrompt]) -> PromptFile:
    """Read a prompt and say how it was stored; see `SoftPrompt.load`.

    Files are known by their first bytes, folders by the names in them.

    Parameters
    ----------
    path : str or os.PathLike
        A file or a folder.
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
    path = _place(Path(path))
    if path.is_dir():
        return _load_folder(path, cls)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such soft prompt; expected a folder with {CONFIG_NAME}, or a file"
        )
    return _load_file(path, cls)


def _place(path: Path) -> Path:
    """Return the folder that one of its files stands for, or the path itself."""
    if path.is_dir() or not path.exists():
        return path
    is_tensor_file = path.name in (TENSOR_FILE_NAME, TORCH_FILE_NAME)
    is_part = is_tensor_file and (path.parent / CONFIG_NAME).exists()
    return path.parent if is_part or path.name in (CONFIG_NAME, RECORD_NAME) else path


def load_prompt(path: str | os.PathLike[str]) -> SoftPrompt | Prefix:
    """Load a prompt or a prefix, whichever a file or folder holds.

    Parameters
    ----------
    path : str or os.PathLike
        Anything that `SoftPrompt.load` or `Prefix.load` reads; PEFT's PREFIX_TUNING, CARTRIDGE and
        a file of `past_key_values` are prefixes.

    Returns
    -------
    SoftPrompt or Prefix

    Raises
    ------
    OSError, ValueError
        As those two.
    """
    place = _place(Path(path))
    return Prefix.load(place) if is_prefix(place) else load_prompt_file(place, SoftPrompt).prompt


def is_prompt(path: str | os.PathLike[str]) -> bool:
    """Return whether a path looks like a prompt, without reading it as one.

    Parameters
    ----------
    path : str or os.PathLike
        Anything; a model's file or folder, for which it is False, among them.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_loader(path) is not None
    if path.suffix == ".safetensors":
        return not (path.parent / "config.json").exists()
    return path.is_file() and path.suffix != ".gguf"


def _load_file(path: Path, cls: type[SoftPrompt]) -> PromptFile:
    fd, _ = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        start = file.read(len(LEGACY_START))
    if start.startswith(NPY_START):
        kind, tensors = "t5x" if path.name in T5X_NAMES else "npy", open_npy(path)
    elif start.startswith(b"PK\3\4"):
        archive = open_zip(path)
        is_torch = is_torch_archive(archive)
        kind, tensors = ("torch", open_torch(path)) if is_torch else ("npz", read_npz(archive))
    elif start == LEGACY_START or path.suffix in _TORCH_SUFFIXES:
        kind, tensors = "torch", open_torch(path)
    else:
        kind, tensors = "safetensors", open_safetensors(path)
    stored = find_prompt_tensor(tensors, str(path))
    if kind == "torch" and stored.name.rpartition(".")[2] == _OPENPROMPT_NAME:
        kind = "openprompt"
    return prompt_file(kind, stored, cls)


def _load_folder(folder: Path, cls: type[SoftPrompt]) -> PromptFile:
    loader = _folder_loader(folder)
    if loader is None:
        raise FileNotFoundError(f"{folder}: no {CONFIG_NAME}{_hint(folder)}")
    return loader(folder, cls)


def _folder_loader(folder: Path):
    """The function that reads a folder with these names in it, or None."""

    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    if has(RECORD_NAME):
        return load_adapter
    if has(CONFIG_NAME):
        config = load_json(folder / CONFIG_NAME, max_bytes=CONFIG_MAX_BYTES)
        is_adapters = isinstance(config, dict) and "peft_type" not in config and "config" in config
        return load_adapters if is_adapters else load_adapter
    if has(RUPROMPTS_CONFIG) and has(RUPROMPTS_TENSOR):
        return load_ruprompts
    if has(*TGIS_NAMES):
        return load_tgis
    return load_t5x if has(*T5X_NAMES) else None


def _hint(folder: Path) -> str:
    # PEFT saves an adapter that is not named "default" in a folder of its name; T5X saves a prompt
    # every so many steps.
    found = [p.parent for p in folder.glob(f"*/{CONFIG_NAME}")]
    for name in T5X_NAMES:
        found += [p.parent for p in folder.glob(f"checkpoint_*/{name}")]
        found += [p.parent for p in folder.glob(f"numpy_checkpoints/checkpoint_*/{name}")]
    names = sorted({str(place.relative_to(folder)) for place in found}, key=_by_number)
    if names:
        return (
            f", but there is one in {', '.join(map(repr, names[-4:]))}: load that folder"
            if len(names) == 1
            else f", but there are prompts in {', '.join(map(repr, names[-4:]))}: load one of them"
        )
    return "; expected a saved soft prompt or PEFT adapter"


def _by_number(name: str) -> tuple[str, int, str]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0), name
