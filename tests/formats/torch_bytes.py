"""Files of torch made by hand, so that every byte can be wrong."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np

from softprompt.formats.torch_file import LEGACY_START

# Opcodes of protocol 2; see pickletools.
PROTO, STOP, MARK = b"\x80\x02", b".", b"("


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def numbers(values: tuple[int, ...]) -> bytes:
    return MARK + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", size: int = 12, kind: str = "FloatStorage", device="cpu") -> bytes:
    """What puts a storage on the stack."""
    parts = text("storage") + name("torch", kind) + text(key) + text(device) + number(size)
    return MARK + parts + b"tQ"


def tensor(
    shape=(3, 4), strides=(4, 1), offset=0, *, of: bytes | None = None, rest: bytes | None = None
) -> bytes:
    """What puts a tensor on the stack."""
    hooks = name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + MARK
        + (storage() if of is None else of)
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + (b"\x89" + hooks if rest is None else rest)
        + b"tR"
    )


def state(**tensors: bytes) -> bytes:
    """A whole pickle: a dict of what puts values on the stack."""
    items = b"".join(text(key) + value for key, value in tensors.items())
    return PROTO + b"}" + MARK + items + b"u" + STOP


VALUES = np.arange(12, dtype="<f4")


def archive(
    data_pickle: bytes,
    storages: dict[str, bytes] | None = None,
    *,
    folder: str = "archive",
    method: int = zipfile.ZIP_STORED,
    **files: bytes,
) -> bytes:
    """A file of torch's zip layout; `storages` has VALUES as "0" if it is not given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr(f"{folder}/data.pkl", data_pickle)
        for file_name, content in files.items():
            file.writestr(f"{folder}/{file_name}", content)
        for key, content in ({"0": VALUES.tobytes()} if storages is None else storages).items():
            file.writestr(f"{folder}/data/{key}", content)
    return buffer.getvalue()


def legacy(
    data_pickle: bytes,
    *,
    version: int = 1001,
    machine: object = None,
    keys: object = ("0",),
    storages: bytes | None = None,
) -> bytes:
    """A file of the layout before torch 1.6."""
    machine = {"protocol_version": 1001, "little_endian": True} if machine is None else machine
    heads = (pickle.dumps(value, 2) for value in (version, machine))
    body = struct.pack("<q", 12) + VALUES.tobytes() if storages is None else storages
    keys = list(keys) if isinstance(keys, tuple) else keys
    return LEGACY_START + b"".join(heads) + data_pickle + pickle.dumps(keys, 2) + body
