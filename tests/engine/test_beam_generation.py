"""Beam search on models: segments that are copied, against searches that compute every text anew;
ends, stop texts, several results, options that do not go together.
"""

from __future__ import annotations

import itertools

import decoders
import numpy as np
import pytest
import tiny
from engine.build import CharTokenizer

import softprompt
from softprompt.model import generation
from softprompt.model.beams import BeamOptions, BeamSearch, log_softmax

LENGTHS = (1, 7, 3, 12, 5)


@pytest.fixture(
    scope="module",
    params=["llama", "gpt2", "llama-dynamic", "llama-longrope", "bloom", "gemma3", "phi3"],
)
def case(request, tmp_path_factory):
    """A model, inputs of several lengths (some of one beginning), a prompt."""
    name, folder = request.param, tmp_path_factory.mktemp("tiny")
    if name in tiny.CONFIGS:
        tiny.write_tiny(folder, name, seed=3)
        vocab_size = tiny.CONFIGS[name]["vocab_size"]
    else:
        config = decoders.CONFIGS[name]
        decoders.write_decoder(folder, config, decoders.table_shapes(config), seed=4)
        vocab_size = config["vocab_size"]
    model = softprompt.load_model(folder, tokenizer=CharTokenizer(vocab_size))
    rng = np.random.default_rng(0)
    inputs = [rng.integers(3, vocab_size, size=n).tolist() for n in LENGTHS]
    inputs += [[*inputs[1][:4], 5], inputs[1]]
    width = model.config.hidden_size
    return model, inputs, rng.standard_normal((3, width)).astype(np.float32)


def anew(model, ids, prompt, options, limit, has_ended=None):
    """A search that computes the whole text at every step; how often a beam changed its parent."""
    ends = model.config.eos_token_ids
    search = BeamSearch(options, limit=limit, end_ids=ends, has_ended=has_ended)
    moved = 0
    while not search.done:
        logits = [model.logits([ids + new], prompt)[0][-1] for new in search.sequences]
        chosen = search.step(log_softmax(np.array(logits)))
        moved += sum(parent != place for place, (parent, _) in enumerate(chosen))
    return search, moved


def without_end(model, found):
    ends = model.config.eos_token_ids
    return [ids[:-1] if ids[-1] in ends else ids for ids in found]


@pytest.mark.parametrize("with_prompt", [False, True])
def test_beams_are_those_of_whole_texts(case, with_prompt):
    model, inputs, prompt = case
    prompt = prompt if with_prompt else None
    moved = 0
    for num_beams, early in ((2, True), (3, "never"), (5, False)):
        options = BeamOptions(num_beams, 1.0, early)
        got = model.generate(
            inputs, prompt, max_new_tokens=9, return_ids=True, num_beams=num_beams,
            early_stopping=early, num_return_sequences=num_beams,
        )  # fmt: skip
        expected = []
        for ids in inputs:
            search, changes = anew(model, ids, prompt, options, 9)
            expected += without_end(model, search.best(num_beams))
            moved += changes
        assert got == expected
    assert moved > 100


def test_mixed_prompts_and_several_batches(case, monkeypatch):
    model, inputs, prompt = case
    prompts = [prompt, None, prompt[:1], prompt, None, prompt, prompt[:1]]
    options = {"max_new_tokens": 8, "return_ids": True, "num_beams": 3}
    together = model.generate(inputs, prompts, **options)
    for ids, own, new in zip(inputs, prompts, together, strict=True):
        assert model.generate([ids], own, **options) == [new]
    sizes = []
    batches = generation._batches

    def counted(*args):
        for start, end in batches(*args):
            sizes.append(end - start)
            yield start, end

    monkeypatch.setattr(generation, "_batches", counted)
    monkeypatch.setattr(generation, "CACHE_BYTES", 3 * 9000)
    assert model.generate(inputs, prompts, **options) == together
    assert len(sizes) > 1


def test_memory_comes_back(case):
    model, inputs, _ = case
    options = {"max_new_tokens": 8, "num_beams": 4, "stop": ["x"]}
    before = model.generate(inputs, **options)
    (worker,) = model._workers._free
    held = worker.context.bytes
    assert model.generate(inputs, **options) == before
    assert worker.context.bytes == held

    tokenizer, calls = model.tokenizer, itertools.count()

    class Failing(CharTokenizer):
        def decode(self, ids, skip_special_tokens=True):
            if next(calls) == 60:
                raise RuntimeError("no more")
            return super().decode(ids)

    try:
        model.tokenizer = Failing(model.config.vocab_size)
        with pytest.raises(RuntimeError, match="no more"):
            model.generate(inputs, **options)
    finally:
        model.tokenizer = tokenizer
    assert worker.context.bytes == held
    assert model.generate(inputs, **options) == before


def test_stop_texts(case):
    model, inputs, _ = case
    decode = model.tokenizer.decode
    free = model.generate(inputs, max_new_tokens=10, num_beams=3, return_ids=True)
    stops = [decode(free[0][2:4]), decode(free[3][4:5])]
    options = {"max_new_tokens": 10, "num_beams": 3, "num_return_sequences": 2, "stop": stops}
    got, ids = model.generate(inputs, **options), model.generate(inputs, return_ids=True, **options)

    def ended(new):
        return any(stop in decode(new) for stop in stops)

    expected = []
    for row in inputs:
        search, _ = anew(model, row, None, BeamOptions(3), 10, ended)
        expected += without_end(model, search.best(2))
    assert ids == expected
    assert got == [min((decode(new).split(stop)[0] for stop in stops), key=len) for new in expected]
    assert sum(ended(new) for new in expected) >= 1


def test_where_the_context_ends(case):
    model, _, prompt = case
    context = model.config.max_positions
    options = {"max_new_tokens": 50, "num_beams": 2, "num_return_sequences": 2, "return_ids": True}
    text = [5] * (context - 6)
    for rows in (0, 3):
        own = prompt[:rows] if rows else None
        search, _ = anew(model, text, own, BeamOptions(2), 6 - rows)
        got = model.generate([text, [7]], own, **options)
        assert got[:2] == without_end(model, search.best(2))
        assert len(got) == 4
    full = model.generate([[5] * context, [7]], **options)
    assert full[:2] == [[], []]
    assert len(full[2]) > 1


def test_no_new_tokens(case):
    model, inputs, _ = case
    options = {"max_new_tokens": 0, "num_beams": 3, "num_return_sequences": 2}
    assert model.generate(inputs[:2], return_ids=True, **options) == [[]] * 4
    assert model.generate(inputs[:2], **options) == [""] * 4


def test_several_samples(case):
    model, inputs, prompt = case
    options = {"max_new_tokens": 6, "temperature": 1.5, "seed": 3, "return_ids": True}
    got = model.generate(inputs[:2], prompt, num_return_sequences=3, **options)
    assert got[:3] == model.generate([inputs[0]] * 3, prompt, **options)
    assert got[3:] == model.generate([inputs[1]] * 3, prompt, **options)
    assert len({tuple(new) for new in got}) > 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_beams": 0}, ValueError, "num_beams = 0"),
        ({"num_beams": 2, "length_penalty": "x"}, TypeError, "length_penalty = 'x'"),
        ({"early_stopping": "soon"}, ValueError, "early_stopping = 'soon'"),
        ({"num_beams": 2, "length_penalty": 99.0}, ValueError, "50 tokens to that power"),
        ({"num_return_sequences": 0}, ValueError, "num_return_sequences = 0: expected at least 1"),
        ({"num_return_sequences": 1.0}, TypeError, "num_return_sequences = 1.0: expected an int"),
        ({"num_return_sequences": 2}, ValueError, "greedy generation has one result"),
        ({"num_beams": 3, "num_return_sequences": 4}, ValueError, "at most num_beams = 3"),
        (
            {"num_beams": 1000, "num_return_sequences": 500},
            ValueError,
            "at most the vocabulary of 97",
        ),
        ({"num_beams": 2, "temperature": 0.5}, ValueError, "beams are not sampled"),
        ({"num_beams": 2, "stream": print}, ValueError, "stream with num_beams = 2"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, error, message):
    tiny.write_tiny(tmp_path, "llama")
    model = softprompt.load_model(tmp_path, tokenizer=CharTokenizer(97))
    with pytest.raises(error, match=message):
        model.generate([[5, 6]], **options)


def test_more_beams_than_tokens(tmp_path):
    """The first step has as many continuations as there are tokens."""
    tiny.write_tiny(tmp_path, "llama", changes={"vocab_size": 5, "eos_token_id": 2})
    model = softprompt.load_model(tmp_path)
    search, _ = anew(model, [3, 4], None, BeamOptions(12), 3)
    got = model.generate(
        [[3, 4]], num_beams=12, num_return_sequences=5, max_new_tokens=3, return_ids=True
    )
    assert got == without_end(model, search.best(5))
    assert len(got) == 5


def test_the_memory_limit_counts_beams(tmp_path):
    tiny.write_tiny(tmp_path, "llama")
    model = softprompt.load_model(tmp_path)
    model.memory_limit = model._workers.weight_bytes + 400_000
    assert model.generate([[5, 6]], max_new_tokens=50, num_beams=2)
    with pytest.raises(RuntimeError, match="memory_limit"):
        model.generate([[5, 6]], max_new_tokens=50, num_beams=40)
