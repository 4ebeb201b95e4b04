"""Files mapped into memory, read-only."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def open_regular(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Open a regular file for reading.

    Parameters
    ----------
    path : str or os.PathLike
        The file. A folder, a pipe or a device is refused: reading one could wait for ever.

    Returns
    -------
    fd : int
        File descriptor, owned by the caller.
    size : int
        Bytes in the file when it was opened.

    Raises
    ------
    OSError
        If the file cannot be opened or is not a regular file.
    """
    # O_NONBLOCK only keeps the open of a pipe without a writer from blocking; regular files ignore
    # it.
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(f"{os.fspath(path)}: expected a file, got a folder")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(
                f"{os.fspath(path)}: expected a regular file, got a pipe, socket or device"
            )
    except BaseException:
        os.close(fd)
        raise
    return fd, status.st_size


def map_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Map a whole file.

    Parameters
    ----------
    path : str or os.PathLike
        A regular file that is not empty. Replacing it by a rename while it is mapped is safe;
        truncating it in place is not (the operating system then kills readers of the missing
        pages).

    Returns
    -------
    numpy.ndarray
        uint8 `[size]`, read-only. The mapping ends when the last view of it is gone.

    Raises
    ------
    OSError
        If the file cannot be opened or mapped, or is not a regular file.
    ValueError
        If the file is empty.
    """
    fd, size = open_regular(path)
    try:
        if size == 0:
            raise ValueError(f"{Path(path)}: the file is empty")
        try:
            mapping = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        except (ValueError, OverflowError, MemoryError) as err:
            # The file shrank since fstat, or its size exceeds the address space.
            raise OSError(f"{Path(path)}: cannot map {size} bytes: {err}") from err
    finally:
        os.close(fd)
    return np.frombuffer(mapping, dtype=np.uint8)


def forget_pages(view: np.ndarray) -> None:
    """Let go of the memory that reading a part of a mapped file took.

    The mapping stays as it is: whoever reads there again gets the same bytes from the file.

    Parameters
    ----------
    view : numpy.ndarray
        A view of what `map_file` returned; of any other array nothing happens.
    """
    root, mapping = _mapping_of(view)
    if mapping is None or not hasattr(mapping, "madvise"):
        return
    first = view.ctypes.data - root.ctypes.data
    aligned = first - first % mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, aligned, first + view.nbytes - aligned)


def mappings(views: Iterable[np.ndarray]) -> list[mmap.mmap]:
    """List the mappings that arrays are views of.

    Parameters
    ----------
    views : iterable of ndarray
        Views of what `map_file` returned; other arrays are passed over.

    Returns
    -------
    list of mmap.mmap
        Each once.
    """
    found = (_mapping_of(view)[1] for view in views)
    return list({id(mapping): mapping for mapping in found if mapping is not None}.values())


def check_mappings(mapped: Iterable[mmap.mmap]) -> None:
    """Refuse to read files that were truncated since they were mapped.

    Reading what is missing would end the process. A file that is truncated between this look and
    the reading still does; files are to be replaced by renaming another one over them.

    Parameters
    ----------
    mapped : iterable of mmap.mmap

    Raises
    ------
    OSError
        A file is shorter than its mapping.
    """
    for mapping in mapped:
        size = mapping.size()
        if size < len(mapping):
            raise OSError(
                f"a file of weights was truncated while it was in use: {size} bytes are left of "
                f"{len(mapping)}. Load the model again"
            )


def _mapping_of(view: np.ndarray) -> tuple[np.ndarray, mmap.mmap | None]:
    """Return the whole of what `map_file` gave, and its mapping; None for any other array."""
    root = view
    while isinstance(root.base, np.ndarray):
        root = root.base
    mapping = root.base.obj if isinstance(root.base, memoryview) else root.base
    return root, mapping if isinstance(mapping, mmap.mmap) else None
