"""What holds for every optimiser: in place, nothing poisoned, resumed to the bit."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.optim import Adafactor, AdamW, linear

MAKERS = {
    "adamw": lambda: AdamW(linear(0.1, 9, 2), weight_decay=0.01),
    "adafactor": lambda: Adafactor(linear(0.1, 9, 2), initial_step=3),
    "factored": lambda: Adafactor(0.1, min_dim_size_to_factor=2),
}
everyone = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def grads(seed, steps, shape):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(steps, *shape)) * 10.0 ** rng.integers(-5, 3)).astype(np.float32)


def start(shape):
    return np.random.default_rng(99).normal(size=shape).astype(np.float32)


@everyone
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    cut=st.integers(0, 6),
)
def test_resumed_to_the_bit(make, seed, shape, cut):
    gradients = grads(seed, 6, shape)
    whole, prompt = make(), start(shape)
    for grad in gradients:
        whole.step(prompt, grad)

    first, resumed_prompt = make(), start(shape)
    for grad in gradients[:cut]:
        first.step(resumed_prompt, grad)
    second = make()
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for grad in gradients[cut:]:
        second.step(resumed_prompt, grad)

    assert resumed_prompt.tobytes() == prompt.tobytes()
    state, expected = second.state_dict(), whole.state_dict()
    assert state.keys() == expected.keys()
    assert state["num_steps"] == expected["num_steps"] == 6
    for name in state.keys() - {"num_steps"}:
        assert state[name].tobytes() == expected[name].tobytes()


@everyone
def test_state_is_a_copy_on_the_way_out_and_in(make):
    optimizer, prompt = make(), start((3, 4))
    optimizer.step(prompt, grads(0, 1, (3, 4))[0])
    state = optimizer.state_dict()
    other = make()
    other.load_state_dict(state)
    for name in state.keys() - {"num_steps"}:
        state[name][:] = 7
        for holder in (optimizer, other):
            assert not (holder.state_dict()[name] == 7).any()


@everyone
def test_step_works_in_place_and_leaves_the_gradient(make):
    prompt, grad = start((3, 4)), grads(0, 1, (3, 4))[0].astype(np.float64)
    kept = grad.copy()
    optimizer = make()
    assert optimizer.num_steps == 0
    assert optimizer.step(prompt, grad) is prompt
    assert optimizer.num_steps == 1
    assert (grad == kept).all()
    assert (prompt != start((3, 4))).all()


@everyone
@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (np.full((3, 4), np.nan, np.float32), ValueError, "grad.*row 0 of 3.*NaN"),
        (np.array([[0.0] * 4, [0.0] * 4, [0, 0, np.inf, 0]]), ValueError, "grad.*row 2 of 3"),
        (np.full((3, 4), 1e300), ValueError, "grad as float32.*row 0"),
        (np.full((3, 4), 1e30, np.float32), RuntimeError, "overflows float32 in row 0.*1e\\+30"),
        (np.zeros((3, 5), np.float32), ValueError, r"grad.*\(3, 4\).*\(3, 5\)"),
        (np.zeros((3, 4), np.int64), TypeError, "grad.*int64"),
        (np.zeros((3, 4), np.complex64), TypeError, "grad.*complex64"),
        ([[0.0] * 4] * 3, TypeError, "grad.*list"),
    ],
)
def test_a_bad_gradient_changes_nothing(make, grad, error, message):
    optimizer, prompt = make(), start((3, 4))
    optimizer.step(prompt, grads(0, 1, (3, 4))[0])
    before, state = prompt.copy(), pickle.dumps(optimizer.state_dict())
    with pytest.raises(error, match=message):
        optimizer.step(prompt, grad)
    assert prompt.tobytes() == before.tobytes()
    assert pickle.dumps(optimizer.state_dict()) == state


@everyone
@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (np.zeros((2, 3)), TypeError, "prompt.*float32.*float64"),
        (np.zeros(3, np.float32), ValueError, r"prompt.*\(3,\)"),
        (np.zeros((0, 3), np.float32), ValueError, r"prompt.*\(0, 3\)"),
        (np.full((2, 3), np.inf, np.float32), ValueError, "prompt.*row 0"),
        (np.broadcast_to(np.float32(0), (2, 3)), ValueError, "prompt.*writeable"),
        (None, TypeError, "prompt.*NoneType"),
    ],
)
def test_bad_prompt(make, prompt, error, message):
    with pytest.raises(error, match=message):
        make().step(prompt, np.zeros((2, 3), np.float32))


@everyone
def test_another_shape_after_the_first_step(make):
    optimizer = make()
    optimizer.step(start((3, 4)), start((3, 4)))
    with pytest.raises(ValueError, match=r"another shape.*\(3,|another shape.*\(4,"):
        optimizer.step(start((5, 6)), start((5, 6)))


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({}, ValueError, "num_steps"),
        ({"num_steps": -1}, ValueError, "num_steps.*-1"),
        ({"num_steps": 1}, ValueError, "does not belong"),
        ({"num_steps": 1, "second_moment": np.ones((1, 2), np.float32)}, ValueError, "AdamW"),
        (
            {"num_steps": 0, "first_moment": np.ones((1, 2), np.float32)},
            ValueError,
            "does not belong",
        ),
        ({"num_steps": 1, "first_moment": np.ones((1, 2))}, TypeError, "first_moment.*float32"),
        (
            {"num_steps": 1, "first_moment": np.full((1, 2), np.nan, np.float32)},
            ValueError,
            "first_moment.*row 0",
        ),
    ],
)
def test_bad_state(state, error, message):
    with pytest.raises(error, match=message):
        AdamW(0.1).load_state_dict(state)


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_bad_value_of_a_schedule(value):
    prompt = start((2, 2))
    with pytest.raises(ValueError, match=r"learning_rate\(0\)"):
        AdamW(lambda step: value).step(prompt, prompt.copy())
    assert (prompt == start((2, 2))).all()


@everyone
def test_pickle_copy_and_repr(make):
    optimizer = make()
    optimizer.step(start((3, 4)), start((3, 4)))
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert repr(twin) == repr(optimizer)
        assert twin.num_steps == 1
    assert "learning_rate=" in repr(optimizer)
