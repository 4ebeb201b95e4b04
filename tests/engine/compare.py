"""How far a float32 engine may lie from the float64 twin.

1e-5 of the size of the answer, or sixteen times what the same model loses when the twin runs in
float32, where that is more: some random models amplify rounding, and nothing computed in float32
can do better there. (Sixteen and not four, because one run in float32 may be lucky.) The size of an
answer is its largest entry (logits, log-likelihoods) or its norm (gradients). Where an answer is
nearly nothing, as a gradient that cancels, the absolute bound is float32 rounding of the terms that
cancelled. A loss whose gradient is large answers for the rounding of its inputs, 1e-7, that many
times; and the gradient itself then turns as fast.
"""

from __future__ import annotations

import numpy as np

RELATIVE = 1e-5
TIMES_FLOAT32 = 16.0
FLOOR = 1e-6
ROUNDING = 1e-7


def assert_loss(got: float, exact: float, single: float, grad: np.ndarray) -> None:
    """Compare a loss whose exact gradient is `grad`."""
    bound = max(
        RELATIVE * max(1.0, abs(exact)),
        TIMES_FLOAT32 * abs(single - exact),
        ROUNDING * float(np.linalg.norm(grad)),
    )
    assert abs(got - exact) <= bound, f"off by {abs(got - exact):.2e}, bound {bound:.2e}"


def assert_rows(got: np.ndarray, exact: np.ndarray, single: np.ndarray) -> None:
    """Compare by the largest difference."""
    got, exact = np.asarray(got, dtype=np.float64), np.asarray(exact)
    assert got.shape == exact.shape
    if exact.size == 0:
        return
    size = max(1.0, float(np.abs(exact).max()))
    bound = max(RELATIVE * size, TIMES_FLOAT32 * float(np.abs(single - exact).max()))
    error = float(np.abs(got - exact).max())
    assert error <= bound, f"off by {error:.2e}, bound {bound:.2e}"


def assert_gradient(got: np.ndarray, exact: np.ndarray, single: np.ndarray) -> None:
    """Compare by the norm of the difference."""
    assert got.dtype == np.float32
    assert got.shape == exact.shape
    size = float(np.linalg.norm(exact))
    bound = max(
        RELATIVE * size,
        TIMES_FLOAT32 * float(np.linalg.norm(single - exact)),
        10 * ROUNDING * size**2,
        FLOOR,
    )
    error = float(np.linalg.norm(got - exact))
    assert error <= bound, f"off by {error:.2e}, bound {bound:.2e}"
