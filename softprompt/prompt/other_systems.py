"""Folders of prompts that other systems wrote, besides PEFT's.

    T5X (google-research/prompt-tuning)  numpy_checkpoints/checkpoint_<step>/encoder.prompt.prompt.
                                         prompt: a `.npy` under the parameter's name
    ruPrompts                            prompt.json, prompt_provider.bin (torch, a bare tensor)
    adapter-transformers, adapters       adapter_config.json, adapter.safetensors or
                                         pytorch_adapter.bin (torch)
    TGIS (IBM's text-generation server)  decoder.pt or encoder.pt (torch, a bare tensor)

OpenPrompt writes single files, `.ckpt` of torch, which hold the template's `soft_embeds`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.bounded_json import load_json
from ..formats.npy import BARE_NAME as NPY_NAME
from ..formats.npy import open_npy
from ..formats.safetensors import open_safetensors
from ..formats.torch_file import open_torch
from .peft_config import CONFIG_MAX_BYTES
from .prompt_file import PromptFile, prompt_file
from .staged_folder import CONFIG_NAME
from .stored_prompt import check_prompt_tensor, find_prompt_tensor

if TYPE_CHECKING:
    from .soft_prompt import SoftPrompt

T5X_NAMES = ("encoder.prompt.prompt.prompt", "decoder.prompt.prompt.prompt")
RUPROMPTS_CONFIG, RUPROMPTS_TENSOR = "prompt.json", "prompt_provider.bin"
ADAPTERS_NAMES = ("adapter.safetensors", "pytorch_adapter.bin")
TGIS_NAMES = ("decoder.pt", "encoder.pt")

# <P*20>, <P>, and <P>text</P>, whose tokens start from a text's
_RUPROMPTS_TOKENS = re.compile(r"(?:<P\*\d+>|<P>[^<]*</P>|<P>)+")
_COMBINE = {"prefix": "start", "prefix_after_bos": "after_bos"}


def load_t5x(folder: Path, cls: type[SoftPrompt]) -> PromptFile:
    """Read a step's folder of `numpy_checkpoints`.

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
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or holds no prompt, or the folder has one for the encoder and one for the
        decoder.
    """
    path = _only(folder, T5X_NAMES)
    return prompt_file("t5x", check_prompt_tensor(open_npy(path)[NPY_NAME]), cls)


def load_ruprompts(folder: Path, cls: type[SoftPrompt]) -> PromptFile:
    """Read a folder of ruPrompts, whose virtual tokens all stand in front; see `load_t5x`.

    The rest of the template becomes the prompt's `task["template"]`.
    """
    path = folder / RUPROMPTS_CONFIG
    facts = load_json(path, max_bytes=CONFIG_MAX_BYTES)
    form, config = (_member(facts, key, path) for key in ("format", "config"))
    template = form.get("template")
    if not isinstance(template, str):
        raise ValueError(f"{path}: format.template is no text, expected the prompt's template")
    front = _RUPROMPTS_TOKENS.match(template)
    rest = template[front.end() if front else 0 :]
    if front is None or _RUPROMPTS_TOKENS.search(rest):
        raise ValueError(
            f"{path}: the virtual tokens of {template[:80]!r} do not all stand in front, expected "
            f"that of a soft prompt; {folder / RUPROMPTS_TENSOR} alone is its rows in their order"
        )
    stored = find_prompt_tensor(open_torch(folder / RUPROMPTS_TENSOR), str(folder))
    _check_shape(
        stored.shape, (config.get("prompt_length"), config.get("embedding_dim")), stored.source
    )
    name = config.get("pretrained_model_name")
    return prompt_file(
        "ruprompts",
        stored,
        cls,
        task={"template": rest},
        base_model={"name_or_path": name} if isinstance(name, str) else None,
    )


def load_adapters(folder: Path, cls: type[SoftPrompt]) -> PromptFile:
    """Read a prompt-tuning folder of adapter-transformers or adapters; see `load_t5x`."""
    path = folder / CONFIG_NAME
    facts = load_json(path, max_bytes=CONFIG_MAX_BYTES)
    config = _member(facts, "config", path)
    if config.get("architecture") != "prompt_tuning":
        raise ValueError(
            f"{path}: architecture {str(config.get('architecture'))[:60]!r}, expected "
            "'prompt_tuning'"
        )
    position = _COMBINE.get(str(config.get("combine", "prefix")))
    if position is None:
        raise ValueError(
            f"{path}: combine {str(config['combine'])[:60]!r}, expected one of "
            f"{', '.join(_COMBINE)}"
        )
    tensor_path = next((folder / n for n in ADAPTERS_NAMES if (folder / n).exists()), None)
    if tensor_path is None:
        raise FileNotFoundError(f"{folder}: {CONFIG_NAME} without {' or '.join(ADAPTERS_NAMES)}")
    is_torch = tensor_path.suffix == ".bin"
    tensors = open_torch(tensor_path) if is_torch else open_safetensors(tensor_path)
    stored = find_prompt_tensor(tensors, str(tensor_path))
    _check_shape(stored.shape, (config.get("prompt_length"), None), str(tensor_path))
    names = {"name_or_path": "model_name", "family": "model_type"}
    base_model = {
        ours: facts[theirs] for ours, theirs in names.items() if isinstance(facts.get(theirs), str)
    }
    return prompt_file("adapters", stored, cls, position=position, base_model=base_model or None)


def load_tgis(folder: Path, cls: type[SoftPrompt]) -> PromptFile:
    """Read a folder of TGIS' prefix store; see `load_t5x`."""
    path = _only(folder, TGIS_NAMES)
    return prompt_file("tgis", find_prompt_tensor(open_torch(path), str(path)), cls)


def _only(folder: Path, names: tuple[str, ...]) -> Path:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{folder}: prompts for the encoder and the decoder, expected one: load "
            f"{' or '.join(map(str, found))}"
        )
    return found[0]


def _member(facts: object, key: str, path: Path) -> Mapping[str, object]:
    value = facts.get(key) if isinstance(facts, dict) else None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {key} is no object, expected one")
    return value


def _check_shape(shape: tuple[int, ...], said: tuple[object, ...], path: str) -> None:
    for found, expected in zip(shape, said, strict=True):
        if expected is not None and found != expected:
            raise ValueError(
                f"{path}: shape {list(shape)}, expected {str(said)[:60]} by the configuration "
                "beside it"
            )
