"""``method="prefix"``: the same estimators train keys and values."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
import tiny
from fake_model import FakeModel
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import softprompt
from softprompt import Prefix, SoftPrompt, TextStart
from softprompt.prompt import PromptModelMismatchWarning
from softprompt.tuner import make_method
from softprompt.tuner.defaults import PREFIX_LEARNING_RATE_OF_RMS


@pytest.fixture
def train(make):
    """A classifier that trains a prefix."""
    return lambda **parameters: make(**{"method": "prefix", **parameters})


@pytest.mark.parametrize("objective", ["labels", "tokens"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_training_beats_the_hand_written_prompt(train, task, objective, optimizer):
    words, y = task
    rates = {"adamw": 0.3, "adafactor": 0.1}
    tuned = train(
        objective=objective, optimizer=optimizer, learning_rate=rates[optimizer], max_steps=150
    ).fit(words, y)
    assert train(num_virtual_tokens=0).fit(words, y).score(words, y) < 0.7
    assert tuned.score(words, y) > 0.85
    assert isinstance(tuned.prompt_, Prefix)
    assert len(tuned.prompt_) == 3
    assert tuned.n_iter_ == 150
    evaluations = tuned.history_["evaluations"]
    best = max(evaluations, key=lambda e: (e["score"], -e["loss"]))
    assert (best["step"], best["score"]) == (tuned.best_iter_, tuned.best_score_)


def test_a_prefix_starts_as_the_prompt_leaves_it(train, make, task, model):
    """One step of rate 0 keeps the start: the keys and values of the start of a prompt."""
    still = {"learning_rate": 0.0, "max_steps": 1}
    given = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    for init in ("labels", "vocabulary", "random", TextStart("abc"), given, SoftPrompt(given)):
        prompt = make(init=init, **still).fit(*task).prompt_
        prefix = train(init=init, **still).fit(*task).prompt_
        expected = model.prefix(prompt)
        np.testing.assert_array_equal(prefix.values, expected.values)
        np.testing.assert_array_equal(prefix.keys, expected.keys)


def test_a_prefix_starts_from_a_prefix(train, task, tmp_path):
    first = train(max_steps=3).fit(*task).prompt_
    first.save(tmp_path / "first")
    for init in (first, tmp_path / "first"):
        again = train(init=init, learning_rate=0.0, max_steps=1).fit(*task).prompt_
        np.testing.assert_array_equal(again.flattened(), first.flattened())
    with pytest.raises(
        ValueError, match="init has 3 virtual tokens, expected num_virtual_tokens=4"
    ):
        train(init=first, num_virtual_tokens=4).fit(*task)
    with pytest.raises(ValueError, match=r"'head_dim': 5\}, expected the model's"):
        train(init=Prefix(np.ones((1, 3, 1, 5)), np.ones((1, 3, 1, 5)))).fit(*task)
    with pytest.raises(TypeError, match="init must be"):
        train(init=7).fit(*task)


def test_the_automatic_rate_is_a_fraction_of_the_start(train, task, model):
    fitted = train(learning_rate="auto", max_steps=1, schedule="constant").fit(*task)
    method = make_method("prefix", model, position="start")
    start = method.make_start(
        "labels", num_virtual_tokens=3, labels=fitted._label_ids, rng=np.random.default_rng(0)
    )
    for name, share in PREFIX_LEARNING_RATE_OF_RMS.items():
        expected = share * np.sqrt(np.mean(start.astype(np.float64) ** 2))
        assert method.learning_rate(name, start) == pytest.approx(expected, rel=1e-12)
    rate = fitted.history_["steps"][0]["learning_rate"]
    # Another seed draws other rows of the vocabulary, of about the same size.
    assert rate == pytest.approx(method.learning_rate("adamw", start), rel=0.5)


def test_a_stopped_run_goes_on_to_the_same_bits(train, task, tmp_path, model):
    settings = {"checkpoint_every": 2, "record": tmp_path / "run.jsonl"}
    whole = train().fit(*task)
    model.calls = 0

    def stop() -> None:
        if model.calls == 9:
            model.calls += 1
            raise KeyboardInterrupt

    model.before_pass = stop
    stopped = train(checkpoint_dir=tmp_path / "c", **settings)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(*task)
    assert isinstance(stopped.prompt_, Prefix)
    resumed = train(checkpoint_dir=tmp_path / "c", resume=True, **settings).fit(*task)
    np.testing.assert_array_equal(resumed.prompt_.flattened(), whole.prompt_.flattened())
    assert resumed.history_ == whole.history_
    assert len(softprompt.read_record(tmp_path / "run.jsonl")["steps"]) == 40
    with pytest.raises(ValueError, match="method was 'prefix', is 'prompt'"):
        train(method="prompt", checkpoint_dir=tmp_path / "c", resume=True, **settings).fit(*task)


def test_saved_and_restored(train, task, tmp_path, model):
    words, y = task
    fitted = train().fit(words, y)
    fitted.prompt_.save(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    assert config["peft_type"] == "PREFIX_TUNING"
    assert softprompt.load_prompt(tmp_path / "p") == fitted.prompt_
    for saved in (fitted.prompt_, tmp_path / "p"):
        again = softprompt.SoftPromptClassifier.from_prompt(saved, model)
        assert again.method == "prefix"
        assert again.prompt_ == fitted.prompt_
        np.testing.assert_array_equal(again.predict_proba(words), fitted.predict_proba(words))
    other = FakeModel(hidden_size=32, seed=1)
    with pytest.warns(PromptModelMismatchWarning, match="the prefix was made for 'fake'"):
        softprompt.SoftPromptClassifier.from_prompt(tmp_path / "p", other)
    with pytest.raises(ValueError, match="expected the model's"):
        softprompt.SoftPromptClassifier.from_prompt(tmp_path / "p", FakeModel(hidden_size=8))


def test_clone_pickle_and_grid_search(train, task):
    words, y = task
    fitted = train(max_steps=2).fit(words, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert again.prompt_ == fitted.prompt_
    assert not again.prompt_.keys.flags.writeable
    assert clone(fitted).get_params()["method"] == "prefix"
    start = fitted.prompt_
    assert clone(train(init=start)).init == start
    search = GridSearchCV(train(max_steps=2), {"method": ["prompt", "prefix"]}, cv=2)
    assert len(search.fit(words, y).cv_results_["params"]) == 2


def test_generator(make_generator, model, tmp_path):
    words = ["abc", "xyz", "abx", "xya"] * 5
    targets = [word[0] for word in words]
    generator = make_generator(method="prefix", validation_metric="metric").fit(words, targets)
    assert isinstance(generator.prompt_, Prefix)
    generator.prompt_.save(tmp_path)
    again = softprompt.SoftPromptGenerator.from_prompt(tmp_path, model)
    np.testing.assert_array_equal(again.predict(words), generator.predict(words))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "lora"}, "method must be one of 'prompt', 'prefix', got 'lora'"),
        ({"method": None}, "method must be one of"),
        ({"method": "prefix", "prompt_position": "after_bos"}, "stand before everything"),
    ],
)
def test_bad_parameters(make, task, parameters, message):
    with pytest.raises(ValueError, match=message):
        make(**parameters).fit(*task)


def test_an_empty_row_has_nothing_before_its_answer(make, train):
    words, y = ["a", "b", "", "c"], ["low", "high"] * 2
    make(template="{word}", validation_fraction=0, max_steps=1).fit(words, y)
    with pytest.raises(ValueError, match=r"X\[2\] gives no tokens, and a prefix gives none"):
        train(template="{word}", validation_fraction=0, max_steps=1).fit(words, y)


def test_on_an_engine(tmp_path):
    """A tiny real model: the loss falls, predictions are those of the engine with the prefix."""
    model = softprompt.load_model(tiny.write_tiny(tmp_path / "model", "llama"))

    class Letters:
        vocab_size = 90

        def encode(self, text, add_special_tokens=True):
            return [3 + ord(character) % 80 for character in text]

        def decode(self, ids, skip_special_tokens=True):
            return "".join(chr(i + 77) for i in ids)

    model.tokenizer = Letters()
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcxyz"), size=5)) for _ in range(40)]
    y = ["low" if sum(c in "abc" for c in word) > 2 else "high" for word in words]
    classifier = softprompt.SoftPromptClassifier(
        model, template="{word}:", labels={"low": "-", "high": "+"}, method="prefix",
        num_virtual_tokens=4, objective="labels", max_steps=60, validation_fraction=0,
        schedule="constant", learning_rate=0.05, random_state=0, progress=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.fit(words, y)
    losses = [step["loss"] for step in classifier.history_["steps"]]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    inputs = [model.tokenizer.encode(f"{word}:") for word in words]
    choices = [model.tokenizer.encode(text) for text in ("+", "-")]
    np.testing.assert_allclose(
        classifier.predict_log_proba(words),
        model.rank(inputs, choices, classifier.prompt_),
        atol=1e-12,
    )
    assert classifier.prompt_.base_model["fingerprint"] == model.fingerprint
