"""Bounded readers of safetensors, GGUF and JSON files, and atomic writing.

Everything here treats a file as hostile: a length, offset, count or shape is compared with the size
of the file (or with a stated limit) before it is used, so that a bad file is a `ValueError` that
names it, never a crash, a hang or a `MemoryError`. Nothing here unpickles.
"""

from .atomic import atomic_writer, write_bytes
from .bounded_json import load_json, parse_json
from .gguf import GgufFile, StringArray, open_gguf
from .mapped_file import forget_pages
from .safetensors import SafetensorsFile, open_safetensors, write_safetensors
from .stored_tensor import StoredTensor

__all__ = [
    "GgufFile",
    "SafetensorsFile",
    "StoredTensor",
    "StringArray",
    "atomic_writer",
    "forget_pages",
    "load_json",
    "open_gguf",
    "open_safetensors",
    "parse_json",
    "write_bytes",
    "write_safetensors",
]
