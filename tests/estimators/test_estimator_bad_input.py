"""Every wrong call of an estimator ends in an exception that names the value."""

from __future__ import annotations

import numpy as np
import pytest
from fake_model import FakeModel
from sklearn.exceptions import NotFittedError

from softprompt.estimators import SoftPromptClassifier

WORDS, Y = ["abc", "xyz"] * 4, ["low", "high"] * 4


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a softprompt.Model, a name or a path, got int"),
        ({"template": None}, TypeError, "template must be a str"),
        ({"template": "no field"}, ValueError, "has no field"),
        ({"template": "{other}:"}, None, None),
        ({"labels": {"low": "-"}}, ValueError, "at least two classes"),
        ({"labels": {"low": "-", "other": "+"}}, ValueError, r"y\[1\] = 'high' is not a class"),
        ({"labels": {"low": "-", "high": "-"}}, ValueError, "the same text '-'"),
        ({"labels": {"low": "a", "high": "ab"}}, ValueError, "would never be predicted"),
        ({"labels": {"low": "-" * 400, "high": "+"}}, ValueError, "leave no room"),
        ({"num_virtual_tokens": -1}, ValueError, "num_virtual_tokens must be >= 0"),
        ({"num_virtual_tokens": 2.0}, TypeError, "num_virtual_tokens must be an integer"),
        ({"num_virtual_tokens": 400}, ValueError, "400 virtual tokens and 1 tokens of an answer"),
        ({"num_virtual_tokens": 10**12}, ValueError, "num_virtual_tokens must be"),
        ({"init": "nonsense"}, ValueError, "init='nonsense'"),
        ({"init": np.ones((2, 32))}, ValueError, "num_virtual_tokens=3"),
        ({"init": np.full((3, 32), np.nan)}, ValueError, "(?i)nan"),
        ({"init": np.ones((3, 31))}, ValueError, "31"),
        ({"objective": "loss"}, ValueError, "objective must be one of 'labels', 'tokens', got"),
        ({"objective": None}, ValueError, "objective must be one of"),
        ({"optimizer": "sgd"}, ValueError, r"optimizer must be one of \['adafactor', 'adamw'\]"),
        ({"optimizer_options": {"momentum": 1}}, ValueError, r"\['momentum'\], which adamw does"),
        ({"optimizer_options": {"betas": (2, 0)}}, ValueError, "betas"),
        ({"learning_rate": "fast"}, ValueError, "learning_rate must be a number or 'auto'"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be"),
        ({"schedule": "step"}, ValueError, "schedule must be one of"),
        ({"warmup_steps": 40}, ValueError, "warmup_steps=40 must be less than max_steps=40"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps must be"),
        ({"max_steps": 0}, ValueError, "max_steps must be >= 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm must be"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must be"),
        ({"validation_fraction": -0.1}, ValueError, "validation_fraction must be"),
        ({"validation_metric": "f1"}, ValueError, "validation_metric must be one of"),
        ({"eval_every": 0}, ValueError, "eval_every must be >= 1"),
        ({"patience": 0}, ValueError, "patience must be >= 1"),
        ({"class_weight": "unbalanced"}, ValueError, "class_weight"),
        ({"class_weight": {"low": -1, "high": 1}}, ValueError, r"sample_weight\[0\] = -1.0"),
        ({"class_weight": {"low": 0, "high": 0}}, ValueError, "is 0 for every row"),
        ({"length_normalize": "yes"}, ValueError, "length_normalize must be one of True, False"),
        ({"truncation": "left"}, ValueError, "truncation must be one of 'field', 'error'"),
        ({"max_length": 0}, ValueError, "max_length must be >= 1"),
        ({"max_length": 1000}, ValueError, "max_length=1000 is more than the 396 tokens"),
        ({"max_length": 3, "truncation": "error"}, ValueError, r"X\[.\] has 4 tokens"),
        ({"max_length": 1, "template": "T: {w}"}, ValueError, "alone has 3 tokens, at most 1"),
        ({"examples": -1}, ValueError, "examples must be >= 0"),
        ({"examples": 7}, ValueError, "leave none of 7 rows"),
        ({"examples": 9}, ValueError, "examples=9 demonstrations need as many rows, got 7"),
        ({"prompt_position": "end"}, ValueError, "prompt_position must be one of"),
        ({"progress": "often"}, ValueError, "progress must be one of"),
        ({"resume": "yes"}, ValueError, "resume must be one of"),
        ({"random_state": "seed"}, ValueError, "seed"),
        ({"checkpoint_dir": "x", "random_state": None}, ValueError, "random_state to be an int"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be"),
    ],
)
def test_parameters(make, parameters, error, message):
    if error is None:
        make(**parameters, max_steps=1).fit(WORDS, Y)
        return
    with pytest.raises(error, match=message):
        make(**parameters).fit(WORDS, Y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], []), ValueError, "X has no rows"),
        ((WORDS, None), ValueError, "y is missing"),
        ((WORDS, Y[:-1]), ValueError, "X has 8 rows and y 7 values"),
        ((WORDS[:-1], Y), ValueError, "X has 7 rows and y 8 values"),
        ((WORDS, ["low"] * 8), ValueError, "y has one class only, 'low'"),
        ((WORDS, [*Y[:-1], None]), ValueError, r"y\[7\] = None is not a class"),
        ((WORDS, Y, [1.0] * 7), ValueError, "X has 8 rows and sample_weight 7 values"),
        ((WORDS, Y, [1.0] * 7 + [-1]), ValueError, r"sample_weight\[7\] = -1.0"),
        ((WORDS, Y, [np.nan] * 8), ValueError, r"sample_weight\[0\] = nan"),
        ((WORDS, Y, [np.inf] * 8), ValueError, r"sample_weight\[0\] = inf"),
        ((WORDS, Y, [0] * 8), ValueError, "is 0 for every row"),
        ((WORDS, Y, np.ones((8, 1))), ValueError, r"one dimension, got the shape \(8, 1\)"),
        ((WORDS, Y, ["a"] * 8), TypeError, "sample_weight must hold numbers"),
    ],
)
def test_rows_classes_and_weights(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make().fit(*arguments)


@pytest.mark.parametrize(
    ("validation_data", "error", "message"),
    [
        (WORDS, TypeError, r"must be \(X, y\) or \(X, y, sample_weight\), got a list of 8"),
        ((WORDS,), TypeError, "got a tuple of 1"),
        ("text", TypeError, "got a str"),
        ((WORDS, Y[:-1]), ValueError, "validation X has 8 rows and validation y 7"),
        (([], []), ValueError, "validation X has no rows"),
        ((WORDS, ["low", "huh"] * 4), ValueError, r"validation y\[1\] = 'huh' is not a class"),
        (([None], ["low"]), ValueError, r"validation X\[0\] is missing"),
        ((WORDS, Y, [0] * 8), ValueError, "is 0 for every row"),
        ((WORDS, Y, [1] * 3), ValueError, "validation sample_weight 3 values"),
    ],
)
def test_validation_data(make, validation_data, error, message):
    with pytest.raises(error, match=message):
        make().fit(WORDS, Y, validation_data=validation_data)


def test_unfitted_use(make, make_generator):
    for call in (make().predict, make().predict_proba, make_generator().predict):
        with pytest.raises(NotFittedError) as caught:
            call(WORDS)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(NotFittedError):
        make().score(WORDS, Y)


def test_a_fit_that_fails_leaves_no_half_of_an_earlier_one(make):
    classifier = make(max_steps=1).fit(WORDS, Y)
    with pytest.raises(ValueError, match="X has no rows"):
        classifier.fit([], [])
    with pytest.raises(NotFittedError):
        classifier.predict(WORDS)


def test_rows_of_prediction(make):
    classifier = make(max_steps=1).fit(WORDS, Y)
    with pytest.raises(ValueError, match="X has no rows"):
        classifier.predict([])
    with pytest.raises(ValueError, match=r"X\[1\] has no field 'word'"):
        classifier.predict([{"word": "a"}, {"text": "b"}])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.score(WORDS, Y[:-1])


def test_a_row_far_into_a_long_prediction_is_named_by_its_number(make):
    classifier = make(max_steps=1, truncation="error", max_length=10).fit(WORDS, Y)
    with pytest.raises(ValueError, match=r"X\[700\] has 21 tokens"):
        classifier.predict(["abc"] * 700 + ["a" * 20])


def test_a_row_without_any_token(model):
    classifier = SoftPromptClassifier(
        model, template="{text}", labels=["-", "+"], num_virtual_tokens=0, progress=False
    ).fit(["a"], ["-"])
    with pytest.raises(ValueError, match=r"X\[1\] gives no tokens, and there is no prompt"):
        classifier.predict(["a", ""])
    classifier.set_params(num_virtual_tokens=2, max_steps=1)
    fitted = classifier.fit(["a", ""], ["-", "+"], validation_data=(["", "b"], ["-", "+"]))
    assert fitted.predict([""]).shape == (1,)


def test_a_loss_that_is_not_finite_names_the_step(make, model):
    def spoil():
        if model.calls == 3:
            model.embeddings[:] = np.nan

    model.before_pass = spoil
    with pytest.raises(RuntimeError, match="step 3: the loss is nan"):
        make(validation_fraction=0).fit(WORDS, Y)


def test_a_prompt_of_another_width(make, tmp_path):
    fitted = make(max_steps=1).fit(WORDS, Y)
    with pytest.raises(ValueError, match="hidden_size"):
        SoftPromptClassifier.from_prompt(fitted.prompt_, FakeModel(hidden_size=5))
    with pytest.warns(UserWarning, match="fingerprint"):
        SoftPromptClassifier.from_prompt(fitted.prompt_, FakeModel(hidden_size=32, seed=1))
    with pytest.raises(OSError, match="nowhere"):
        SoftPromptClassifier.from_prompt(tmp_path / "nowhere", FakeModel())
