"""GGUF files put together field by field, right and wrong ones alike."""

from __future__ import annotations

import struct

U32, STRING, ARRAY, BOOL = 4, 8, 9, 7


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return u64(len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + u32(kind) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return u32(kind) + u64(count) + items


def tensor(name: str, dims=(4,), kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def gguf(
    pairs=(), tensors=(), data: bytes = b"", *, version=3, counts=None, align=32, magic=b"GGUF"
) -> bytes:
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    head = magic + u32(version) + u64(tensor_count) + u64(pair_count)
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % align) + data
