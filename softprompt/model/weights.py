"""Stored tensors to float32 arrays, panel by panel, without a second copy of anything."""

from __future__ import annotations

import re

import numpy as np

from softprompt.families import View
from softprompt.formats import StoredTensor, forget_pages
from softprompt.model.threads import engine

__all__ = ["ENGINE_TYPES", "PANEL", "check_finite", "materialise"]

PANEL = 1 << 20
"""Numbers converted at a time where the slot is not laid out as the file (4 MiB of float32)."""

ENGINE_TYPES = frozenset(
    {"F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
    | {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"}
    | {"IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"}
    | {"TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}
)
"""Types that the engine converts, with all CPUs of the process."""


def materialise(stored: StoredTensor, view: View, shape: tuple[int, ...]) -> np.ndarray:
    """Return a slot's weights.

    Parameters
    ----------
    stored : StoredTensor
        The tensor, whose shape is ``view.stored_shape(shape)``.
    view : View
        Which part of it the slot is.
    shape : tuple of int
        Shape of the slot, ``[out, in]`` or ``[out]``.

    Returns
    -------
    ndarray of float32, C-contiguous, read-only
        Where the file holds aligned float32 in the slot's own layout: the mapped file itself.

    Raises
    ------
    ValueError
        NaN or infinity among the weights, or a type that holds none, with the tensor's name.
    ImportError
        A rare type needs the `gguf` library, which is not installed.
    """
    if re.match("BOOL|[IUC][0-9]|F[468]_|F4$", stored.dtype):
        raise ValueError(
            f"{stored.source}: tensor {stored.name!r} has type {stored.dtype}, expected F32, F16, "
            "BF16, F64 or a quantised type of ggml"
        )
    if view.transpose:
        out = np.empty(shape, dtype=np.float32)
        _fill_transposed(stored, view, out)
    elif view.stride and len(shape) == 1:
        out = _fill_vector(stored, view, shape[0])
    else:
        part = _rows_of(stored, view, shape[0])
        out = _borrowed(part, shape) if view.offset == 0 else None
        if out is not None:
            _check_whole(stored, out)
            return out
        out = np.empty(shape, dtype=np.float32)
        _fill(part, out)
    if view.offset != 0:
        out += np.float32(view.offset)
    forget_pages(stored.data)  # the file would stay in memory beside its conversion
    _check_whole(stored, out)
    out.flags.writeable = False
    return out


def _rows_of(stored: StoredTensor, view: View, rows: int) -> StoredTensor:
    """Return the tensor restricted to the rows that the view names."""
    if not view.stride:
        return stored
    count = rows // view.blocks
    blocks = stored.data.reshape(view.blocks, view.stride, -1)
    data = blocks[:, view.start : view.start + count].reshape(-1)  # a view of a single block
    return StoredTensor(stored.name, stored.dtype, (rows, *stored.shape[1:]), data, stored.source)


def _borrowed(stored: StoredTensor, shape: tuple[int, ...]) -> np.ndarray | None:
    if stored.dtype != "F32":
        return None
    array = stored.data.view("<f4").reshape(shape)
    return array if array.flags.aligned and array.dtype == np.float32 else None


def _fill(part: StoredTensor, out: np.ndarray) -> None:
    """Convert a tensor into `out`, which has its layout."""
    if part.dtype in ENGINE_TYPES:
        _convert(part, part.data, out.reshape(-1), out.shape[-1])
        return
    rows = out.reshape(-1, out.shape[-1])
    data = part.data.reshape(rows.shape[0], -1)
    step = max(1, PANEL // rows.shape[1])
    for first in range(0, rows.shape[0], step):
        panel = rows[first : first + step]
        _convert(part, data[first : first + step].reshape(-1), panel.reshape(-1), panel.shape[1])


def _fill_vector(stored: StoredTensor, view: View, size: int) -> np.ndarray:
    """Convert a part of a vector, whose blocks of a quantised type may straddle its parts."""
    whole = np.empty(stored.shape, dtype=np.float32)
    _fill(stored, whole)
    blocks = whole.reshape(view.blocks, view.stride)
    return np.array(blocks[:, view.start : view.start + size // view.blocks].reshape(size))


def _fill_transposed(stored: StoredTensor, view: View, out: np.ndarray) -> None:
    """Convert ``[in, blocks * stride]`` as stored into ``[out, in]``."""
    rows, columns = stored.shape
    data = stored.data.reshape(rows, -1)
    stride = view.stride or columns
    chosen = slice(view.start, view.start + out.shape[0] // view.blocks)
    step = max(1, PANEL // columns)
    buffer = np.empty((min(step, rows), columns), dtype=np.float32)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        panel = buffer[: last - first]
        _convert(stored, data[first:last].reshape(-1), panel.reshape(-1), columns)
        blocks = panel.reshape(last - first, view.blocks, stride)[:, :, chosen]
        out[:, first:last] = blocks.reshape(last - first, out.shape[0]).T


def _convert(stored: StoredTensor, data: np.ndarray, out: np.ndarray, columns: int) -> None:
    """Convert whole rows of `columns` numbers; `data` uint8 and `out` float32, both 1-D."""
    if stored.dtype == "F32":
        out[...] = data.view("<f4")
    elif stored.dtype == "F64":
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused
            out[...] = data.view("<f8")
    elif stored.dtype in ENGINE_TYPES:
        engine().dequantize(stored.dtype, data, out)
    else:
        _convert_with_gguf(stored, data, out, columns)


def _convert_with_gguf(
    stored: StoredTensor, data: np.ndarray, out: np.ndarray, columns: int
) -> None:
    where = f"{stored.source}: tensor {stored.name!r} has type {stored.dtype}"
    try:
        import gguf
    except ImportError as err:
        raise ImportError(
            f"{where}, which needs the gguf library: pip install softprompt[gguf]"
        ) from err
    try:
        kind = gguf.GGMLQuantizationType[stored.dtype]
        rows = gguf.quants.dequantize(data.reshape(out.size // columns, -1), kind)
    except (KeyError, NotImplementedError) as err:
        raise ValueError(
            f"{where}, which gguf {getattr(gguf, '__version__', '')} does not convert to float32"
        ) from err
    out[...] = rows.reshape(-1)


def _check_whole(stored: StoredTensor, array: np.ndarray) -> None:
    flat = array.reshape(-1)
    for first in range(0, flat.size, PANEL):
        check_finite(stored, flat[first : first + PANEL], first, array.shape)


def check_finite(
    stored: StoredTensor, numbers: np.ndarray, first: int, shape: tuple[int, ...]
) -> None:
    """Refuse NaN and infinity.

    Parameters
    ----------
    stored : StoredTensor
        For the message.
    numbers : ndarray
        A part of a weight.
    first : int
        Place of its first number in the weight.
    shape : tuple of int
        Shape of the weight.

    Raises
    ------
    ValueError
        With the tensor's name and the place.
    """
    good = np.isfinite(numbers)
    if not good.all():
        bad = int(np.argmin(good))
        index = ", ".join(str(int(i)) for i in np.unravel_index(first + bad, shape))
        raise ValueError(
            f"{stored.source}: tensor {stored.name!r} holds {numbers.reshape(-1)[bad]} (at "
            f"[{index}] of the weight), expected finite weights"
        )
