"""How many threads the engine uses, and its start."""

from __future__ import annotations

import functools
import os
from typing import Any

__all__ = ["default_num_threads", "engine"]


@functools.cache
def engine() -> Any:
    """Return the extension module, started: kernels chosen, BLAS tested.

    The environment variable ``SOFTPROMPT_CPU`` (generic, avx2 or avx512) forces one path.

    Raises
    ------
    ValueError
        `SOFTPROMPT_CPU` is not a known name.
    RuntimeError
        This CPU lacks that path, or the BLAS library multiplies wrongly.
    ImportError
        The engine is not built: Python was started in a source tree.
    """
    try:
        from softprompt import _core
    except ImportError as err:
        raise ImportError(
            f"the engine softprompt._core is not in {os.path.dirname(os.path.dirname(__file__))}: "
            "in a source tree, start Python in another folder after `pip install .`, or use "
            "`pip install -e .`"
        ) from err

    _core.initialize(os.environ.get("SOFTPROMPT_CPU") or None)
    return _core


def default_num_threads() -> int:
    """Threads to use: the CPUs of this process (its CPU set, the container's quota), at most
    ``OMP_NUM_THREADS`` where that is set.
    """
    available = engine().info()["available_cpus"]
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(available, int(first))) if first.isdecimal() and int(first) else available


def check_num_threads(num_threads: object) -> int:
    """Return `num_threads` (None: the default) as a checked int."""
    if num_threads is None:
        return default_num_threads()
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"num_threads = {num_threads!r}: expected an int or None")
    value = num_threads.__index__()  # type: ignore[attr-defined]
    if not 1 <= value <= 1024:
        raise ValueError(f"num_threads = {value}: expected 1 to 1024")
    return value
