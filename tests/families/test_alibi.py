"""ALiBi's biases: the authors' slopes, and Falcon's rounding."""

from __future__ import annotations

import numpy as np

from softprompt.families.alibi import Alibi


def test_slopes_of_a_power_of_two():
    bias = Alibi().bias(8, 3)
    assert bias.shape == (8, 3)
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias[:, 1], 2.0 ** -np.arange(1, 9))
    np.testing.assert_array_equal(bias[:, 2], 2 * bias[:, 1])
    assert not bias[:, 0].any()


def test_slopes_between_powers_of_two():
    """The first heads have the slopes of 4, the others every second one of 8 (their section 3)."""
    slopes = Alibi().bias(6, 2)[:, 1]
    np.testing.assert_allclose(slopes, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3], rtol=1e-7)


def test_falcon_rounds_to_bfloat16():
    """8 bits of precision: 2^-1 * 257 = 128.5 becomes 128, as 257 becomes 256 before."""
    bias = Alibi(scale=0.5, rounded=True).bias(8, 260)
    assert bias[0, 257] == 0.5 * 128.0
    assert bias[0, 259] == 0.5 * 130.0
    exact = Alibi(scale=0.5).bias(8, 260)
    np.testing.assert_allclose(bias, exact, rtol=2**-7)
