"""Writing a file so that its name holds the old content or the new one, whatever happens."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# "." + name + "." + 16 hexadecimal digits + this: what a killed process may leave behind.
TEMPORARY_SUFFIX = ".tmp"


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write a whole file atomically; see `atomic_writer`.

    Parameters
    ----------
    path : str or os.PathLike
        The file to create or replace, in a folder that exists.
    data : bytes-like
        Its content.

    Raises
    ------
    OSError
        If it cannot be written; the file is then as it was.
    """
    with atomic_writer(path) as file:
        file.write(data)


@contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is complete.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and then
    renamed. An exception in the body, or in any of these steps, removes the temporary file and
    leaves the old file; a killed process leaves the old file and possibly a temporary one
    (`.<name>.<random>.tmp`).

    Parameters
    ----------
    path : str or os.PathLike
        The file to create or replace, in a folder that exists. A symbolic link stays and its target
        is replaced. The permissions are those of a newly created file (the umask).

    Yields
    ------
    file : binary file object

    Raises
    ------
    OSError
        If it cannot be written; the file is then as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as err:
        with suppress(OSError):  # The first error matters more, and a leftover file harms nobody.
            os.unlink(temporary)
        if isinstance(err, OSError) and err.errno is not None and err.filename is None:
            # A full disk says nothing about the file by itself.
            raise OSError(err.errno, err.strerror, str(target)) from err
        raise
    sync_folder(target.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a loss of power.

    Parameters
    ----------
    folder : str or os.PathLike
        An existing folder.

    Raises
    ------
    OSError
        If flushing fails. File systems that cannot flush a folder are left alone.
    """
    if os.name == "nt":  # Windows opens no folders, and its renames are journalled.
        return
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS):
            raise
    finally:
        os.close(fd)
