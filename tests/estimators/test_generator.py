"""The generator learns to write targets and to stop."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from fake_model import EOS

from softprompt.estimators import SoftPromptGenerator
from softprompt.estimators.metrics import exact_match, rouge_l, score_texts
from softprompt.prompt import SoftPrompt

WORDS = ["aaa", "zzz", "aab", "zzy"] * 5
TARGETS = ["+", "-", "+", "-"] * 5


def test_training_lowers_the_loss_and_raises_the_score(make_generator):
    untrained = make_generator(num_virtual_tokens=0).fit(WORDS, TARGETS)
    generator = make_generator(max_steps=200).fit(WORDS, TARGETS)
    evaluations = generator.history_["evaluations"]
    assert generator.best_score_ == max(e["score"] for e in evaluations) > evaluations[0]["score"]
    assert generator.score(WORDS, TARGETS) > untrained.score(WORDS, TARGETS)


def test_targets_end_with_the_end_token(make_generator, model):
    seen = []
    loss_and_grad = model.loss_and_grad

    def spy(prompt, examples):
        seen.extend(examples)
        return loss_and_grad(prompt, examples)

    model.loss_and_grad = spy
    with pytest.warns(UserWarning, match="10 of 20 targets in y were longer than") as caught:
        make_generator(max_steps=3).fit(WORDS, ["+", "long text"] * 10)
    assert len(caught) == 1
    targets = {tuple(target) for _, target in seen}
    plus, long = (tuple(model.tokenizer.encode(text)) for text in ("+", "long"))
    assert targets == {(*plus, EOS), long}


def test_predictions_are_the_models_greedy_texts(make_generator, model):
    generator = make_generator().fit(WORDS, TARGETS)
    inputs = [model.tokenizer.encode(f"{word}:") for word in WORDS]
    expected = model.generate(inputs, generator.prompt_, max_new_tokens=4)
    predictions = generator.predict(WORDS)
    assert predictions.dtype == object
    assert predictions.tolist() == expected


def test_beams(make_generator, model, tmp_path):
    beams = {"num_beams": 4, "length_penalty": -2.0, "early_stopping": "never"}
    generator = make_generator(**beams).fit(WORDS, TARGETS)
    inputs = [model.tokenizer.encode(f"{word}:") for word in WORDS]
    expected = model.generate(inputs, generator.prompt_, max_new_tokens=4, **beams)
    assert generator.predict(WORDS).tolist() == expected
    assert model.generate(inputs, generator.prompt_, max_new_tokens=4) != expected
    generator.prompt_.save(tmp_path / "prompt")
    restored = SoftPromptGenerator.from_prompt(tmp_path / "prompt", model)
    assert {name: getattr(restored, name) for name in beams} == beams
    assert restored.predict(WORDS).tolist() == expected


def test_a_prompt_that_was_saved_before_there_were_beams(make_generator, model):
    prompt = make_generator(max_steps=1, num_beams=3).fit(WORDS, TARGETS).prompt_
    task = {name: value for name, value in prompt.task.items() if "beams" not in name}
    older = SoftPrompt(prompt.embeddings, task=task, base_model=prompt.base_model)
    assert SoftPromptGenerator.from_prompt(older, model).num_beams == 1


def test_validation_by_the_metric_of_generated_texts(make_generator):
    seen = []

    def length(predictions, references):
        seen.append((predictions, references))
        return -float(len(seen))

    generator = make_generator(metric=length, validation_metric="metric").fit(WORDS, TARGETS)
    assert len(seen) == 3
    assert set(seen[0][1]) <= {"+", "-"}
    assert generator.best_iter_ == 0
    assert generator.score(WORDS, TARGETS) == -4.0
    assert generator.prompt_.task["metric"] == "length"


def test_demonstrations_show_targets_and_bound_the_answer(make_generator):
    generator = make_generator(examples=2, num_virtual_tokens=0).fit(WORDS, TARGETS)
    assert generator.demonstrations_.count("\n\n") == 2
    assert all("\n\n" not in text for text in generator.predict(WORDS))


def test_a_saved_prompt_is_enough_to_predict(make_generator, model, tmp_path):
    generator = make_generator(examples=1, metric="rougeL").fit(WORDS, TARGETS)
    generator.prompt_.save(tmp_path / "prompt")
    restored = SoftPromptGenerator.from_prompt(tmp_path / "prompt", model)
    assert restored.predict(WORDS).tolist() == generator.predict(WORDS).tolist()
    assert (restored.metric, restored.max_new_tokens) == ("rougeL", 4)


def test_a_classifiers_prompt_is_no_generators(make, model, task):
    prompt = make(max_steps=1).fit(*task).prompt_
    with pytest.raises(ValueError, match="task is 'classification', expected 'text-to-text'"):
        SoftPromptGenerator.from_prompt(prompt, model)


def test_weights(make_generator):
    weight = np.r_[np.ones(10), np.zeros(10)]
    with_zeros = make_generator().fit(WORDS, TARGETS, sample_weight=weight)
    without = make_generator().fit(WORDS[:10], TARGETS[:10])
    np.testing.assert_array_equal(with_zeros.prompt_.embeddings, without.prompt_.embeddings)


@pytest.mark.parametrize(
    ("parameters", "arguments", "error", "message"),
    [
        ({}, (WORDS, None), ValueError, "y is missing"),
        ({}, (WORDS, TARGETS[:-1]), ValueError, "X has 20 rows and y 19 values"),
        ({}, ([], []), ValueError, "X has no rows"),
        ({}, (WORDS, [*TARGETS[:-1], ""]), ValueError, r"y\[19\] is an empty text"),
        ({}, (WORDS, [*TARGETS[:-1], None]), ValueError, r"y\[19\] is missing"),
        ({}, (WORDS, [1] * 20), TypeError, r"y\[0\] is int 1"),
        ({}, (WORDS, TARGETS, [-1] * 20), ValueError, r"sample_weight\[0\] = -1"),
        ({"max_new_tokens": 0}, (WORDS, TARGETS), ValueError, "max_new_tokens must be >= 1"),
        ({"max_new_tokens": 400}, (WORDS, TARGETS), ValueError, "leave no room"),
        ({"num_beams": 0}, (WORDS, TARGETS), ValueError, "num_beams = 0: expected at least 1"),
        ({"length_penalty": 99.0}, (WORDS, TARGETS), ValueError, "4 tokens to that power"),
        ({"early_stopping": "soon"}, (WORDS, TARGETS), ValueError, "early_stopping = 'soon'"),
        ({"metric": "bleu"}, (WORDS, TARGETS), ValueError, "metric must be one of"),
        ({"validation_metric": "accuracy"}, (WORDS, TARGETS), ValueError, "validation_metric"),
        ({"init": "labels"}, (WORDS, TARGETS), ValueError, "needs class labels"),
        (
            {"truncation": "error"},
            (WORDS, ["much too long"] * 20),
            ValueError,
            r"y\[0\] has 13 tokens, at most 4 fit",
        ),
    ],
)
def test_bad_input(make_generator, parameters, arguments, error, message):
    with pytest.raises(error, match=message):
        make_generator(**parameters).fit(*arguments)


def test_bad_scores(make_generator):
    generator = make_generator(max_steps=1).fit(WORDS, TARGETS)
    with pytest.raises(ValueError, match="metric must be one of"):
        generator.score(WORDS, TARGETS, metric="accuracy")
    with pytest.raises(ValueError, match="X has 20 rows and y 1 values"):
        generator.score(WORDS, ["+"])
    with pytest.raises(ValueError, match="sample_weight is 0 for every row"):
        generator.score(WORDS, TARGETS, sample_weight=[0] * 20)
    with pytest.raises(TypeError, match="must return a number, got 'good'"):
        generator.score(WORDS, TARGETS, metric=lambda predictions, references: "good")


def test_preset(model):
    generator = SoftPromptGenerator.from_preset("lester2021", model, max_steps=2, progress=False)
    generator.set_params(num_virtual_tokens=2).fit(WORDS, TARGETS)
    assert (generator.optimizer, generator.init) == ("adafactor", "vocabulary")


# ---- metrics ----


def test_exact_match():
    np.testing.assert_array_equal(exact_match([" a", "b", "C"], ["a ", "b", "c"]), [1, 1, 0])
    assert score_texts("exact_match", ["a", "b"], ["a", "c"]) == 0.5
    assert score_texts("exact_match", ["a", "b"], ["a", "c"], np.array([3.0, 1.0])) == 0.75


def test_rouge_l():
    pytest.importorskip("rouge_score", reason="the package rouge-score is not installed")
    # LCS "the cat": precision 2/2, recall 2/3 -> F = 0.8 (Lin 2004, section 3.1, beta = 1).
    np.testing.assert_allclose(rouge_l(["the cat"], ["the cat sat"]), [0.8])
    assert score_texts("rougeL", ["x"], ["y"]) == 0.0


def test_rouge_l_without_the_package_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("rouge_score"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'softprompt\[text\]'"):
        rouge_l(["a"], ["a"])


def test_a_metric_of_ones_own():
    assert score_texts(lambda p, r: len(p), ["a", "b"], ["a", "c"]) == 2.0
    with pytest.raises(ValueError, match="sample_weight cannot be used with a metric of one's own"):
        score_texts(lambda p, r: 1.0, ["a"], ["a"], np.ones(1))
