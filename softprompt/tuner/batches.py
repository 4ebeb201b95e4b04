"""Which rows each step trains on: epochs, shuffled anew each time, cut into batches."""

from __future__ import annotations

from typing import Any

import numpy as np


class ShuffledEpochs:
    """An endless sequence of batches of row numbers.

    Every epoch holds each row once in a random order. A batch that reaches the end of an epoch goes
    on in the next, so that all batches have the same size.

    Parameters
    ----------
    num_rows : int >= 1
    batch_size : int >= 1
        At most `num_rows` rows are in a batch.
    seed : int
        Of a PCG64 generator.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self._num_rows = num_rows
        self._batch_size = min(batch_size, num_rows)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._epoch_state = self._rng.bit_generator.state
        self._order = self._rng.permutation(self._num_rows)
        self._cursor = 0

    def next_batch(self) -> np.ndarray:
        """Return the next row numbers, int64 ``[batch_size]``."""
        parts: list[np.ndarray] = []
        missing = self._batch_size
        while missing:
            if self._cursor == self._num_rows:
                self._start_epoch()
            part = self._order[self._cursor : self._cursor + missing]
            self._cursor += len(part)
            missing -= len(part)
            parts.append(part)
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, Any]:
        """Return where the sequence stands: the generator at the epoch's start, rows used since.

        The order of the epoch is not stored: the generator makes it again.
        """
        state = self._epoch_state
        return {
            "state": str(state["state"]["state"]),  # 128 bits, more than some JSON readers take
            "increment": str(state["state"]["inc"]),
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
            "cursor": self._cursor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the sequence that returned `state` stood.

        Raises
        ------
        ValueError
            If `state` is not one.
        """
        try:
            words = {"state": int(state["state"]), "inc": int(state["increment"])}
            rest = {key: int(state[key]) for key in ("has_uint32", "uinteger")}
            cursor = int(state["cursor"])
            self._rng.bit_generator.state = {"bit_generator": "PCG64", "state": words, **rest}
        except (KeyError, TypeError, ValueError, OverflowError) as err:
            raise ValueError(f"state of the batches is damaged: {err}") from err
        if not 0 <= cursor <= self._num_rows:
            raise ValueError(f"cursor of the batches is {cursor}, outside 0..{self._num_rows}")
        self._start_epoch()
        self._cursor = cursor
