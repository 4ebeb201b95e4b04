"""What AdamW and Adafactor share: the step's order of events, its checks, and the saved state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from softprompt.optim.validation import (
    bad_row,
    check_count,
    check_finite,
    check_matrix,
    check_number,
)


class Optimizer:
    """Base of the optimisers of one prompt, a float32 array ``[num_virtual_tokens, hidden_size]``.

    A subclass gives the formula: `_initial_moments` and `_update`, both pure functions.

    Parameters
    ----------
    learning_rate : float or callable
        A number >= 0, or a schedule: a callable from the number of steps taken so far (0 at the
        first step) to such a number, as those of `softprompt.optim.schedules`.
    """

    def __init__(self, learning_rate: float | Callable[[int], float]) -> None:
        if not callable(learning_rate):
            learning_rate = check_number("learning_rate", learning_rate)
        self.learning_rate = learning_rate
        self._num_steps = 0
        self._moments: dict[str, np.ndarray] = {}

    @property
    def num_steps(self) -> int:
        """Number of steps taken so far."""
        return self._num_steps

    def current_learning_rate(self) -> float:
        """Return the learning rate that the next step uses.

        Raises
        ------
        TypeError, ValueError
            If the schedule returns something other than a finite number >= 0.
        """
        if callable(self.learning_rate):
            name = f"learning_rate({self._num_steps})"
            return check_number(name, self.learning_rate(self._num_steps))
        return self.learning_rate

    def step(self, prompt: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """Update `prompt` in place by one step against `grad`, and return it.

        If anything is refused, prompt and state are as they were before the call.

        Parameters
        ----------
        prompt : ndarray of shape (num_virtual_tokens, hidden_size), float32, writeable
            The same shape at every step.
        grad : ndarray of shape (num_virtual_tokens, hidden_size), floating
            Gradient of the loss with respect to `prompt`; converted to float32.

        Returns
        -------
        ndarray
            `prompt` itself.

        Raises
        ------
        TypeError
            If an array is not a NumPy array of the type above.
        ValueError
            If a shape is wrong, `prompt` is read-only, or an array holds NaN or infinity.
        RuntimeError
            If the formula overflows float32.
        """
        if check_matrix("prompt", prompt).dtype != np.float32:
            raise TypeError(f"prompt must be float32, got {prompt.dtype}")
        if not prompt.flags.writeable:
            raise ValueError("prompt must be writeable to be updated in place; pass a copy")
        if check_matrix("grad", grad).shape != prompt.shape:
            raise ValueError(f"grad must have the prompt's shape {prompt.shape}, got {grad.shape}")
        check_finite("prompt", prompt)
        check_finite("grad", grad)
        with np.errstate(over="ignore"):  # checked on the next line
            grad = grad.astype(np.float32, copy=False)
        check_finite("grad as float32", grad)

        initial = self._initial_moments(prompt.shape)
        moments = self._moments or initial
        for name, moment in moments.items():
            if moment.shape != initial[name].shape:
                raise ValueError(
                    f"prompt has the shape {prompt.shape}, but the optimiser's state belongs to "
                    f"another shape: {name} is {moment.shape}, expected {initial[name].shape}"
                )
        # Computed aside and checked, so that an overflow cannot poison the prompt or the state.
        with np.errstate(all="ignore"):
            updated, moments = self._update(prompt, grad, moments, self.current_learning_rate())
        for name, array in {"prompt": updated, **moments}.items():
            row = bad_row(array)
            if row is not None:
                raise RuntimeError(
                    f"step {self._num_steps} of {type(self).__name__} overflows float32 in row "
                    f"{row} of {name}: largest gradient {np.abs(grad).max():g}, learning rate "
                    f"{self.current_learning_rate():g}; the prompt was left as it was"
                )
        prompt[...] = updated
        self._moments = moments
        self._num_steps += 1
        return prompt

    def state_dict(self) -> dict[str, Any]:
        """Return what a later run needs to go on with the same bits, as copies.

        Returns
        -------
        dict
            ``"num_steps"`` (int) and, after the first step, the moments (float32 arrays).
            Parameters of the constructor are not in it.
        """
        moments = {name: moment.copy() for name, moment in self._moments.items()}
        return {"num_steps": self._num_steps, **moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the optimiser that returned `state` was.

        Raises
        ------
        TypeError
            If a value has another type than `state_dict` gives it.
        ValueError
            If `state` belongs to another optimiser, or a value is out of range or not finite.
        """
        if "num_steps" not in state:
            raise ValueError(f"state of an optimiser has num_steps, got {sorted(state)}")
        num_steps = check_count("num_steps", state["num_steps"])
        moments: dict[str, np.ndarray] = {}
        for name, value in state.items():
            if name == "num_steps":
                continue
            if not isinstance(value, np.ndarray) or value.dtype != np.float32 or not value.size:
                raise TypeError(f"{name} must be a float32 array with elements, got {value!r}")
            check_finite(name, value)
            moments[name] = np.array(value, order="C")
        if bool(moments) != bool(num_steps) or set(moments) not in self._moment_names():
            raise ValueError(
                f"state with {num_steps} steps and the moments {sorted(moments)} does not belong "
                f"to {self!r}, which has no moments before the first step, and then "
                + " or ".join(str(sorted(names)) for names in self._moment_names() if names)
            )
        self._num_steps, self._moments = num_steps, moments

    def _moment_names(self) -> tuple[set[str], ...]:
        """Return the sets of names that the moments may have; one is empty (before any step)."""
        raise NotImplementedError

    def _initial_moments(self, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """Return the moments before the first step of a prompt of that shape."""
        raise NotImplementedError

    def _update(
        self,
        prompt: np.ndarray,
        grad: np.ndarray,
        moments: dict[str, np.ndarray],
        learning_rate: float,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the new prompt and the new moments, without writing to any argument."""
        raise NotImplementedError

    def __repr__(self) -> str:
        # The public attributes are the constructor's arguments.
        settings = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return f"{type(self).__name__}({arguments})"
