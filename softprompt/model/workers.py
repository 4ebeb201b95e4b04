"""Engine contexts of one model: one for every caller that is at work, kept for the next one."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from softprompt.formats import check_mappings, mappings
from softprompt.model.stored import StoredMatrix
from softprompt.model.threads import engine

__all__ = ["PACK_ROWS", "Worker", "Workers"]

PACK_ROWS = 512
"""Rows computed together. More rows make matrix products a little faster and take more memory."""

STORED_PACK_ROWS = 240
"""The same where weights stay in their file, so that the workspace does not take what they save."""

SMALLEST_PACK_ROWS = 16


@dataclass
class Worker:
    """One caller's context, and the prompts and prefixes whose keys and values are resident in it
    (of prompts with the logits after them).
    """

    context: Any
    prompts: OrderedDict[bytes, tuple[int, np.ndarray | None]] = field(default_factory=OrderedDict)


class Workers:
    """A pool of contexts on one model.

    Parameters
    ----------
    core : softprompt._core.Model
    weights : mapping of str to ndarray or StoredMatrix
        The model's weights; what they take counts against `memory_limit`.
    memory_limit : int or None
        Bytes for weights and workspace together; None: no limit.
    """

    _all: ClassVar[weakref.WeakSet[Workers]] = weakref.WeakSet()

    def __init__(self, core: Any, weights: Mapping[str, Any], memory_limit: int | None) -> None:
        self.core = core
        self.weight_bytes = sum(weight.nbytes for weight in weights.values())
        self.memory_limit = memory_limit
        stored = [weight.data for weight in weights.values() if isinstance(weight, StoredMatrix)]
        self.pack_rows = STORED_PACK_ROWS if stored else PACK_ROWS
        borrowed = [weight for weight in weights.values() if isinstance(weight, np.ndarray)]
        self._mappings = mappings([*stored, *borrowed])
        self._reset()
        Workers._all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Worker] = []

    @contextmanager
    def lend(self) -> Iterator[Worker]:
        """Lend a worker; it comes back even if the call fails.

        Raises
        ------
        OSError
            A file of the weights was truncated.
        """
        check_mappings(self._mappings)
        with self._lock:
            worker = self._free.pop() if self._free else None
        if worker is None:
            worker = Worker(engine().Context(self.core))
        free = self._free
        try:
            yield worker
        finally:
            free.append(worker)

    @property
    def spare_bytes(self) -> int | None:
        """What `memory_limit` leaves beside the weights; None: no limit."""
        return None if self.memory_limit is None else self.memory_limit - self.weight_bytes

    def check_limit(self, needed: int) -> None:
        """Raise if a call may not take `needed` bytes beside the weights.

        Raises
        ------
        RuntimeError
            It would take more than `memory_limit`.
        """
        if self.memory_limit is not None and self.weight_bytes + needed > self.memory_limit:
            raise RuntimeError(
                f"memory_limit = {self.memory_limit} bytes: this call takes "
                f"{self.weight_bytes + needed} bytes, {self.weight_bytes} of them weights"
            )

    def rows_within_limit(self, workspace: Callable[[int], int]) -> int:
        """Largest `pack_rows` with which a call stays within the memory limit.

        Parameters
        ----------
        workspace : callable
            `pack_rows` to the bytes of workspace that the call then takes.

        Raises
        ------
        RuntimeError
            Not even the smallest does.
        """
        rows = self.pack_rows
        if self.memory_limit is None:
            return rows
        while True:
            needed = workspace(rows)
            if self.weight_bytes + needed <= self.memory_limit or rows <= SMALLEST_PACK_ROWS:
                self.check_limit(needed)
                return rows
            rows = max(SMALLEST_PACK_ROWS, rows // 2)


def _forget_contexts() -> None:
    """In a forked child the parent's other threads are gone, and with them whatever they held."""
    for workers in list(Workers._all):
        workers._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_contexts)
