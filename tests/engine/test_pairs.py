"""Random encoder-decoders, every switch in every combination, against the float64 twin.

The tolerance is `compare.py`'s. The twin runs each example alone; the engine packs encoder segments
together, lets several targets read one of them and shares the beginnings of targets.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from engine.build import engine_model, without_sharing
from engine.compare import assert_gradient, assert_loss, assert_rows
from hypothesis import given
from reference.pair import PairTwin
from reference.random_specs import pair_twins, prompts, random_weights, token_lists

from softprompt import SoftPrompt, _core


def input_vocab(twin) -> int:
    return twin.spec["encoder_vocab_size"] or twin.spec["vocab_size"]


@st.composite
def batches(draw, twin, *, min_input=0, most=5):
    """(input ids, target ids[, weights]), equal inputs and equal beginnings of targets likely."""
    pool = [draw(token_lists(input_vocab(twin), min_size=min_input, max_size=7)) for _ in range(2)]
    start = draw(token_lists(twin.spec["vocab_size"], max_size=5))
    batch = []
    for _ in range(draw(st.integers(1, most))):
        fresh = token_lists(input_vocab(twin), min_size=min_input, max_size=9)
        ids = draw(st.sampled_from(pool)) if draw(st.booleans()) else draw(fresh)
        shared = start[: draw(st.integers(0, len(start)))]
        target = shared + draw(token_lists(twin.spec["vocab_size"], min_size=1, max_size=4))
        example = (ids, target)
        if draw(st.booleans()):
            weights = st.floats(0.1, 3.0, allow_nan=False)
            example += (draw(st.lists(weights, min_size=len(target), max_size=len(target))),)
        batch.append(example)
    return batch


@given(st.data())
def test_logits(data):
    twin = data.draw(pair_twins())
    prompt = data.draw(st.none() | prompts(twin.spec["hidden_size"]))
    pairs = [e[:2] for e in data.draw(batches(twin, min_input=0 if prompt is not None else 1))]
    got, single = engine_model(twin).logits(pairs, prompt), twin.in_float32()
    for pair, logits in zip(pairs, got, strict=True):
        assert_rows(logits, twin.pair_logits(*pair, prompt), single.pair_logits(*pair, prompt))


def test_a_target_without_tokens_has_no_logits():
    twin = small_twin()
    (logits,) = engine_model(twin).logits([([1, 2], [])])
    assert logits.shape == (0, 12)


@pytest.mark.parametrize("pack_rows", [1, 6, 512])
@given(st.data())
def test_loss_and_gradient(pack_rows, data):
    twin = data.draw(pair_twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"]))
    batch = data.draw(batches(twin))
    model = engine_model(twin)
    model._workers.pack_rows = pack_rows
    loss, grad = model.loss_and_grad(prompt, batch)
    exact, single = (t.loss_and_grad(prompt, batch) for t in (twin, twin.in_float32()))
    assert_loss(loss, exact[0], single[0], exact[1])
    assert_gradient(grad, exact[1], single[1])
    assert_rows(model.loss(prompt, batch), exact[0], single[0])
    with without_sharing(model):
        loss, grad = model.loss_and_grad(prompt, batch)
    assert_loss(loss, exact[0], single[0], exact[1])
    assert_gradient(grad, exact[1], single[1])


@given(st.data())
def test_several_prompts_in_one_pass(data):
    twin = data.draw(pair_twins())
    single = twin.in_float32()
    each = [data.draw(prompts(twin.spec["hidden_size"])) for _ in range(2)]
    lists = [data.draw(batches(twin, most=3)) for _ in each]
    for prompt, batch, (loss, grad) in zip(
        each, lists, engine_model(twin).loss_and_grad(each, lists), strict=True
    ):
        exact, rough = twin.loss_and_grad(prompt, batch), single.loss_and_grad(prompt, batch)
        assert_loss(loss, exact[0], rough[0], exact[1])
        assert_gradient(grad, exact[1], rough[1])


@given(st.data())
def test_log_likelihood(data):
    twin = data.draw(pair_twins())
    prompt = data.draw(st.none() | prompts(twin.spec["hidden_size"]))
    batch = data.draw(batches(twin, min_input=0 if prompt is not None else 1))
    inputs, targets = [e[0] for e in batch], [e[1] for e in batch]
    got = engine_model(twin).log_likelihood(inputs, targets, prompt)
    exact, rough = (
        np.array(
            [t.log_likelihood(i, j, prompt).sum() for i, j in zip(inputs, targets, strict=True)]
        )
        for t in (twin, twin.in_float32())
    )
    assert_rows(got, exact, rough)


@pytest.mark.parametrize("pack_rows", [1, 512])
@given(st.data())
def test_ranking(pack_rows, data):
    twin = data.draw(pair_twins())
    vocab = twin.spec["vocab_size"]
    prompt = data.draw(prompts(twin.spec["hidden_size"]))
    inputs = [e[0] for e in data.draw(batches(twin, most=4))]
    common = data.draw(token_lists(vocab, max_size=5))
    rests = token_lists(vocab, min_size=1, max_size=3)
    rests = data.draw(st.lists(rests, min_size=2, max_size=4, unique_by=tuple))
    choices = [common * data.draw(st.booleans()) + rest for rest in rests]
    targets = [data.draw(st.integers(0, len(choices) - 1)) for _ in inputs]
    normalize = data.draw(st.booleans())
    model = engine_model(twin)
    model._workers.pack_rows = pack_rows
    twice = (twin, twin.in_float32())
    loss, grad = model.ranking_loss_and_grad(
        prompt, inputs, choices, targets, length_normalize=normalize
    )
    exact, rough = (
        t.ranking_loss_and_grad(prompt, inputs, choices, targets, length_normalize=normalize)
        for t in twice
    )
    assert_loss(loss, exact[0], rough[0], exact[1])
    assert_gradient(grad, exact[1], rough[1])
    got = model.rank(inputs, choices, prompt, length_normalize=normalize)
    exact, rough = (t.rank(inputs, choices, prompt, length_normalize=normalize) for t in twice)
    assert_rows(got, exact, rough)


@given(st.data())
def test_ranking_where_a_target_begins_with_its_last_token(data):
    """mBART without a start token: choices that end differently are predicted by other rows."""
    twin = data.draw(pair_twins(vocab_size=20))
    model = engine_model(twin)
    model.config = type(model.config)(**vars(model.config) | {"decoder_start_token_id": None})
    inputs, choices = [[1, 2], [3]], [[4, 5], [6, 7]]
    scores = []
    for t in (twin, twin.in_float32()):
        of_choices = []
        for choice in choices:
            t.start = choice[-1]
            of_choices.append([t.log_likelihood(ids, choice).sum() for ids in inputs])
        scores.append(np.array(of_choices).T)
    exact, rough = (s - np.logaddexp.reduce(s, axis=1, keepdims=True) for s in scores)
    assert_rows(model.rank(inputs, choices), exact, rough)


@given(st.data())
def test_prompt_after_bos(data):
    twin = data.draw(pair_twins())
    array = data.draw(prompts(twin.spec["hidden_size"]))
    batch = [([1, *e[0]], *e[1:]) for e in data.draw(batches(twin))]
    prompt = SoftPrompt(array, position="after_bos")
    loss, grad = engine_model(twin, bos_token_id=1).loss_and_grad(prompt, batch)
    exact, rough = (t.loss_and_grad(array, batch, at=1) for t in (twin, twin.in_float32()))
    assert_loss(loss, exact[0], rough[0], exact[1])
    assert_gradient(grad, exact[1], rough[1])


@given(st.data())
def test_threads_change_no_bit(data):
    twin = data.draw(pair_twins())
    prompt = data.draw(prompts(twin.spec["hidden_size"]))
    batch = data.draw(batches(twin))
    model = engine_model(twin)
    answers = []
    for threads in (1, 3):
        model.num_threads = threads
        answers.append(model.loss_and_grad(prompt, batch))
    assert answers[0][0] == answers[1][0]
    np.testing.assert_array_equal(answers[0][1], answers[1][1])


@given(st.data())
def test_greedy_tokens(data):
    """Where the best logit leads the second by more than rounding."""
    twin = data.draw(pair_twins())
    prompt = data.draw(st.none() | prompts(twin.spec["hidden_size"]))
    minimum = 0 if prompt is not None else 1
    inputs = [e[0] for e in data.draw(batches(twin, min_input=minimum))]
    got = engine_model(twin).generate(inputs, prompt, max_new_tokens=6, return_ids=True)
    for ids, new in zip(inputs, got, strict=True):
        expected, margin = twin.greedy(ids, 6, prompt)
        if margin > 1e-3:
            assert new == expected


@given(st.data())
def test_one_prompt_for_each_input(data):
    twin = data.draw(pair_twins())
    each = [data.draw(prompts(twin.spec["hidden_size"])), None]
    each.append(data.draw(prompts(twin.spec["hidden_size"])))
    model, inputs = engine_model(twin), [[1, 2], [1, 2], [1, 2]]
    got = model.generate(inputs, each, max_new_tokens=4, return_ids=True)
    for ids, prompt, new in zip(inputs, each, got, strict=True):
        expected, margin = twin.greedy(ids, 4, prompt)
        if margin > 1e-3:
            assert new == expected


def test_a_text_ends_with_the_context():
    model = engine_model(small_twin(max_positions=5))
    assert len(model.generate([[1, 2, 3]], max_new_tokens=50, return_ids=True)[0]) == 5
    with pytest.raises(ValueError, match="longer than the model's context of 5"):
        model.generate([[1] * 6])


def test_samples_repeat_with_their_seed():
    model = engine_model(small_twin())
    options = {"temperature": 1.5, "seed": 3, "max_new_tokens": 9, "return_ids": True}
    once = model.generate([[1, 2], [1, 2], [4]], **options)
    assert once == model.generate([[1, 2], [1, 2], [4]], **options)
    assert once[0] != once[1]


# ---- the engine's own intake ----


def small_twin(**changes):
    spec = {
        "vocab_size": 12, "hidden_size": 4, "num_layers": 2, "num_encoder_layers": 1,
        "num_heads": 2, "num_kv_heads": 1, "head_dim": 3, "intermediate_size": 5,
        "max_positions": 32, "norm": "rms", "norm_eps": 1e-5, "positions": "none",
        "rotary_dim": 0, "rope_interleaved": False, "activation": "relu", "gated": False,
        "attention_scale": 0.5,
    }  # fmt: skip
    spec |= changes
    return PairTwin(spec, random_weights(spec, seed=4))


def arrays(*lists):
    return tuple(np.array(one, np.int32) for one in lists)


GOOD = ([-1, -1, -1, 2], [0, 2, 3, 5, 6], [1, 2, 3, 4, 5, 6], [-2, -2, 0, 0])


@pytest.fixture
def context():
    return _core.Context(engine_model(small_twin())._workers.core)


def test_a_forest_as_the_engine_takes_it(context):
    assert context.logits(arrays(*GOOD), None, None, np.array([3, 5], np.int32), 1, 64).shape == (
        2,
        12,
    )


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (3, [-2, -2, 1, 0], "segment 3 reads 0, but the one before it 1"),
        (3, [-2, -2, 2, 2], r"segment 2 reads 2, expected one of the 2 encoder segments"),
        (3, [-2, -2, 0, 1], "segment 3 reads 1, but its parent 0"),
        (3, [-2, -2, -1, -1], "segment 2 reads -1"),
        (0, [-1, 0, -1, 2], "segment 1: parent 0 of an encoder segment"),
        (2, [1, 2, 3, -1, 5, 6], r"virtual token 0 in the decoder"),
        (2, [1, 2, 12, 4, 5, 6], r"token id 12 is not in \[0, 12\)"),
        (2, [1, 2, 3, 12, 5, 6], r"token id 12 is not in \[0, 12\)"),
    ],
)
def test_forests_that_cannot_be(context, number, change, message):
    forest = [change if i == number else one for i, one in enumerate(GOOD)]
    prompt = np.zeros((1, 4), np.float32)
    with pytest.raises(ValueError, match=message):
        context.logits(arrays(*forest), prompt, None, np.array([3], np.int32), 1, 64)


def test_rows_of_the_encoder_have_no_logits(context):
    with pytest.raises(ValueError, match=r"rows\[0\] = 2: expected rows of the decoder"):
        context.logits(arrays(*GOOD), None, None, np.array([2], np.int32), 1, 64)


def test_memories_are_needed(context):
    with pytest.raises(ValueError, match="memories are missing for a model with an encoder"):
        context.logits(arrays(*GOOD[:3]), None, None, np.array([3], np.int32), 1, 64)


def test_resident_segments_that_cannot_be(context):
    def extend(segments, ids, rows=()):
        starts = np.arange(len(segments) + 1, dtype=np.int32) * (len(ids) // len(segments))
        return context.segment_extend(
            np.array(segments, np.int32), starts, np.array(ids, np.int32), None,
            np.array(rows, np.int32), 1,
        )  # fmt: skip

    with pytest.raises(ValueError, match="parent = -1 is not a resident segment"):
        context.segment_create(-1, 3)
    memory = context.memory_create(4)
    text = context.segment_create(memory, 4)
    with pytest.raises(ValueError, match="has no rows yet"):
        extend([text], [1])
    with pytest.raises(ValueError, match="the encoder gives no logits"):
        extend([memory], [1, 2], rows=[1])
    extend([memory], [1, 2])
    with pytest.raises(ValueError, match="is the encoder's and cannot grow"):
        extend([memory], [1])
    other = context.memory_create(4)
    with pytest.raises(ValueError, match="are the encoder's and the decoder's"):
        extend([text, other], [1, 2])
    assert extend([text], [3], rows=[0]).shape == (1, 12)
    with pytest.raises(ValueError, match="still has 1 children"):
        context.segment_release(memory)
    context.segment_release(text)
    context.segment_release(memory)
    context.segment_release(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "rotary", "rotary_dim": 2}, "an encoder goes with no rotary positions"),
        ({"positions": "alibi"}, "an encoder goes with no rotary positions, ALiBi"),
        ({"parallel_residual": True}, "parallel residual"),
        ({"qkv_clip": 1.0}, "clamp"),
        ({"qk_norm": "head"}, "norm of queries and keys"),
        ({"windows": (3, 3)}, "window"),
        ({"num_encoder_layers": -1}, "num_encoder_layers = -1"),
        ({"num_encoder_layers": 5000}, "num_encoder_layers = 5000"),
        ({"num_encoder_layers": 0, "encoder_vocab_size": 9}, "encoder_vocab_size = 9"),
        ({"relative_reach": 3}, "relative_reach = 3: expected a number from 0 to 0"),
        ({"positions": "relative"}, "relative_reach = 0: expected a number from 1"),
    ],
)
def test_specs_that_cannot_be(change, message):
    twin = small_twin()
    twin.spec |= change
    with pytest.raises(ValueError, match=message):
        engine_model(twin)


@pytest.mark.parametrize(
    "slot",
    [
        "encoder.layers.0.q.weight",
        "layers.1.cross_k.weight",
        "layers.0.cross_norm.weight",
        "encoder.final_norm.weight",
    ],
)
def test_weights_that_are_missing(slot):
    twin = small_twin()
    del twin.weights[slot]
    with pytest.raises(ValueError, match=f"weight {slot} is missing".replace(".", r"\.")):
        engine_model(twin)


@pytest.mark.parametrize(
    "slot", ["encoder.head.weight", "encoder.layers.0.cross_q.weight", "encoder.layers.1.q.weight"]
)
def test_weights_that_have_no_place(slot):
    twin = small_twin()
    twin.weights[slot] = np.zeros((6, 4), np.float32)
    with pytest.raises(ValueError, match="has no such slot"):
        engine_model(twin)
