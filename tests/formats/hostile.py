"""What the fuzz tests of this folder share."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

# What a reader may raise on a bad file. MemoryError, struct.error, RecursionError are not among
# them.
ALLOWED = (ValueError, LookupError, OSError)


@contextmanager
def bounded_memory(limit: int) -> Iterator[None]:
    """Fail if Python and NumPy together allocate more than `limit` bytes at any moment inside."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak} bytes allocated, at most {limit} expected"


def mutations(data: bytes, count: int, *, head: int) -> Iterator[bytes]:
    """Truncations, and changes of bits, bytes and 8-byte words in the first `head`."""
    rng = np.random.default_rng(11)
    words = [0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, len(data)]
    for _ in range(count):
        changed = bytearray(data)
        where = int(rng.integers(min(head, len(data))))
        match int(rng.integers(4)):
            case 0:
                changed[where] ^= 1 << int(rng.integers(8))
            case 1:
                changed[where] = int(rng.integers(256))
            case 2:
                word = words[int(rng.integers(len(words)))]
                changed[where : where + 8] = word.to_bytes(8, "little")
            case 3:
                del changed[where:]
        yield bytes(changed)


def read_everything(mapping) -> None:
    """Touch every byte and every array of an open file."""
    for name in mapping:
        tensor = mapping[name]
        assert tensor.name == name
        assert tensor.data.dtype == np.uint8
        assert not tensor.data.flags.writeable
        tensor.data.sum()
    for value in mapping.metadata.values():
        if not isinstance(value, int | float | str):
            list(value)


def survives(open_file: Callable, path, data: bytes) -> bool:
    """Open and read bytes as a file; True if they were a valid one."""
    path.write_bytes(data)
    message = None
    try:
        read_everything(open_file(path))
    except ALLOWED as err:
        message = str(err)
    assert message is None or str(path) in message, "the message must name the file"
    return message is None
