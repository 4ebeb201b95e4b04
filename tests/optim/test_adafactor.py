"""Adafactor against its formula, written down a second time in float64."""

import numpy as np
import pytest

from softprompt.optim import Adafactor


def reference(start, grads, *, lr=0.3, initial_step=0, weight_decay=1e-5, min_dim=128):
    """Return the prompts after each step, in float64 but for beta2, which T5X takes in float32."""
    p, v = start.astype(np.float64), 0.0
    rows, columns = 0.0, 0.0
    prompts = []
    for i, grad in enumerate(grads):
        t = np.float32(initial_step + i + 1)
        beta2 = float(np.float32(1) - t ** np.float32(-0.8))
        square = grad.astype(np.float64) ** 2 + 1e-30
        if min(p.shape) >= min_dim:
            rows = beta2 * rows + (1 - beta2) * square.mean(axis=1)
            columns = beta2 * columns + (1 - beta2) * square.mean(axis=0)
            v = np.outer(rows, columns) / rows.mean()
        else:
            v = beta2 * v + (1 - beta2) * square
        u = grad / np.sqrt(v)
        u /= max(1.0, np.sqrt(np.mean(u**2)))
        p = p - weight_decay * p - lr * u
        prompts.append(p)
    return prompts


@pytest.mark.parametrize("initial_step", [0, 7, 1_100_000])
@pytest.mark.parametrize("shape", [(1, 8), (100, 160), (150, 128), (128, 128), (130, 200)])
def test_formula(shape, initial_step):
    rng = np.random.default_rng(0)
    prompt = rng.normal(size=shape).astype(np.float32)
    grads = (rng.normal(size=(5, *shape)) * 1e-3).astype(np.float32)
    expected = reference(prompt, grads, initial_step=initial_step)
    optimizer = Adafactor(0.3, initial_step=initial_step)
    for grad, want in zip(grads, expected, strict=True):
        optimizer.step(prompt, grad)
        # float32 against float64: some units of 6e-8 a step, over 5 steps, entries of about 1.
        np.testing.assert_allclose(prompt, want, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((100, 4096), {"second_moment"}),
        ((128, 127), {"second_moment"}),
        ((128, 128), {"second_moment_short", "second_moment_long"}),
        ((300, 128), {"second_moment_short", "second_moment_long"}),
    ],
)
def test_factored_only_if_both_sides_have_128(shape, names):
    optimizer = Adafactor()
    optimizer.step(np.ones(shape, np.float32), np.ones(shape, np.float32))
    assert set(optimizer.state_dict()) - {"num_steps"} == names


def test_as_t5x_restores_it_every_step_moves_by_the_learning_rate():
    """The finding behind the preset: with t = 1.1 million the clipping is always active."""
    rng = np.random.default_rng(1)
    prompt = rng.normal(size=(20, 32)).astype(np.float32)
    optimizer = Adafactor(0.3, weight_decay=0.0, initial_step=1_100_000)
    for _ in range(20):
        before = prompt.copy()
        optimizer.step(prompt, rng.normal(size=prompt.shape).astype(np.float32))
        moved = np.sqrt(np.mean((prompt - before).astype(np.float64) ** 2))
        assert moved == pytest.approx(0.3, rel=1e-5)  # rounding of entries up to about 5


def test_weight_decay_is_not_multiplied_by_the_learning_rate():
    prompt = np.full((2, 2), 8.0, np.float32)
    Adafactor(0.0, weight_decay=0.25).step(prompt, np.ones((2, 2), np.float32))
    assert (prompt == 6.0).all()


def test_parameter_scale():
    grad = np.array([[1.0, -1.0]], np.float32)
    large = np.full((1, 2), 4.0, np.float32)
    Adafactor(0.5, weight_decay=0, multiply_by_parameter_scale=True).step(large, grad)
    np.testing.assert_array_equal(large, [[2.0, 6.0]])
    zero = np.zeros((1, 2), np.float32)
    Adafactor(0.5, weight_decay=0, multiply_by_parameter_scale=True, eps2=0.25).step(zero, grad)
    np.testing.assert_array_equal(zero, [[-0.125, 0.125]])


def test_zero_gradient_only_decays():
    prompt = np.full((2, 2), 8.0, np.float32)
    Adafactor(0.3, weight_decay=0.5).step(prompt, np.zeros((2, 2), np.float32))
    assert (prompt == 4.0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "learning_rate.*-0.1"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate.*nan"),
        ({"learning_rate": "0.1"}, TypeError, "learning_rate.*'0.1'"),
        ({"weight_decay": 1.5}, ValueError, "weight_decay.*<= 1.*1.5"),
        ({"decay_rate": 0}, ValueError, "decay_rate.*> 0.*0"),
        ({"initial_step": -1}, ValueError, "initial_step.*-1"),
        ({"initial_step": 1.0}, TypeError, "initial_step.*integer.*1.0"),
        ({"clipping_threshold": 0.0}, ValueError, "clipping_threshold"),
        ({"eps1": 0.0}, ValueError, "eps1"),
        ({"eps2": -1e-3}, ValueError, "eps2"),
        ({"factored": 1}, TypeError, "factored.*True or False"),
        ({"min_dim_size_to_factor": 0}, ValueError, "min_dim_size_to_factor"),
        ({"multiply_by_parameter_scale": None}, TypeError, "multiply_by_parameter_scale"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Adafactor(**arguments)
