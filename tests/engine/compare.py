"""How far a float32 engine may lie from the float64 twin.

1e-5 of the size of the answer, or four times what the same model loses when the twin runs in
float32, where that is more: some random models amplify rounding, and nothing computed in float32
can do better there. The size of an answer is its largest entry (logits, log-likelihoods) or its
norm (gradients). Where an answer is nearly nothing, as a gradient that cancels, the absolute bound
is float32 rounding of the terms that cancelled.
"""

from __future__ import annotations

import numpy as np

RELATIVE = 1e-5
TIMES_FLOAT32 = 4.0
FLOOR = 1e-6


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
    bound = max(
        RELATIVE * float(np.linalg.norm(exact)),
        TIMES_FLOAT32 * float(np.linalg.norm(single - exact)),
        FLOOR,
    )
    error = float(np.linalg.norm(got - exact))
    assert error <= bound, f"off by {error:.2e}, bound {bound:.2e}"
