"""The oracle itself: its gradients against finite differences, its words against their definitions.

Central differences with step 1e-6 in float64 have an error of about 1e-10 relative to the loss
(rounding, 1e-16 / 1e-6) and of the same order from the third derivative; 1e-6 relative to the
gradient's largest entry leaves room for both.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from reference import layers
from reference.random_specs import examples, prefixes, prompts, token_lists, twins

STEP = 1e-6
TOLERANCE = 1e-6


def differences(function, x: np.ndarray) -> np.ndarray:
    """Central differences of a scalar function at every entry of x."""
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = x.copy()
        moved[index] = x[index] + STEP
        above = function(moved)
        moved[index] = x[index] - STEP
        grad[index] = (above - function(moved)) / (2 * STEP)
    return grad


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    bound = TOLERANCE * max(1e-2, float(np.abs(expected).max()))
    assert np.abs(got - expected).max() <= bound, (np.abs(got - expected).max(), bound)


# ReLU has a kink; a step of 1e-6 crosses it with probability about 1e-5 per unit, so derandomised
# runs do not.
@given(st.data())
def test_loss_gradient_is_the_difference_quotient(data):
    twin = data.draw(twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"], max_rows=3)).astype(np.float64)
    batch = data.draw(examples(twin.spec["vocab_size"], max_examples=2))
    at = data.draw(st.integers(0, min(len(e[0]) for e in batch)))
    _, grad = twin.loss_and_grad(prompt, batch, at)
    assert_close(grad, differences(lambda p: twin.loss_and_grad(p, batch, at)[0], prompt))


@given(st.data())
def test_prefix_gradient_is_the_difference_quotient(data):
    twin = data.draw(twins())
    prefix = data.draw(prefixes(twin.spec, max_rows=2)).astype(np.float64)
    batch = data.draw(examples(twin.spec["vocab_size"], min_input=1, max_examples=2))
    _, grad = twin.loss_and_grad(prefix, batch)
    assert_close(grad, differences(lambda p: twin.loss_and_grad(p, batch)[0], prefix))


@given(st.data())
def test_a_prompt_leaves_its_prefix(data):
    """Logits after a prompt's rows and after its keys and values: the same numbers, so 1e-12."""
    twin = data.draw(twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"])).astype(np.float64)
    ids = data.draw(token_lists(twin.spec["vocab_size"], min_size=1))
    whole = twin.logits(ids, prompt)[len(prompt) :]
    after = twin.logits(ids, twin.key_values(prompt))
    assert np.abs(after - whole).max() <= 1e-12 * max(1.0, np.abs(whole).max())


@given(st.data())
def test_ranking_gradient_is_the_difference_quotient(data):
    twin = data.draw(twins())
    vocab = twin.spec["vocab_size"]
    prompt = data.draw(prompts(twin.spec["hidden_size"], max_rows=2)).astype(np.float64)
    inputs = data.draw(st.lists(token_lists(vocab, max_size=4), min_size=1, max_size=2))
    choices = data.draw(
        st.lists(token_lists(vocab, min_size=1, max_size=3), min_size=2, max_size=3)
    )
    targets = [data.draw(st.integers(0, len(choices) - 1)) for _ in inputs]
    options = {
        "length_normalize": data.draw(st.booleans()),
        "sample_weight": data.draw(st.sampled_from([None, [0.5, 2.0][: len(inputs)]])),
    }

    def loss(p):
        return twin.ranking_loss_and_grad(p, inputs, choices, targets, **options)[0]

    _, grad = twin.ranking_loss_and_grad(prompt, inputs, choices, targets, **options)
    assert_close(grad, differences(loss, prompt))


def test_a_part_of_a_layer_backwards_is_its_difference_quotient():
    rng = np.random.default_rng(5)
    x, dy = rng.standard_normal((2, 4, 7))
    weight, bias = rng.standard_normal((2, 7))
    for kind in ("rms", "layer"):
        _, saved = layers.norm(kind, x, weight, bias, 1e-3)
        grad = layers.norm_backward(kind, dy, weight, saved)
        assert_close(
            grad,
            differences(lambda z, k=kind: (layers.norm(k, z, weight, bias, 1e-3)[0] * dy).sum(), x),
        )
    for kind in ("relu", "silu", "gelu_erf", "gelu_tanh"):
        grad = layers.activation(kind, x)[1] * dy
        assert_close(
            grad, differences(lambda z, k=kind: (layers.activation(k, z)[0] * dy).sum(), x)
        )


def test_a_rotation_depends_on_distance_alone():
    rng = np.random.default_rng(6)
    q, k = rng.standard_normal((2, 1, 1, 6))
    frequencies = np.array([1.0, 0.1, 0.01])
    for interleaved in (False, True):

        def product(m: float, n: float, interleaved: bool = interleaved) -> float:
            turned = [
                layers.rotate(x, position * frequencies[None], interleaved)
                for x, position in ((q, m), (k, n))
            ]
            return float((turned[0] * turned[1]).sum())

        # Equal distances, equal products; 1e-12: sines and cosines of float64.
        assert abs(product(9.0, 4.0) - product(25.0, 20.0)) < 1e-12
        assert abs(product(9.0, 4.0) - product(9.0, 5.0)) > 1e-3


@given(st.data())
def test_attention_is_causal(data):
    twin = data.draw(twins())
    ids = data.draw(token_lists(twin.spec["vocab_size"], min_size=2))
    whole = twin.logits(ids)
    for end in range(1, len(ids)):
        # The same sums in matrices of other shapes: float64 rounding.
        np.testing.assert_allclose(twin.logits(ids[:end]), whole[:end], rtol=0, atol=1e-9)


@given(st.data())
def test_a_prompt_of_token_embeddings_is_the_text(data):
    twin = data.draw(twins())
    vocab = twin.spec["vocab_size"]
    start = data.draw(token_lists(vocab, min_size=1))
    rest = data.draw(token_lists(vocab, min_size=1))
    as_text = twin.logits(start + rest)
    np.testing.assert_allclose(twin.logits(rest, twin.embed(start)), as_text, rtol=0, atol=1e-12)
    after_first = twin.logits([start[0], *rest], twin.embed(start[1:]), at=1)
    np.testing.assert_allclose(after_first, as_text, rtol=0, atol=1e-12)


@given(st.data())
def test_probabilities_of_all_single_tokens_sum_to_one(data):
    twin = data.draw(twins())
    vocab = twin.spec["vocab_size"]
    ids = data.draw(token_lists(vocab, min_size=1))
    singles = [[token] for token in range(vocab)]
    logp = np.array([twin.log_likelihood(ids, target)[0] for target in singles])
    assert abs(np.exp(logp).sum() - 1.0) < 1e-12
    np.testing.assert_allclose(twin.rank([ids], singles)[0], logp, rtol=0, atol=1e-9)
