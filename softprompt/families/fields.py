"""Typed, bounded reading of the values of a model's configuration.

Every reader names the key, the value it found, what was expected and the file, so that a damaged
or hostile configuration ends in one sentence instead of an allocation or a wrong model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MAX_SIZE = 2**31 - 1
"""Largest size the engine indexes with (a signed 32-bit integer)."""

MAX_LAYERS = 4096
"""Largest number of layers accepted; the slots are listed before any tensor is looked at."""


MAX_POSITIONS = 2**24
"""Longest context that the engine takes."""

_LARGEST = float(np.finfo(np.float32).max)


class Fields:
    """A configuration's keys with the defaults of its family.

    Parameters
    ----------
    values : mapping
        The configuration as read (``config.json`` or GGUF metadata).
    where : str
        Name of the file, used in every message.
    defaults : mapping, optional
        Values of absent keys. A key that is present as ``null`` counts as present.
    prefix : str, default ""
        Put in front of every key (GGUF: ``"llama."``).
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        where: str,
        defaults: Mapping[str, Any] | None = None,
        prefix: str = "",
    ) -> None:
        self.values = values
        self.where = where
        self.defaults = defaults or {}
        self.prefix = prefix

    def get(self, key: str) -> Any:
        """Return the value of `key`, its default, or None."""
        return self.values.get(self.prefix + key, self.defaults.get(key))

    def error(self, key: str, expected: str) -> ValueError:
        """Build the error that says what `key` should have been."""
        return ValueError(
            f"{self.where}: {self.prefix}{key} is {_short(self.get(key))}, expected {expected}"
        )

    def integer(self, key: str, *, low: int = 1, high: int = MAX_SIZE) -> int:
        """Return an integer in ``[low, high]``."""
        value = self.get(key)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"an integer in [{low}, {high}]")
        return value

    def optional_integer(self, key: str, *, low: int = 1, high: int = MAX_SIZE) -> int | None:
        """Return an integer in ``[low, high]``, or None where the key is absent or null."""
        return None if self.get(key) is None else self.integer(key, low=low, high=high)

    def number(self, key: str, *, positive: bool = True) -> float:
        """Return a number within float32, by default one above zero."""
        value = self.get(key)
        if isinstance(value, np.generic):
            value = value.item()
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not abs(value) <= _LARGEST
            or (positive and value <= 0)
        ):
            raise self.error(key, f"a number {'above 0 ' if positive else ''}that float32 holds")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return a boolean."""
        value = self.get(key)
        if isinstance(value, np.bool_):
            value = bool(value)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def choice(self, key: str, table: Mapping[str, str]) -> str:
        """Return ``table[value]``; another value is an error that lists the table's keys."""
        value = self.get(key)
        if not isinstance(value, str) or value not in table:
            raise self.error(key, "one of " + ", ".join(sorted(table)))
        return table[value]

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        """Return an object (a dict), or None where the key is absent or null."""
        value = self.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(key, "an object or null")
        return value

    def neutral(self, key: str, accepted: tuple[Any, ...], effect: str) -> None:
        """Refuse a switch that changes the function unless it has a value without effect.

        Parameters
        ----------
        key : str
            The switch.
        accepted : tuple
            Values that change nothing. Absent and null are always accepted.
        effect : str
            What the switch does, for the message.
        """
        value = self.get(key)
        if value is None or any(type(value) is type(a) and value == a for a in accepted):
            return
        raise ValueError(
            f"{self.where}: {self.prefix}{key} is {_short(value)} ({effect}), "
            "which softprompt does not compute"
        )


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**40:  # repr() refuses thousands of digits
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
