"""clip_by_norm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softprompt.optim import clip_by_norm


@given(
    grad=arrays(np.float32, (3, 4), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    max_norm=st.floats(1e-6, 1e6),
)
def test_norm_and_direction(grad, max_norm):
    clipped, norm = clip_by_norm(grad, max_norm)
    exact = np.linalg.norm(grad.astype(np.float64))
    assert norm == pytest.approx(exact, rel=1e-12)  # two orders of summing in float64
    if norm <= max_norm:
        assert clipped is grad
    else:
        assert clipped.dtype == np.float32
        # Products rounded to float32 (6e-8 relative), or to its smallest step below 1e-38.
        want = grad.astype(np.float64) * (max_norm / exact)
        np.testing.assert_allclose(clipped, want, rtol=2e-7, atol=2e-45)


def test_the_gradient_is_left_alone():
    grad = np.full((2, 2), 3.0, np.float32)
    clipped, norm = clip_by_norm(grad, 3.0)
    assert norm == 6.0
    assert (clipped == 1.5).all()
    assert (grad == 3.0).all()


@pytest.mark.parametrize(
    ("grad", "max_norm", "error", "message"),
    [
        (np.ones((2, 2)), 0.0, ValueError, "max_norm.*> 0.*0.0"),
        (np.ones((2, 2)), None, TypeError, "max_norm.*None"),
        (np.ones(2), 1.0, ValueError, r"grad.*\(2,\)"),
        (np.ones((2, 2), int), 1.0, TypeError, "grad.*int64"),
        (np.array([[1.0], [np.nan]]), 1.0, ValueError, "grad.*row 1 of 2"),
    ],
)
def test_bad_arguments(grad, max_norm, error, message):
    with pytest.raises(error, match=message):
        clip_by_norm(grad, max_norm)
