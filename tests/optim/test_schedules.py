"""Schedules: the documented values, and bounds at any step."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.optim import Schedule, constant, cosine, linear


def test_constant():
    assert [constant(0.3)(step) for step in (0, 1, 10**6)] == [0.3, 0.3, 0.3]
    assert [constant(1.0, 3)(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("make", [linear, cosine])
def test_ends(make):
    schedule = make(1.0, total_steps=10, warmup_steps=3, final=0.25)
    assert schedule(0) == 0.25
    assert schedule(2) == 0.75
    assert schedule(3) == 1.0
    assert 0.25 < schedule(9) < 0.4
    assert schedule(10) == schedule(11) == schedule(10**6) == 0.25


def test_middle():
    assert linear(1.0, 8, final=0.5)(4) == 0.75
    assert cosine(1.0, 8, final=0.5)(4) == pytest.approx(0.75, rel=1e-15)  # cos(pi/2) is 6e-17
    assert cosine(1.0, 8)(2) == pytest.approx((1 + 2**-0.5) / 2, rel=1e-15)


@given(
    make=st.sampled_from([linear, cosine]),
    peak=st.floats(1e-6, 10),
    share=st.floats(0, 1),
    warmup=st.integers(0, 50),
    more=st.integers(1, 200),
    step=st.integers(0, 300),
)
def test_bounds_and_direction(make, peak, share, warmup, more, step):
    schedule = make(peak, warmup + more, warmup, final=peak * share)
    rate, following = schedule(step), schedule(step + 1)
    above = peak * (1 + 1e-15)  # final + (peak - final) may round up by one unit
    assert 0 <= rate <= above
    if step < warmup:
        assert 0 < rate < following <= above
    else:
        assert following <= rate
    assert schedule(warmup) == pytest.approx(peak, rel=1e-15)
    assert schedule(warmup + more) == peak * share


def test_plain_data():
    schedule = cosine(0.1, 100, 10)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), {"Schedule": Schedule}) == schedule


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: constant(-1), ValueError, "learning_rate.*-1"),
        (lambda: constant(1, warmup_steps=-2), ValueError, "warmup_steps.*-2"),
        (lambda: linear(1, 0), ValueError, "total_steps.*>= 1.*0"),
        (lambda: linear(1, 5, 5), ValueError, "total_steps.*>= 6.*5"),
        (lambda: linear(1, 5.0), TypeError, "total_steps.*integer"),
        (lambda: cosine(1, 5, final=2), ValueError, "final.*<= 1.*2"),
        (lambda: Schedule("step", 1.0), ValueError, "kind.*'step'"),
        (lambda: Schedule("constant", 1.0, 5), ValueError, "total_steps.*None.*constant"),
        (lambda: Schedule("cosine", 1.0), ValueError, "total_steps.*given.*cosine"),
        (lambda: constant(1)(-1), ValueError, "step.*-1"),
        (lambda: constant(1)(0.5), TypeError, "step.*0.5"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
