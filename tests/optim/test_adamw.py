"""AdamW's arguments and edges; its values are compared in test_golden and in tests/parity."""

import numpy as np
import pytest

from softprompt.optim import AdamW


def test_first_step_is_the_learning_rate_against_the_sign():
    prompt = np.zeros((1, 3), np.float32)
    AdamW(0.5, eps=0.0).step(prompt, np.array([[2.0, -1e-3, 0.0]], np.float32))
    np.testing.assert_allclose(prompt, [[-0.5, 0.5, 0.0]], rtol=1e-6)  # roundings of float32


def test_weight_decay_is_multiplied_by_the_learning_rate():
    prompt = np.full((1, 2), 8.0, np.float32)
    AdamW(0.5, weight_decay=0.5).step(prompt, np.zeros((1, 2), np.float32))
    assert (prompt == 6.0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -1}, ValueError, "learning_rate.*>= 0.*-1"),
        ({"learning_rate": True}, TypeError, "learning_rate.*True"),
        ({"learning_rate": 0.1, "betas": 0.9}, TypeError, "betas.*two numbers.*0.9"),
        ({"learning_rate": 0.1, "betas": (0.9,)}, TypeError, "betas"),
        ({"learning_rate": 0.1, "betas": (0.9, 1.0)}, ValueError, r"betas\[1\].*< 1.*1.0"),
        ({"learning_rate": 0.1, "eps": -1e-8}, ValueError, "eps.*-1e-08"),
        ({"learning_rate": 0.1, "weight_decay": float("inf")}, ValueError, "weight_decay.*inf"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        AdamW(**arguments)
