"""The classifier does its job: learns, predicts, scores, is saved and comes back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from softprompt import SoftPrompt
from softprompt.estimators import SoftPromptClassifier
from softprompt.tuner import TextStart


@pytest.mark.parametrize("objective", ["labels", "tokens"])
def test_training_beats_the_hand_written_prompt(make, task, objective):
    words, y = task
    untrained = make(num_virtual_tokens=0).fit(words, y)
    tuned = make(objective=objective, max_steps=150).fit(words, y)
    assert untrained.score(words, y) < 0.7 < 0.85 < tuned.score(words, y)
    assert untrained.prompt_ is None
    assert untrained.n_iter_ == 0
    assert tuned.prompt_.num_virtual_tokens == 3


def test_attributes_after_fit(make, task, model):
    words, y = task
    classifier = make()
    assert classifier.fit(words, y) is classifier
    assert classifier.classes_.tolist() == ["high", "low"]
    assert classifier.n_iter_ == 40
    assert classifier.model_ is model
    assert [step["step"] for step in classifier.history_["steps"]] == list(range(1, 41))
    evaluations = classifier.history_["evaluations"]
    assert [evaluation["step"] for evaluation in evaluations] == [0, 10, 20, 30, 40]
    best = max(evaluations, key=lambda e: (e["score"], -e["loss"]))
    assert (best["step"], best["score"]) == (classifier.best_iter_, classifier.best_score_)


def test_probabilities_are_the_softmax_of_the_labels_log_likelihoods(make, task, model):
    words, y = task
    classifier = make(labels={"low": "few", "high": "many"}, max_steps=2).fit(words, y)
    prompt = classifier.prompt_.embeddings.astype(np.float64)
    ids = model.tokenizer.encode(f"{words[0]}:")
    sums = [
        model._answer(prompt, ids, model.tokenizer.encode(text))[0].sum()
        for text in ("many", "few")
    ]
    expected = np.exp(sums) / np.exp(sums).sum()
    # Both sides are float64 sums of the same few terms.
    np.testing.assert_allclose(classifier.predict_proba(words[:1])[0], expected, rtol=1e-12)
    np.testing.assert_array_equal(
        classifier.predict(words), classifier.classes_[classifier.predict_proba(words).argmax(1)]
    )
    np.testing.assert_allclose(
        np.exp(classifier.predict_log_proba(words)), classifier.predict_proba(words)
    )


def test_the_same_seed_gives_the_same_bits_and_another_does_not(make, task):
    prompts = [make(random_state=seed).fit(*task).prompt_.embeddings for seed in (0, 0, 1)]
    np.testing.assert_array_equal(prompts[0], prompts[1])
    assert not np.array_equal(prompts[0], prompts[2])


@pytest.mark.parametrize(
    ("labels", "y", "classes"),
    [
        ({0: "-", 1: "+"}, np.array([0, 1] * 10), [0, 1]),
        ({1: "-", 0: "+"}, [1, 0] * 10, [0, 1]),
        ({False: "-", True: "+"}, [True, False] * 10, [False, True]),
        ({False: "-", True: "+"}, np.array([True, False] * 10), [False, True]),
        (["-", "+"], ["+", "-"] * 10, ["+", "-"]),
        (np.array(["-", "+"]), np.array(["+", "-"] * 10, object), ["+", "-"]),
        (None, ["b", "a"] * 10, ["a", "b"]),
        (None, [7, 3] * 10, [3, 7]),
        ({"c": "!", "b": "-", "a": "+"}, ["b", "a"] * 10, ["a", "b", "c"]),
        ({0: "-", 1: "+"}, np.array([[0.0], [1.0]] * 10), [0, 1]),
    ],
)
def test_kinds_of_classes(make, labels, y, classes):
    words = ["abc", "xyz"] * 10
    classifier = make(labels=labels, max_steps=2).fit(words, y)
    assert classifier.classes_.tolist() == classes
    assert classifier.predict_proba(words).shape == (20, len(classes))
    assert set(classifier.predict(words).tolist()) <= set(classes)


def test_without_labels_a_class_is_its_name_after_a_blank(make):
    def texts(template):
        fitted = make(labels=None, template=template, num_virtual_tokens=0)
        return fitted.fit(["a", "b"], ["yes", "no"])._labels.texts

    assert texts("{word}:") == [" no", " yes"]
    assert texts("{word}:\n") == ["no", "yes"]


def test_rows_of_weight_zero_change_nothing(make, task):
    words, y = task
    weight = np.ones(len(words))
    weight[::7] = 0
    keep = weight > 0
    wrong = ["low" if w == 0 else label for w, label in zip(weight, y, strict=True)]
    with_zeros = make().fit(words, wrong, sample_weight=weight)
    without = make().fit(
        [word for word, kept in zip(words, keep, strict=True) if kept],
        [label for label, kept in zip(y, keep, strict=True) if kept],
    )
    np.testing.assert_array_equal(with_zeros.prompt_.embeddings, without.prompt_.embeddings)


@pytest.mark.parametrize("objective", ["labels", "tokens"])
def test_a_weight_counts_as_repetition(make, objective):
    words, y = ["abc", "xyz", "abx"], ["low", "high", "low"]
    settings = {"validation_fraction": 0, "max_steps": 1, "objective": objective}
    weighted = make(batch_size=3, **settings).fit(words, y, sample_weight=[2, 1, 1])
    repeated = make(batch_size=4, **settings).fit([*words, "abc"], [*y, "low"])
    # One full-batch step from the same start; the sums are in another order.
    np.testing.assert_allclose(
        weighted.history_["steps"][0]["loss"], repeated.history_["steps"][0]["loss"], rtol=1e-12
    )


def test_class_weight_multiplies_sample_weight(make, task):
    words, y = task
    settings = {"max_steps": 5, "validation_fraction": 0}
    by_class = make(class_weight={"low": 3, "high": 1}, **settings).fit(words, y)
    by_hand = make(**settings).fit(
        words, y, sample_weight=[3 if label == "low" else 1 for label in y]
    )
    np.testing.assert_array_equal(by_class.prompt_.embeddings, by_hand.prompt_.embeddings)

    count = {label: y.count(label) for label in set(y)}
    balanced = make(class_weight="balanced", **settings).fit(words, y)
    by_hand = make(**settings).fit(
        words, y, sample_weight=[len(y) / (2 * count[label]) for label in y]
    )
    np.testing.assert_array_equal(balanced.prompt_.embeddings, by_hand.prompt_.embeddings)


def test_validation_data_is_used_instead_of_training_rows(make, task):
    words, y = task
    classifier = make().fit(words[:60], y[:60], validation_data=(words[60:], y[60:]))
    training = classifier.prompt_.training
    assert (training["num_training_rows"], training["num_validation_rows"]) == (60, 20)
    assert classifier.best_score_ == classifier.score(words[60:], y[60:])
    weight = np.r_[np.ones(10), np.zeros(10)]
    weighted = make().fit(words[:60], y[:60], validation_data=(words[60:], y[60:], weight))
    assert weighted.prompt_.training["num_validation_rows"] == 10


def test_without_validation_the_last_prompt_is_kept(make, task):
    classifier = make(validation_fraction=0).fit(*task)
    assert classifier.best_score_ is None
    assert classifier.best_iter_ == 40
    assert classifier.history_["evaluations"] == []


def test_too_few_rows_for_validation_warn(make):
    with pytest.warns(UserWarning, match="2 rows are too few to set any aside"):
        make(max_steps=1).fit(["abc", "xyz"], ["low", "high"])


def test_patience_ends_a_run_that_does_not_improve(make, task):
    classifier = make(learning_rate=0.0, patience=2, max_steps=1000).fit(*task)
    assert classifier.n_iter_ == 20
    assert classifier.best_iter_ == 0


def test_validation_by_loss(make, task):
    classifier = make(validation_metric="loss").fit(*task)
    losses = [evaluation["loss"] for evaluation in classifier.history_["evaluations"]]
    assert classifier.best_score_ == -min(losses)


# ---- demonstrations ----


def test_demonstrations_are_balanced_fixed_and_not_trained_on(make, task):
    words, _ = task
    classifiers = [make(examples=4, num_virtual_tokens=p, max_steps=2).fit(*task) for p in (0, 3)]
    shown = classifiers[0].demonstrations_.split("\n\n")
    assert len(shown) == 5
    assert shown[-1] == ""
    assert sorted(text[-1] for text in shown[:-1]) == ["+", "+", "-", "-"]
    assert {text[:5] for text in shown[:-1]} <= set(words)
    tuned = classifiers[1]
    training = tuned.prompt_.training
    assert training["num_training_rows"] + training["num_validation_rows"] == len(words) - 4
    assert tuned.predict(words[:3]).shape == (3,)
    again = make(examples=4, num_virtual_tokens=0).fit(*task)
    assert again.demonstrations_ == classifiers[0].demonstrations_


def test_demonstrations_stand_before_the_text(make, task, model):
    classifier = make(examples=2, num_virtual_tokens=0).fit(*task)
    seen = []
    model.rank = lambda inputs, *args, **options: seen.append(inputs) or np.zeros((len(inputs), 2))
    classifier.predict(["qqq"])
    assert model.tokenizer.decode(seen[0][0]) == classifier.demonstrations_ + "qqq:"


# ---- starts and optimisers ----


@pytest.mark.parametrize("init", ["labels", "vocabulary", "random", TextStart("low or high?")])
def test_named_starts(make, task, init):
    assert make(init=init, max_steps=2).fit(*task).n_iter_ == 2


def test_another_prompt_is_a_start(make, task, tmp_path):
    first = make(max_steps=20).fit(*task)
    second = make(init=first.prompt_, max_steps=1, learning_rate=0.0).fit(*task)
    np.testing.assert_array_equal(first.prompt_.embeddings, second.prompt_.embeddings)
    third = make(init=first.prompt_.save(tmp_path / "first"), max_steps=1, learning_rate=0.0)
    np.testing.assert_array_equal(first.prompt_.embeddings, third.fit(*task).prompt_.embeddings)


def test_automatic_learning_rate_is_a_fraction_of_the_embeddings_rms(make, task, model):
    from softprompt.tuner.defaults import LEARNING_RATE_OF_RMS

    classifier = make(learning_rate="auto", max_steps=1).fit(*task)
    rms = np.sqrt(np.mean(np.square(model.embeddings, dtype=np.float64)))
    np.testing.assert_allclose(
        classifier.history_["steps"][0]["learning_rate"], LEARNING_RATE_OF_RMS["adamw"] * rms
    )


def test_preset_and_what_overrides_it(model, task):
    classifier = SoftPromptClassifier.from_preset(
        "lester2021", model, template="{word}:", num_virtual_tokens=3, max_steps=3, progress=False
    )
    assert (classifier.optimizer, classifier.learning_rate) == ("adafactor", 0.3)
    assert classifier.num_virtual_tokens == 3
    assert classifier.set_params(labels=["low", "high"]).fit(*task).n_iter_ == 3


# ---- where the prompt stands ----


def test_prompt_position_is_trained_and_saved(make, task, tmp_path, model):
    seen = set()
    rank = model.rank

    def spy(inputs, choices, prompt=None, **options):
        seen.add(prompt.position)
        return rank(inputs, choices, prompt, **options)

    model.rank = spy
    classifier = make(prompt_position="after_bos", max_steps=2).fit(*task)
    classifier.predict(task[0])
    assert seen == {"after_bos"}
    assert classifier.prompt_.position == "after_bos"


# ---- files ----


def test_a_saved_prompt_is_enough_to_predict(make, task, model, tmp_path):
    words, y = task
    labels = {0: "low", 1: "high", 2: "none"}
    numbers = [0 if label == "low" else 1 for label in y]
    classifier = make(labels=labels, examples=2, length_normalize=True, max_length=60)
    classifier.fit(words, numbers)
    classifier.prompt_.save(tmp_path / "prompt")
    for prompt in (tmp_path / "prompt", SoftPrompt.load(tmp_path / "prompt"), classifier.prompt_):
        restored = SoftPromptClassifier.from_prompt(prompt, model)
        np.testing.assert_array_equal(
            restored.predict_proba(words), classifier.predict_proba(words)
        )
        assert restored.classes_.tolist() == [0, 1, 2]
        assert restored.get_params()["labels"] == labels
        assert restored.n_iter_ == classifier.n_iter_
        assert restored.best_score_ == classifier.best_score_


@pytest.mark.parametrize("classes", [[False, True], [0, 1], ["a", "b"], [0.0, 1.0]])
def test_classes_keep_their_type_in_a_file(make, model, tmp_path, classes):
    labels = dict(zip(classes, "+-", strict=True))
    classifier = make(labels=labels, max_steps=1).fit(["abc", "xyz"] * 10, classes * 10)
    classifier.prompt_.save(tmp_path / "prompt")
    restored = SoftPromptClassifier.from_prompt(tmp_path / "prompt", model)
    assert restored.classes_.dtype == classifier.classes_.dtype
    assert restored.classes_.tolist() == classes
    saved = json.loads((tmp_path / "prompt" / "softprompt.json").read_text())
    assert saved["task"]["template"] == "{word}:"


def test_a_prompt_without_a_task_cannot_be_a_classifier(model):
    prompt = SoftPrompt(np.ones((2, 32), np.float32))
    with pytest.raises(ValueError, match="task is None, expected 'classification'"):
        SoftPromptClassifier.from_prompt(prompt, model)
    prompt = SoftPrompt(np.ones((2, 32), np.float32), task={"kind": "classification"})
    with pytest.raises(ValueError, match=r"lacks .*'template'.*'classes'"):
        SoftPromptClassifier.from_prompt(prompt, model)


def test_ctrl_c_keeps_the_best_prompt_so_far(make, task, model):
    def stop():
        if model.calls == 25:
            raise KeyboardInterrupt

    model.before_pass = stop
    classifier = make()
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(*task)
    assert classifier.n_iter_ == 24
    model.before_pass = lambda: None
    assert classifier.predict(task[0]).shape == (80,)
    assert classifier.best_iter_ in (0, 10, 20)
