"""Bounded readers of safetensors, GGUF, NumPy, torch and JSON files, and atomic writing.

Everything here treats a file as hostile: a length, offset, count or shape is compared with the size
of the file (or with a stated limit) before it is used, so that a bad file is a `ValueError` that
names it, never a crash, a hang or a `MemoryError`. Nothing here unpickles.
"""

from .atomic import atomic_writer, write_bytes
from .bounded_json import load_json, parse_json
from .ggml_types import GGML_TYPES
from .gguf import GgufFile, StringArray, open_gguf
from .mapped_file import check_mappings, forget_pages, mappings
from .safetensors import SafetensorsFile, open_safetensors, write_safetensors
from .stored_tensor import StoredTensor

__all__ = [
    "GGML_TYPES",
    "GgufFile",
    "SafetensorsFile",
    "StoredTensor",
    "StringArray",
    "atomic_writer",
    "check_mappings",
    "forget_pages",
    "load_json",
    "mappings",
    "open_gguf",
    "open_safetensors",
    "parse_json",
    "write_bytes",
    "write_safetensors",
]
