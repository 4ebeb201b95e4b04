"""Saving several files as one: a folder that holds the earlier ones or the new ones, never both.

Three files cannot be replaced in one step, so `softprompt.json` is the commit record of a save:

1. the other files are written completely under staged names, `.<name>.<save id>`;
2. `softprompt.json`, which holds the save id, is replaced atomically: from here on the new files
   count;
3. the staged files are renamed to their own names, the tensor file last;
4. what earlier, interrupted saves left behind is removed.

A reader takes `.<name>.<save id of softprompt.json>` where it exists and `<name>` otherwise, and
compares the tensor file's hash. So a save that is killed or fails before step 2 leaves the earlier
files, one that dies later the new ones. PEFT, which knows only the final names, sees the earlier
pair until step 3; between that step's renames it sees a pair of which it refuses to load the one
whose shape its configuration contradicts. Savers of one folder exclude each other by a lock on the
folder, where the system has such locks; readers take none and read again when `softprompt.json`
changed meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ..formats.atomic import TEMPORARY_SUFFIX, sync_folder, write_bytes
from ..formats.bounded_json import load_json
from ..formats.mapped_file import open_regular
from .model_card import is_own_card

CONFIG_NAME = "adapter_config.json"
TENSOR_FILE_NAME = "adapter_model.safetensors"
RECORD_NAME = "softprompt.json"
CARD_NAME = "README.md"

RECORD_MAX_BYTES = 16 * 1024 * 1024
_READS = 100  # of a folder that changes while it is read

_SAVE_ID = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(
    rf"\.({'|'.join(map(re.escape, (CONFIG_NAME, TENSOR_FILE_NAME, CARD_NAME)))})\.[0-9a-f]{{16}}"
    rf"|\..*\.[0-9a-f]{{16}}({re.escape(TEMPORARY_SUFFIX)})"
)

Found = TypeVar("Found")


def save_folder(
    path: str | os.PathLike[str],
    record: Mapping[str, object],
    config: Mapping[str, object],
    card: bytes,
    tensors: bytes,
) -> Path:
    """Write a folder's files; see the module's description.

    Parameters
    ----------
    path : str or os.PathLike
        The folder, created with its parents if missing.
    record : mapping
        What `softprompt.json` says besides the save id and the tensor file's hash.
    config : mapping
        `adapter_config.json`.
    card : bytes
        README.md, which is not written over one of somebody else.
    tensors : bytes
        The tensor file.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    OSError
        If it cannot be written. Before step 2 the earlier files stay; after it the new ones are
        saved, and the next save completes the renames.
    """
    folder = Path(path)
    record = {**record, "tensor_sha256": hashlib.sha256(tensors).hexdigest()}
    files = {
        # As PEFT writes it: sorted, indented, no newline at the end.
        CONFIG_NAME: json.dumps(config, indent=2, sort_keys=True).encode(),
        CARD_NAME: card,
        TENSOR_FILE_NAME: tensors,
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
        staged = {name: staged_path(folder, name, save_id) for name in files}
        # Those of an interrupted save of the same files may already count.
        kept = {staged_file for staged_file in staged.values() if staged_file.exists()}
        record_bytes = (json.dumps({**record, "save_id": save_id}, indent=2) + "\n").encode()
        try:
            for name, staged_file in staged.items():
                write_bytes(staged_file, files[name])
            write_bytes(folder / RECORD_NAME, record_bytes)
        except BaseException:
            _discard_unless_saved(folder, save_id, set(staged.values()) - kept)
            raise
        for name, staged_file in staged.items():
            os.replace(staged_file, folder / name)
        sync_folder(folder)
        _remove_leftovers(folder)
    return folder


def load_folder(
    folder: Path, read: Callable[[Path], tuple[Found, Path | None]], *, stacklevel: int
) -> Found:
    """Read a folder as it was at one moment.

    Parameters
    ----------
    folder : pathlib.Path
    read : callable
        Returns what the folder holds, and the tensor file's path if that is a staged one.
    stacklevel : int
        Frames between the warning and the caller to blame.

    Returns
    -------
    object
        What `read` found.

    Raises
    ------
    OSError, ValueError
        What `read` raised, if the folder did not change meanwhile.

    Warns
    -----
    UserWarning
        If the last save was interrupted after its commit.
    """
    failures = 0
    for _ in range(_READS):
        before, failure = _record_stamp(folder), None
        try:
            found, staged = read(folder)
        except (ValueError, FileNotFoundError) as err:
            failure = err
        if _record_stamp(folder) != before:
            failures = 0
        elif failure is None:
            if staged is not None:
                _warn_of_interrupted_save(folder, staged, stacklevel + 1)
            return found
        else:
            # A save under way may rename each staged file just before it is opened.
            failures += 1
            if failures > len((CONFIG_NAME, TENSOR_FILE_NAME)):
                raise failure
    raise OSError(f"{folder}: {RECORD_NAME} changed {_READS} times while the prompt was being read")


def read_record(
    path: Path, kind: str, version: int, checks: Mapping[str, Callable[[object], object]]
) -> dict | None:
    """Read a commit record.

    Parameters
    ----------
    path : pathlib.Path
        `softprompt.json`.
    kind : str
        What its `format` has to be.
    version : int
        What its `format_version` has to be.
    checks : mapping of str to callable
        For each key that is needed besides, whether a value is valid.

    Returns
    -------
    dict or None
        None where there is no such file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no such record, or of another version; the message names the key.
    """
    try:
        record = load_json(path, max_bytes=RECORD_MAX_BYTES)
    except FileNotFoundError:
        return None
    if not isinstance(record, dict) or record.get("format") != kind:
        found = record.get("format") if isinstance(record, dict) else None
        raise ValueError(
            f'{path}: expected an object with "format": {kind!r}, found {str(found)[:60]!r} '
            "(softprompt.load_prompt reads prompts and prefixes)"
        )
    if record.get("format_version") != version:
        raise ValueError(
            f"{path}: format_version {record.get('format_version')!r}, this softprompt reads "
            f"{version}; a newer softprompt may have written it"
        )
    always = {
        "save_id": lambda value: isinstance(value, str) and _SAVE_ID.fullmatch(value),
        "tensor_sha256": lambda value: isinstance(value, str) and _SHA256.fullmatch(value),
    }
    for key, is_valid in (always | dict(checks)).items():
        if not is_valid(record.get(key)):
            raise ValueError(f"{path}: {key} is {str(record.get(key))[:60]!r}, which is not valid")
    return record


def committed_path(folder: Path, name: str, record: Mapping[str, object] | None) -> Path:
    """Return where a file's content lies that counts: staged, or under its own name."""
    if record is not None:
        staged = staged_path(folder, name, str(record["save_id"]))
        if staged.exists():
            return staged
    return folder / name


def staged_path(folder: Path, name: str, save_id: str) -> Path:
    """Return where a save writes a file before it counts."""
    return folder / f".{name}.{save_id}"


def check_against_record(
    path: str, content: object, shape: list[int], expected: list[int], record: Mapping[str, str]
) -> None:
    """Compare a tensor file with its commit record.

    Raises
    ------
    ValueError
        If its hash, or the tensor's shape, is another one.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != record["tensor_sha256"] or shape != expected:
        raise ValueError(
            f"{path}: shape {shape} and SHA-256 {digest[:16]}..., {RECORD_NAME} describes "
            f"{expected} and {record['tensor_sha256'][:16]}...: the file is damaged, or another "
            "program replaced it. To load the tensor as it is, remove "
            f"{Path(path).parent / RECORD_NAME}"
        )


def _record_stamp(folder: Path) -> bytes | None:
    """Digest of the commit record, to notice a save while reading."""
    try:
        fd, _ = open_regular(folder / RECORD_NAME)
        with os.fdopen(fd, "rb") as file:
            return hashlib.sha256(file.read(RECORD_MAX_BYTES)).digest()
    except OSError:
        return None  # Absent, or unreadable: reading it then says why.


def _discard_unless_saved(folder: Path, save_id: str, staged: set[Path]) -> None:
    try:
        record = load_json(folder / RECORD_NAME, max_bytes=RECORD_MAX_BYTES)
    except FileNotFoundError:
        record = {}
    except (OSError, ValueError):
        return  # Then the record is not known to be another's.
    if isinstance(record, dict) and record.get("save_id") != save_id:
        for path in staged:
            with suppress(OSError):
                os.unlink(path)


def _remove_leftovers(folder: Path) -> None:
    for entry in os.listdir(folder):
        if _LEFTOVER.fullmatch(entry):
            with suppress(OSError):  # They only take room.
                os.unlink(folder / entry)


def _warn_of_interrupted_save(folder: Path, staged: Path, stacklevel: int) -> None:
    with _folder_lock(folder, wait=False) as locked:
        # Otherwise a save is under way, or has finished meanwhile.
        if locked and staged.exists():
            warnings.warn(
                f"{folder}: the last save was interrupted. The prompt loaded is complete, but "
                "other programs still find the one before; save it again",
                stacklevel=stacklevel,
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
