"""Progress bars that stay out of the way of logs, worker processes and tests."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any


def wants_bar(show: bool | str) -> bool:
    """Return whether to show a bar.

    Parameters
    ----------
    show : bool or "auto"
        ``"auto"``: in the main process, on a terminal or in a notebook.
    """
    if show != "auto":
        return bool(show)
    if multiprocessing.current_process().name != "MainProcess":
        return False
    return "ipykernel" in sys.modules or bool(getattr(sys.stderr, "isatty", lambda: False)())


def bar_over(total: int, *, show: bool | str, unit: str, initial: int = 0) -> Any:
    """Return a tqdm bar on stderr, or one that shows nothing."""
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, unit=unit, disable=not wants_bar(show), leave=True)


class Progress:
    """The bar of a run: steps, the loss as a running mean, the last validation score.

    Parameters
    ----------
    total, initial : int
        Steps of the run, and those taken before it was resumed.
    show : bool or "auto"
        See `wants_bar`.
    """

    def __init__(self, total: int, initial: int, *, show: bool | str) -> None:
        self._bar = bar_over(total, show=show, unit="step", initial=initial)
        self._loss: float | None = None
        self._score: float | None = None

    def step(self, loss: float) -> None:
        """Count a step."""
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        self._show()
        self._bar.update()

    def evaluation(self, score: float) -> None:
        """Show a validation score."""
        self._score = score
        self._show()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _show(self) -> None:
        shown = {"loss": self._loss, "validation": self._score}
        self._bar.set_postfix(
            {name: f"{value:.4f}" for name, value in shown.items() if value is not None},
            refresh=False,
        )
