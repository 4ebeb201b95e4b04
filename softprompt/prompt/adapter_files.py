"""A soft prompt's folder: a PEFT adapter directory plus `softprompt.json`.

    adapter_config.json        PEFT's configuration, keys of PEFT 0.18 and later
    adapter_model.safetensors  one tensor `prompt_embeddings`, byte for byte as PEFT writes it
    softprompt.json            position, task, training record, model facts, hash of the tensor file
    README.md                  a short model card (one that somebody else wrote is left alone)

Three files cannot be replaced in one step, so `softprompt.json` is the commit record of a save:

1. the other files are written completely under staged names, `.<name>.<save id>`;
2. `softprompt.json`, which holds the save id, is replaced atomically: from here on the new prompt
   counts;
3. the staged files are renamed to their own names, the tensor file last;
4. what earlier, interrupted saves left behind is removed.

A reader takes `.<name>.<save id of softprompt.json>` where it exists and `<name>` otherwise, and
compares the tensor file's hash. So a save that is killed or fails before step 2 leaves the earlier
prompt, one that dies later the new one. PEFT, which knows only the final names, sees the earlier
pair until step 3; between that step's renames it sees a pair of which it refuses to load the one
whose shape its configuration contradicts. Savers of one folder exclude each other by a lock on the
folder, where the system has such locks; readers take none and read again when `softprompt.json`
changed meanwhile.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..formats.atomic import TEMPORARY_SUFFIX, sync_folder, write_bytes
from ..formats.bounded_json import load_json
from ..formats.mapped_file import open_regular
from ..formats.safetensors import SafetensorsFile, open_safetensors, write_safetensors
from .model_card import is_own_card, model_card
from .peft_config import CONFIG_MAX_BYTES, PeftFacts, peft_config, read_peft_config
from .soft_prompt import POSITIONS, validate_prompt_array

if TYPE_CHECKING:
    from ..formats.stored_tensor import StoredTensor
    from .soft_prompt import SoftPrompt

CONFIG_NAME = "adapter_config.json"
TENSOR_FILE_NAME = "adapter_model.safetensors"
RECORD_NAME = "softprompt.json"
CARD_NAME = "README.md"
PICKLE_NAME = "adapter_model.bin"
TENSOR_NAME = "prompt_embeddings"

FORMAT = "softprompt"
FORMAT_VERSION = 1
RECORD_MAX_BYTES = 16 * 1024 * 1024
MAX_VALUES = 2**28  # Of one prompt; 1 GiB in float32, hundreds of times the largest in use.
_READS = 100  # of a folder that changes while it is read

_SAVE_ID = re.compile(r"[0-9a-f]{16}")
_LEFTOVER = re.compile(
    rf"\.({'|'.join(map(re.escape, (CONFIG_NAME, TENSOR_FILE_NAME, CARD_NAME)))})\.[0-9a-f]{{16}}"
    rf"|\..*\.[0-9a-f]{{16}}({re.escape(TEMPORARY_SUFFIX)})"
)


def save_adapter(prompt: SoftPrompt, folder: str | os.PathLike[str]) -> Path:
    """Write a prompt's folder; see the module's description and `SoftPrompt.save`.

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
        If it cannot be written. Before step 2 the earlier prompt stays; after it the new one is
        saved, and the next save completes the renames.
    """
    folder = Path(folder)
    buffer = io.BytesIO()
    write_safetensors(buffer, {TENSOR_NAME: prompt.embeddings}, {"format": "pt"})
    tensor_bytes = buffer.getvalue()
    config = peft_config(
        prompt.num_virtual_tokens, prompt.hidden_size, prompt.training, prompt.base_model
    )
    # As PEFT writes it: sorted, indented, no newline at the end.
    config_bytes = json.dumps(config, indent=2, sort_keys=True).encode()
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "hidden_size": prompt.hidden_size,
        "position": prompt.position,
        "tensor_sha256": hashlib.sha256(tensor_bytes).hexdigest(),
        "task": prompt.task,
        "training": prompt.training,
        "base_model": prompt.base_model,
    }
    files = {
        CONFIG_NAME: config_bytes,
        CARD_NAME: model_card(prompt),
        TENSOR_FILE_NAME: tensor_bytes,
    }

    os.makedirs(folder, exist_ok=True)
    with _folder_lock(folder):
        if (folder / CARD_NAME).exists() and not is_own_card(folder / CARD_NAME):
            del files[CARD_NAME]
        # The same save has the same id, and staged files of one id have one content: a file that a
        # killed save left under this id is complete and right.
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
        for name, data in files.items():
            digest.update(name.encode() + hashlib.sha256(data).digest())
        save_id = digest.hexdigest()[:16]
        staged = {name: _staged(folder, name, save_id) for name in files}
        # Those of an interrupted save of the same prompt may already count.
        kept = {path for path in staged.values() if path.exists()}
        record_bytes = (json.dumps({**record, "save_id": save_id}, indent=2) + "\n").encode()
        try:
            for name, path in staged.items():
                write_bytes(path, files[name])
            write_bytes(folder / RECORD_NAME, record_bytes)
        except BaseException:
            _discard_unless_saved(folder, save_id, set(staged.values()) - kept)
            raise
        for name, path in staged.items():
            os.replace(path, folder / name)
        sync_folder(folder)
        _remove_leftovers(folder)
    return folder


def load_adapter(path: str | os.PathLike[str], cls: type[SoftPrompt]) -> SoftPrompt:
    """Read a prompt's folder, one made by PEFT, or a lone tensor file; see `SoftPrompt.load`.

    Parameters
    ----------
    path : str or os.PathLike
        The folder, or a file.
    cls : type
        `SoftPrompt` or a subclass: what to build.

    Returns
    -------
    SoftPrompt

    Raises
    ------
    OSError, ValueError
        See `SoftPrompt.load`.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, cls)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such soft prompt; expected a folder with {CONFIG_NAME}"
        )
    if path.suffix in (".bin", ".pt", ".pth", ".pkl"):
        raise _pickle_error(path)
    if path.name in (CONFIG_NAME, RECORD_NAME):
        return _load_folder(path.parent, cls)
    if path.name == TENSOR_FILE_NAME and (path.parent / CONFIG_NAME).exists():
        return _load_folder(path.parent, cls)
    return cls(_prompt_values(_prompt_tensor(open_safetensors(path))))


def _load_folder(folder: Path, cls: type[SoftPrompt]) -> SoftPrompt:
    failures = 0
    for _ in range(_READS):
        before, failure = _record_stamp(folder), None
        try:
            prompt, staged = _read_folder(folder, cls)
        except (ValueError, FileNotFoundError) as err:
            failure = err
        if _record_stamp(folder) != before:
            failures = 0
        elif failure is None:
            if staged is not None:
                _warn_of_interrupted_save(folder, staged)
            return prompt
        else:
            # A save under way may rename each staged file just before it is opened.
            failures += 1
            if failures > len((CONFIG_NAME, TENSOR_FILE_NAME)):
                raise failure
    raise OSError(f"{folder}: {RECORD_NAME} changed {_READS} times while the prompt was being read")


def _read_folder(folder: Path, cls: type[SoftPrompt]) -> tuple[SoftPrompt, Path | None]:
    """Return the prompt, and its tensor file's path if that is a staged one."""
    record = _read_record(folder / RECORD_NAME)
    config_path, tensor_path = folder / CONFIG_NAME, folder / TENSOR_FILE_NAME
    staged = None
    if record is not None:
        staged_config = _staged(folder, CONFIG_NAME, record["save_id"])
        config_path = staged_config if staged_config.exists() else config_path
        staged_tensor = _staged(folder, TENSOR_FILE_NAME, record["save_id"])
        if staged_tensor.exists():
            tensor_path = staged = staged_tensor
    if not config_path.exists():
        raise FileNotFoundError(f"{folder}: no {CONFIG_NAME}{_hint(folder)}")
    facts = read_peft_config(load_json(config_path, max_bytes=CONFIG_MAX_BYTES), str(config_path))
    if not tensor_path.exists():
        if (folder / PICKLE_NAME).exists():
            raise _pickle_error(folder / PICKLE_NAME)
        raise FileNotFoundError(f"{folder}: {CONFIG_NAME} without {TENSOR_FILE_NAME}")
    file = open_safetensors(tensor_path)
    stored = _prompt_tensor(file)
    rows = _encoder_rows(stored, facts, config_path)
    if record is None:
        return cls(_prompt_values(stored)[:rows], base_model=facts.base_model()), None
    expected = [record["num_virtual_tokens"], record["hidden_size"]]
    digest = hashlib.sha256(file.content).hexdigest()
    if digest != record["tensor_sha256"] or list(stored.shape) != expected:
        raise ValueError(
            f"{tensor_path}: shape {list(stored.shape)} and SHA-256 {digest[:16]}..., "
            f"{RECORD_NAME} describes "
            f"{expected} and {record['tensor_sha256'][:16]}...: the file is damaged, or another "
            "program "
            f"replaced it. To load the tensor as it is, remove {folder / RECORD_NAME}"
        )
    records = {key: record.get(key) for key in ("task", "training", "base_model")}
    return cls(_prompt_values(stored), position=record["position"], **records), staged


def _read_record(path: Path) -> dict | None:
    try:
        record = load_json(path, max_bytes=RECORD_MAX_BYTES)
    except FileNotFoundError:
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f'{path}: expected an object with "format": {FORMAT!r}')
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version {version!r}, this softprompt reads {FORMAT_VERSION}; "
            "a newer softprompt may have written it"
        )
    checks = {
        "save_id": lambda v: isinstance(v, str) and _SAVE_ID.fullmatch(v),
        "tensor_sha256": lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v),
        "position": lambda v: v in POSITIONS,
        "num_virtual_tokens": lambda v: type(v) is int and v > 0,
        "hidden_size": lambda v: type(v) is int and v > 0,
        "task": lambda v: v is None or isinstance(v, dict),
        "training": lambda v: v is None or isinstance(v, dict),
        "base_model": lambda v: v is None or isinstance(v, dict),
    }
    for key, is_valid in checks.items():
        if not is_valid(record.get(key)):
            raise ValueError(f"{path}: {key} is {str(record.get(key))[:60]!r}, which is not valid")
    return record


def _prompt_tensor(file: SafetensorsFile) -> StoredTensor:
    path = file.path
    if TENSOR_NAME not in file:
        names = ", ".join(sorted(file)[:4]) or "none"
        raise ValueError(
            f"{path}: no tensor {TENSOR_NAME!r}, expected it in a prompt-tuning adapter; it has: "
            f"{names}"
        )
    if len(file) > 1:
        others = sorted(name for name in file if name != TENSOR_NAME)
        raise ValueError(
            f"{path}: also holds {', '.join(others[:4])}: trained weights beside the prompt (as of "
            "a "
            "classification head), expected only 'prompt_embeddings'"
        )
    stored = file[TENSOR_NAME]
    where = f"{path}: tensor {TENSOR_NAME!r}"
    if stored.dtype not in _READERS:
        raise ValueError(f"{where}: dtype {stored.dtype}, expected one of {', '.join(_READERS)}")
    if len(stored.shape) != 2 or 0 in stored.shape:
        raise ValueError(
            f"{where}: shape {list(stored.shape)}, expected [num_virtual_tokens, hidden_size]"
        )
    if stored.shape[0] * stored.shape[1] > MAX_VALUES:
        raise ValueError(
            f"{where}: shape {list(stored.shape)}, expected at most {MAX_VALUES} values"
        )
    return stored


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


_READERS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


def _prompt_values(stored: StoredTensor) -> np.ndarray:
    values = stored.data.view(_READERS[stored.dtype]).reshape(stored.shape)
    if stored.dtype == "BF16":  # The upper half of a float32.
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return validate_prompt_array(values, where=f"{stored.source}: tensor {TENSOR_NAME!r}")


def _pickle_error(path: Path) -> ValueError:
    return ValueError(
        f"{path}: a pickle, which can run code when it is read, is not read here; load it with "
        "PEFT and "
        f"save_pretrained(folder, safe_serialization=True), expected {TENSOR_FILE_NAME}"
    )


def _hint(folder: Path) -> str:
    # PEFT saves an adapter that is not named "default" in a folder of its name.
    inner = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG_NAME}"))
    if inner:
        return (
            f", but there is one in {', '.join(repr(name) for name in inner[:4])}: load that folder"
        )
    return "; expected a saved soft prompt or PEFT adapter"


def _record_stamp(folder: Path) -> bytes | None:
    """Digest of the commit record, to notice a save while reading."""
    try:
        fd, _ = open_regular(folder / RECORD_NAME)
        with os.fdopen(fd, "rb") as file:
            return hashlib.sha256(file.read(RECORD_MAX_BYTES)).digest()
    except OSError:
        return None  # Absent, or unreadable: reading it then says why.


def _discard_unless_saved(folder: Path, save_id: str, staged: set[Path]) -> None:
    with suppress(OSError, ValueError):  # Then the record is not known to be another's.
        record = _read_record(folder / RECORD_NAME)
        if record is None or record["save_id"] != save_id:
            for path in staged:
                with suppress(OSError):
                    os.unlink(path)


def _staged(folder: Path, name: str, save_id: str) -> Path:
    return folder / f".{name}.{save_id}"


def _remove_leftovers(folder: Path) -> None:
    for entry in os.listdir(folder):
        if _LEFTOVER.fullmatch(entry):
            with suppress(OSError):  # They only take room.
                os.unlink(folder / entry)


def _warn_of_interrupted_save(folder: Path, staged: Path) -> None:
    with _folder_lock(folder, wait=False) as locked:
        # Otherwise a save is under way, or has finished meanwhile.
        if locked and staged.exists():
            warnings.warn(
                f"{folder}: the last save was interrupted. The prompt loaded is complete, but "
                "other "
                "programs still find the one before; save it again",
                stacklevel=5,
            )


@contextmanager
def _folder_lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other savers out of a folder; yields False if one is there (only without `wait`)."""
    try:
        import fcntl
    except ImportError:
        yield True
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            locked = False
        except OSError:
            pass  # Some network file systems have no locks.
        yield locked
    finally:
        os.close(fd)  # Which also unlocks.
