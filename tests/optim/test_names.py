"""Optimisers and schedules by name."""

import pytest

from softprompt.optim import Adafactor, AdamW, cosine, make_optimizer


def test_by_name():
    optimizer = make_optimizer(
        "adamw", 0.1, schedule="cosine", total_steps=9, warmup_steps=2, final=0.01, eps=1e-6
    )
    assert isinstance(optimizer, AdamW)
    assert optimizer.eps == 1e-6
    assert optimizer.learning_rate == cosine(0.1, 9, 2, 0.01)
    assert isinstance(make_optimizer("adafactor", 0.3), Adafactor)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_optimizer("sgd", 0.1), ValueError, "optimizer='sgd'.*'adamw', 'adafactor'"),
        (lambda: make_optimizer("adamw", 0.1, schedule=[]), ValueError, r"schedule=\[\].*'cosine'"),
        (lambda: make_optimizer("adamw", 0.1, schedule="linear"), ValueError, "total_steps.*given"),
        (lambda: make_optimizer("adamw", 0.1, momentum=1), TypeError, "momentum"),
        (lambda: make_optimizer("adamw", None), TypeError, "learning_rate.*None"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
