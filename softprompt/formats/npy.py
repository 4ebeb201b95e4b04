"""NumPy's `.npy` and `.npz` files, read with bounds, and `.npy` written.

The header of a `.npy` is a Python literal; here it is matched, never evaluated, and object arrays,
which are pickles, are refused. Format: `numpy/lib/format.py`, versions 1.0 to 3.0.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np

from .atomic import atomic_writer
from .bounded_zip import ZipArchive, open_zip
from .mapped_file import map_file
from .stored_tensor import StoredTensor, StoredTensors

NPY_START = b"\x93NUMPY"
BARE_NAME = "array"
"""What the array of a `.npy` is called."""

_MAX_HEADER_BYTES = 10_000  # NumPy's own limit
_MAX_RANK = 64
_MAX_ARRAYS = 10_000
_MAX_NPZ_BYTES = 2**30  # of all arrays of an archive, which may be a thousand times its size
_DTYPES = {
    "f2": "F16", "f4": "F32", "f8": "F64", "V2": "BF16", "b1": "BOOL",
    "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64",
    "u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64",
}  # fmt: skip
"""Types by NumPy's names. NumPy has none for bfloat16: `ml_dtypes` (JAX) saves two raw bytes."""

_KEY = re.compile(r"\s*'(descr|fortran_order|shape)'\s*:\s*")
_VALUES = {
    "descr": re.compile(r"'([^'\\]{1,40})'"),
    "fortran_order": re.compile(r"(True|False)"),
    "shape": re.compile(r"\(((?:\s*\d{1,19}L?\s*,)*\s*(?:\d{1,19}L?\s*)?)\)"),
}


def open_npy(path: str | os.PathLike[str]) -> StoredTensors:
    """Open a `.npy` file.

    Parameters
    ----------
    path : str or os.PathLike
        The file; its name may end in anything.

    Returns
    -------
    StoredTensors
        One tensor, `BARE_NAME`, of little-endian bytes in C order.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is no `.npy` file, has a header of another form, holds objects (pickles), structures
        or texts, or more or fewer bytes than its header says.
    """
    where = str(Path(path))
    return StoredTensors(where, {BARE_NAME: _read(map_file(path), BARE_NAME, where)})


def open_npz(path: str | os.PathLike[str]) -> StoredTensors:
    """Open a `.npz` archive, compressed or not.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    StoredTensors
        Its arrays by name, as of `open_npy`.

    Raises
    ------
    OSError, ValueError
        As of `open_npy` and `softprompt.formats.bounded_zip.open_zip`.
    """
    return read_npz(open_zip(path))


def read_npz(archive: ZipArchive) -> StoredTensors:
    """Read the arrays of an open archive; see `open_npz`."""
    arrays = [name for name in archive if name.endswith(".npy")]
    if len(arrays) > _MAX_ARRAYS or len(arrays) < len(archive):
        raise ValueError(
            f"{archive.path}: {len(arrays)} arrays among {len(archive)} files of the archive, "
            f"expected arrays alone and at most {_MAX_ARRAYS}"
        )
    total = sum(archive[name].size for name in arrays)
    if total > _MAX_NPZ_BYTES:
        raise ValueError(
            f"{archive.path}: {total} bytes of arrays, expected at most {_MAX_NPZ_BYTES}"
        )
    tensors = {}
    for entry_name in arrays:
        name = entry_name.removesuffix(".npy")
        tensors[name] = _read(archive[entry_name].read(), name, archive.path)
    return StoredTensors(archive.path, tensors)


def write_npy(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write a `.npy` file, atomically (see `softprompt.formats.atomic`).

    Parameters
    ----------
    path : str or os.PathLike
        The file to create or replace.
    array : numpy.ndarray
        Of any type but object.

    Raises
    ------
    OSError
        If it cannot be written; the file is then as it was.
    ValueError
        If it is an array of objects.
    """
    with atomic_writer(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _read(content: np.ndarray, name: str, source: str) -> StoredTensor:
    where = f"{source}: array {name[:60]!r}"
    start = content[:8].tobytes()
    if start[:6] != NPY_START or len(start) < 8:
        raise ValueError(f"{where}: starts with {start!r}, expected {NPY_START!r} and a version")
    version = start[6], start[7]
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"{where}: format version {version}, expected 1.0, 2.0 or 3.0")
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(content[8 : 8 + width].tobytes(), "little")
    begin = 8 + width + length
    if length > _MAX_HEADER_BYTES or begin > content.size:
        raise ValueError(
            f"{where}: header of {length} bytes in {content.size}, expected at most "
            f"{_MAX_HEADER_BYTES}; truncated?"
        )
    header = content[8 + width : begin].tobytes()
    descr, fortran_order, shape = _parse_header(header, where)
    kind = descr[1:] if descr[:1] in "<>|=" else descr
    if kind not in _DTYPES:
        what = "objects, which are a pickle" if kind == "O" else "another type"
        raise ValueError(f"{where}: {descr!r} is {what}, expected one of {', '.join(_DTYPES)}")
    size = int(kind[1:])
    count = 1
    for extent in shape:
        count *= extent
    data = content[begin:]
    if data.size != count * size:
        raise ValueError(
            f"{where}: {data.size} bytes, expected {count * size} for shape {list(shape)} of "
            f"{descr!r}"
        )
    if descr[0] == ">" or (descr[0] == "=" and sys.byteorder == "big"):
        data = np.ascontiguousarray(data.reshape(-1, size)[:, ::-1]).reshape(-1)
    if fortran_order and len(shape) > 1:
        items = data.reshape(*shape[::-1], size)
        axes = (*range(len(shape) - 1, -1, -1), len(shape))
        data = np.ascontiguousarray(items.transpose(axes)).reshape(-1)
    data = data.view()
    data.flags.writeable = False
    return StoredTensor(name, _DTYPES[kind], shape, data, source)


def _parse_header(header: bytes, where: str) -> tuple[str, bool, tuple[int, ...]]:
    text = header.decode("latin-1").strip()
    found: dict[str, str] = {}
    if text[:1] == "{" and text[-1:] == "}":
        at, end = 1, len(text) - 1
        while at < end and (key := _KEY.match(text, at, end)) is not None:
            value = _VALUES[key[1]].match(text, key.end(), end)
            if value is None or key[1] in found:
                break
            found[key[1]] = value[1]
            rest = text[value.end() : end].lstrip()
            at = end - len(rest.removeprefix(",").lstrip())
        if at == end and len(found) == 3:
            extents = re.findall(r"\d+", found["shape"])
            shape = tuple(int(extent) for extent in extents)
            if len(shape) <= _MAX_RANK and all(extent < 2**63 for extent in shape):
                return found["descr"], found["fortran_order"] == "True", shape
    raise ValueError(
        f"{where}: header {text[:60]!r}, expected a dict of 'descr' (a type's name), "
        "'fortran_order' and 'shape'"
    )
