"""The encoder-decoder oracle against finite differences and against what its parts mean.

Tolerances as in `test_twin.py`.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from reference.random_specs import pair_twins, prompts, token_lists
from reference.test_twin import assert_close, differences


@st.composite
def pair_examples(draw, twin, *, most=2):
    """(input ids, target ids) of a twin's two vocabularies."""
    spec = twin.spec
    inputs = spec["encoder_vocab_size"] or spec["vocab_size"]
    return [
        (
            draw(token_lists(inputs, min_size=1, max_size=5)),
            draw(token_lists(spec["vocab_size"], min_size=1, max_size=4)),
        )
        for _ in range(draw(st.integers(1, most)))
    ]


@given(st.data())
def test_loss_gradient_is_the_difference_quotient(data):
    twin = data.draw(pair_twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"], max_rows=3)).astype(np.float64)
    batch = data.draw(pair_examples(twin))
    at = data.draw(st.integers(0, 1))
    _, grad = twin.loss_and_grad(prompt, batch, at)
    assert_close(grad, differences(lambda p: twin.loss_and_grad(p, batch, at)[0], prompt))


@given(st.data())
def test_ranking_gradient_is_the_difference_quotient(data):
    twin = data.draw(pair_twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"], max_rows=2)).astype(np.float64)
    inputs = [i for i, _ in data.draw(pair_examples(twin))]
    choice = token_lists(twin.spec["vocab_size"], min_size=1, max_size=3)
    choices = data.draw(st.lists(choice, min_size=2, max_size=3))
    targets = [data.draw(st.integers(0, len(choices) - 1)) for _ in inputs]
    _, grad = twin.ranking_loss_and_grad(prompt, inputs, choices, targets)
    assert_close(
        grad,
        differences(lambda p: twin.ranking_loss_and_grad(p, inputs, choices, targets)[0], prompt),
    )


@given(st.data())
def test_the_decoder_is_causal_and_the_encoder_is_not(data):
    twin = data.draw(pair_twins(norm_place="pre"))
    inputs, targets = data.draw(pair_examples(twin, most=1))[0]
    targets = [*targets, 0, 1]
    whole = twin.pair_logits(inputs, targets)
    # The same sums in matrices of other shapes: float64 rounding.
    np.testing.assert_allclose(twin.pair_logits(inputs, targets[:-1]), whole[:-1], atol=1e-9)
    memory, _ = twin._encode([*inputs, 3, 7], None, 0)
    shorter, _ = twin._encode([*inputs, 3], None, 0)
    assert np.abs(memory[0] - shorter[0]).max() > 1e-9
