"""Generation: greedy tokens against a naive loop, mixed prompts, ends, stop texts, sampling."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from engine.build import CharTokenizer
from reference.huggingface import read_twin

import softprompt

# Greedy choices closer than this may flip in float32, so such cases are left out (none is, today).
MARGIN = 1e-3


@pytest.fixture(scope="module", params=list(tiny.CONFIGS))
def pair(request, tmp_path_factory):
    """A tiny model and its twin."""
    folder = tiny.write_tiny(tmp_path_factory.mktemp("tiny"), request.param, seed=3)
    vocab = tiny.CONFIGS[request.param]["vocab_size"]
    model = softprompt.load_model(folder, tokenizer=CharTokenizer(vocab))
    return request.param, model, read_twin(folder)


def some_inputs(model, count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    vocab = model.config.vocab_size
    return [rng.integers(3, vocab - 1, size=rng.integers(1, 9)).tolist() for _ in range(count)]


def some_prompt(model, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, model.config.hidden_size)).astype(np.float32)


@pytest.mark.parametrize("rows", [0, 1, 6])
def test_greedy_is_the_naive_loop(pair, rows):
    name, model, twin = pair
    prompt = some_prompt(model, rows) if rows else None
    inputs = some_inputs(model, 6)
    inputs.append(inputs[0])
    inputs.append(inputs[1][:1])
    got = model.generate(inputs, prompt, max_new_tokens=20, return_ids=True)
    compared = 0
    for ids, new in zip(inputs, got, strict=True):
        expected, margin = twin.greedy(ids, 20, prompt, eos_token_ids=tiny.eos_token_ids(name))
        if margin > MARGIN:
            assert new == expected
            compared += 1
    assert compared >= len(inputs) - 1


def test_mixed_prompts_are_what_each_says_alone(pair):
    _, model, _ = pair
    inputs = some_inputs(model, 6)
    one, two = some_prompt(model, 4), some_prompt(model, 1, seed=1)
    prompts = [one, None, two, one, softprompt.SoftPrompt(two), None]
    together = model.generate(inputs, prompts, max_new_tokens=15, return_ids=True)
    for ids, prompt, new in zip(inputs, prompts, together, strict=True):
        assert model.generate([ids], prompt, max_new_tokens=15, return_ids=True) == [new]
    likelihoods = model.rank(inputs, [[5], [6, 7]], prompts)
    for ids, prompt, row in zip(inputs, prompts, likelihoods, strict=True):
        # Another company in the batch: rounding of float32.
        np.testing.assert_allclose(model.rank([ids], [[5], [6, 7]], prompt)[0], row, atol=1e-4)


def test_an_empty_input_behind_a_prompt(pair):
    name, model, twin = pair
    prompt = some_prompt(model, 5, seed=4)
    (new,) = model.generate([[]], prompt, max_new_tokens=10, return_ids=True)
    expected, margin = twin.greedy([], 10, prompt, eos_token_ids=tiny.eos_token_ids(name))
    assert margin > MARGIN
    assert new == expected


def test_no_new_tokens(pair):
    _, model, _ = pair
    inputs = some_inputs(model, 2)
    assert model.generate(inputs, max_new_tokens=0, return_ids=True) == [[], []]


def test_the_end_token_ends(pair):
    """A model whose end token is the third greedy token stops before it; the others go on."""
    name, model, twin = pair
    inputs = some_inputs(model, 5)
    free = [twin.greedy(ids, 12)[0] for ids in inputs]
    end = free[0][2]
    key = "eos_token_id"
    ended = _with_config(pair, {key: end})
    got = ended.generate(inputs, max_new_tokens=12, return_ids=True)
    for whole, new in zip(free, got, strict=True):
        assert new == (whole[: whole.index(end)] if end in whole else whole)
    assert len(got[0]) <= 2
    assert model.config.eos_token_ids == tiny.eos_token_ids(name)


def test_several_end_tokens(pair):
    _, model, twin = pair
    inputs = some_inputs(model, 5)
    free = [twin.greedy(ids, 12)[0] for ids in inputs]
    ends = {free[0][1], free[1][3]}
    ended = _with_config(pair, {"eos_token_id": sorted(ends)})
    got = ended.generate(inputs, max_new_tokens=12, return_ids=True)
    for whole, new in zip(free, got, strict=True):
        first = next((i for i, token in enumerate(whole) if token in ends), len(whole))
        assert new == whole[:first]


def _with_config(pair, changes: dict):
    """The same weights with other entries in config.json."""
    import tempfile
    from pathlib import Path

    name, model, _ = pair
    with tempfile.TemporaryDirectory() as folder:
        tiny.write_tiny(Path(folder), name, seed=3, changes=changes)
        return softprompt.load_model(folder, tokenizer=model.tokenizer)


def test_generation_stops_at_the_context(pair):
    name, model, _ = pair
    config = tiny.CONFIGS[name]
    context = config.get("max_position_embeddings") or config["n_positions"]
    ends = _with_config(pair, {"eos_token_id": None})
    (new,) = ends.generate([[5] * (context - 4)], max_new_tokens=50, return_ids=True)
    # The last token is made from a full context and is never read.
    assert len(new) in (4, 5)
    prompt = some_prompt(model, 2)
    (new,) = ends.generate([[5] * (context - 4)], prompt, max_new_tokens=50, return_ids=True)
    assert len(new) in (2, 3)


# --- texts ----------------------------------------------------------------------------------------


def test_texts_in_texts_out(pair):
    _, model, _ = pair
    tokenizer = model.tokenizer
    texts = ["abc", "q", "hello"]
    new = model.generate(texts, max_new_tokens=8)
    ids = model.generate(
        [tokenizer.encode(text) for text in texts], max_new_tokens=8, return_ids=True
    )
    assert new == [tokenizer.decode(row) for row in ids]


def test_stop_texts(pair):
    """The text ends before the first stop text, also where that spans tokens."""
    _, model, _ = pair
    model = _with_config(pair, {"eos_token_id": None})
    inputs = some_inputs(model, 6)
    free = model.generate(inputs, max_new_tokens=14)
    stops = [free[0][2:4], free[1][5]]
    got = model.generate(inputs, max_new_tokens=14, stop=stops)
    for whole, new in zip(free, got, strict=True):
        found = [whole.find(stop) for stop in stops if stop in whole]
        assert new == (whole[: min(found)] if found else whole)
    assert got[0] != free[0]
    assert model.generate(inputs, max_new_tokens=14, stop=free[1][5]) == model.generate(
        inputs, max_new_tokens=14, stop=[free[1][5]]
    )


def test_streaming(pair):
    """`stream` is called with (row, text) pieces, which make up what is returned."""
    _, model, _ = pair
    inputs = some_inputs(model, 4)
    pieces: list[tuple[int, str]] = []
    got = model.generate(
        inputs, max_new_tokens=10, stream=lambda row, text: pieces.append((row, text))
    )
    for row, text in enumerate(got):
        assert "".join(piece for at, piece in pieces if at == row) == text
    assert len(pieces) > len(inputs)


def test_streaming_holds_back_what_may_be_a_stop_text(pair):
    model = _with_config(pair, {"eos_token_id": None})
    inputs = some_inputs(model, 4)
    free = model.generate(inputs, max_new_tokens=12)
    pieces: list[tuple[int, str]] = []
    got = model.generate(
        inputs,
        max_new_tokens=12,
        stop=[free[0][3:6]],
        stream=lambda row, text: pieces.append((row, text)),
    )
    for row, text in enumerate(got):
        assert "".join(piece for at, piece in pieces if at == row) == text


def test_an_exception_in_the_stream_ends_the_call(pair):
    _, model, _ = pair
    inputs = some_inputs(model, 3)
    before = model.generate(inputs, max_new_tokens=6, return_ids=True)

    def stream(row: int, text: str) -> None:
        raise RuntimeError("the reader went away")

    with pytest.raises(RuntimeError, match="the reader went away"):
        model.generate(inputs, max_new_tokens=6, stream=stream)
    assert model.generate(inputs, max_new_tokens=6, return_ids=True) == before


# --- sampling -------------------------------------------------------------------------------------


def test_a_seed_repeats_and_seeds_differ(pair):
    _, model, _ = pair
    inputs = some_inputs(model, 4)
    options = {"max_new_tokens": 15, "temperature": 1.0, "return_ids": True}
    first = model.generate(inputs, seed=1, **options)
    assert model.generate(inputs, seed=1, **options) == first
    assert model.generate(inputs, seed=2, **options) != first
    assert model.generate(inputs, **options) != model.generate(inputs, **options)


def test_a_row_samples_the_same_alone_and_among_others(pair):
    _, model, _ = pair
    inputs = some_inputs(model, 4)
    options = {"max_new_tokens": 10, "temperature": 0.8, "seed": 5, "return_ids": True}
    together = model.generate(inputs, **options)
    assert model.generate(inputs[:1], **options) == together[:1]


def test_sampling_follows_the_distribution(pair):
    """First tokens of many rows against the twin's probabilities, by a chi-square distance."""
    _, model, twin = pair
    ids = some_inputs(model, 1)[0]
    count, temperature = 4000, 1.5
    new = _with_config(pair, {"eos_token_id": None}).generate(
        [ids] * count, max_new_tokens=1, temperature=temperature, seed=0, return_ids=True
    )
    logits = twin.logits(ids)[-1] / temperature
    probabilities = np.exp(logits - np.logaddexp.reduce(logits))
    seen = np.bincount([row[0] for row in new], minlength=len(logits))
    # Rare tokens together, so that every cell expects five or more.
    rare = probabilities * count < 5
    expected = np.append(probabilities[~rare], probabilities[rare].sum()) * count
    observed = np.append(seen[~rare], seen[rare].sum())
    cells = expected > 0
    distance = float(((observed - expected)[cells] ** 2 / expected[cells]).sum())
    degrees = int(cells.sum()) - 1
    # The distance has mean `degrees` and variance `2 degrees`; five deviations, with a fixed seed.
    assert distance < degrees + 5 * np.sqrt(2 * degrees)


def test_top_k(pair):
    _, model, twin = pair
    ids = some_inputs(model, 1)[0]
    best = np.argsort(twin.logits(ids)[-1])[::-1]
    model = _with_config(pair, {"eos_token_id": None})
    options = {"max_new_tokens": 1, "temperature": 5.0, "seed": 0, "return_ids": True}
    new = model.generate([ids] * 300, top_k=3, **options)
    assert {row[0] for row in new} == set(best[:3].tolist())
    assert {row[0] for row in model.generate([ids] * 20, top_k=1, **options)} == {int(best[0])}
    everything = model.generate([ids] * 300, top_k=10**6, **options)
    assert everything == model.generate([ids] * 300, **options)


def test_top_p(pair):
    """The smallest set of most probable tokens whose probabilities reach p."""
    _, model, twin = pair
    ids = some_inputs(model, 1, seed=2)[0]
    model = _with_config(pair, {"eos_token_id": None})
    temperature = 3.0
    logits = twin.logits(ids)[-1] / temperature
    probabilities = np.exp(logits - np.logaddexp.reduce(logits))
    order = np.argsort(probabilities)[::-1]
    sums = np.cumsum(probabilities[order])
    p = float(sums[3] + sums[4]) / 2
    options = {"max_new_tokens": 1, "temperature": temperature, "seed": 0, "return_ids": True}
    new = model.generate([ids] * 600, top_p=p, **options)
    assert {row[0] for row in new} == set(order[:5].tolist())
    tiny_p = model.generate([ids] * 20, top_p=1e-9, **options)
    assert {row[0] for row in tiny_p} == {int(order[0])}
    assert model.generate([ids] * 50, top_p=1.0, **options) == model.generate([ids] * 50, **options)


def test_a_low_temperature_is_greedy(pair):
    _, model, _ = pair
    inputs = some_inputs(model, 4)
    greedy = model.generate(inputs, max_new_tokens=10, return_ids=True)
    cold = model.generate(inputs, max_new_tokens=10, temperature=1e-4, seed=0, return_ids=True)
    assert cold == greedy
