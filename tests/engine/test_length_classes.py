"""Rotary frequencies that depend on the length: every text as if it were alone.

1e-5 as everywhere: what stands beside a text changes the shapes of matrix products alone.
"""

from __future__ import annotations

import decoders
import numpy as np
import pytest

import softprompt
from softprompt import _core
from softprompt.families import length_class
from softprompt.model.forest import pack


@pytest.fixture(scope="module", params=["llama-dynamic", "llama-longrope", "phi3"])
def case(request, tmp_path_factory):
    config = decoders.CONFIGS[request.param]
    folder = tmp_path_factory.mktemp("decoder")
    decoders.write_decoder(folder, config, decoders.table_shapes(config), seed=4)
    return config, softprompt.load_model(folder)


def batch_of(config):
    """Texts of one beginning, from 4 rows below the original context to 6 above it."""
    random = np.random.RandomState(3)
    text = (random.random_sample(24) * config["vocab_size"]).astype(int).tolist()
    return [(text[: n - 2], text[n - 2 : n]) for n in range(6, 20)]


def test_a_batch_is_its_texts_alone(case):
    config, model = case
    batch, prompt = batch_of(config), decoders.prompt(config, 3)
    alone = [model.loss_and_grad(prompt, [example]) for example in batch]
    loss, grad = model.loss_and_grad(prompt, batch)
    expected = np.mean([g for _, g in alone], axis=0)
    assert abs(loss - np.mean([one for one, _ in alone])) < 1e-5 * loss
    assert np.linalg.norm(grad - expected) < 1e-5 * np.linalg.norm(expected)
    inputs = [ids for ids, _ in batch]
    for ids, got in zip(inputs, model.logits(inputs, prompt), strict=True):
        expected = model.logits([ids], prompt)[0]
        assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_length_matters(case):
    """The same first rows, in a text on the other side of the original context."""
    config, model = case
    ids = batch_of(config)[-1][0]
    original = model.spec.rope.original_context
    short, long = model.logits([ids[:original], ids[: original + 1]])
    assert np.abs(short - long[:original]).max() > 1e-3


def test_a_generated_text_is_that_of_runs_from_its_beginning(case):
    config, model = case
    prompt = decoders.prompt(config, 2)
    texts = [ids for ids, _ in batch_of(config)][::3]
    got = model.generate(texts, prompt, max_new_tokens=6, return_ids=True)
    for ids, new in zip(texts, got, strict=True):
        for step, token in enumerate(new):
            assert int(model.logits([ids + new[:step]], prompt)[0][-1].argmax()) == token


def prefix_of(model, rows: int) -> softprompt.Prefix:
    config = model.config
    shape = (2, config.num_layers, rows, config.num_kv_heads, config.head_dim)
    return softprompt.Prefix(*np.random.default_rng(rows).normal(size=shape))


def test_a_prefix_before_texts_of_all_classes(case):
    """It counts in their lengths, and has the sum of what all classes send back."""
    config, model = case
    batch, prefix = batch_of(config), prefix_of(model, 3)
    classes = {length_class(model.spec, 3 + len(i) + len(t)) for i, t in batch}
    assert len(classes) > 1
    alone = [model.loss_and_grad(prefix, [example]) for example in batch]
    loss, grad = model.loss_and_grad(prefix, batch)
    expected = np.mean([g for _, g in alone], axis=0)
    assert abs(loss - np.mean([one for one, _ in alone])) < 1e-5 * loss
    assert np.linalg.norm(grad - expected) < 1e-5 * np.linalg.norm(expected)
    choices = [[5], [6, 7], [6, 8, 9]]  # of one input in two classes
    inputs = [ids for ids, _ in batch]
    _, grad = model.ranking_loss_and_grad(prefix, inputs, choices, [0] * len(inputs))
    each = [model.ranking_loss_and_grad(prefix, [ids], choices, [0])[1] for ids in inputs]
    assert np.linalg.norm(grad - np.mean(each, axis=0)) < 1e-5 * np.linalg.norm(grad)


def test_a_text_that_grows_after_a_prefix(case):
    config, model = case
    prefix = prefix_of(model, 2)
    texts = [ids for ids, _ in batch_of(config)][::3]
    got = model.generate(texts, prefix, max_new_tokens=6, return_ids=True)
    for ids, new in zip(texts, got, strict=True):
        for step, token in enumerate(new):
            assert int(model.logits([ids + new[:step]], prefix)[0][-1].argmax()) == token


def test_texts_of_different_classes_share_no_rows():
    texts = [np.array(t, np.int32) for t in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7])]
    texts += [np.array([1, 2, 3, 4, 5, 6, 8], np.int32), np.array([1, 2, 3, 4, 5, 9], np.int32)]
    forest = pack(texts, classes=[0, 0, 1, 0])
    for own, text in zip(forest.rows, texts, strict=True):
        np.testing.assert_array_equal(forest.symbols[own], text)
    rows = [set(own.tolist()) for own in forest.rows]
    assert rows[0] & rows[1]
    assert rows[0] & rows[3]
    assert not rows[2] & (rows[0] | rows[1] | rows[3])
    segment_of = np.searchsorted(forest.starts, [own[0] for own in forest.rows], side="right") - 1
    assert forest.classes[segment_of].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("frequencies", "of", "error", "message"),
    [
        (np.ones((1, 3), np.float32), [0], ValueError, "frequencies: length 3, expected 2"),
        (np.ones((1, 2)), [0], TypeError, "frequencies"),
        (np.ones((1, 2), np.float32), [0, 0], ValueError, "frequency_of: length 2, expected 1"),
        (np.ones((1, 2), np.float32), [1], ValueError, r"frequencies 1 are not in \[0, 1\)"),
        (np.ones((1, 2), np.float32), [-1], ValueError, r"frequencies -1 are not in \[0, 1\)"),
    ],
)
def test_frequencies_that_cannot_be(tmp_path, frequencies, of, error, message):
    config = decoders.CONFIGS["llama-dynamic"]
    decoders.write_decoder(tmp_path, config, decoders.table_shapes(config), seed=4)
    context = _core.Context(softprompt.load_model(tmp_path)._workers.core)
    forest = pack([np.array([1, 2], np.int32)])
    arrays = (forest.parents, forest.starts, forest.symbols, frequencies, np.array(of, np.int32))
    with pytest.raises(error, match=message):
        context.logits(arrays, None, None, np.array([1], np.int32), 1, 64)
    with pytest.raises(TypeError, match="memories"):
        context.logits(arrays[:4], None, None, np.array([1], np.int32), 1, 64)
