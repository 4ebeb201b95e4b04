"""The estimators on a real model: known scores, and what holds for the double holds for it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from softprompt import SoftPromptClassifier, SoftPromptGenerator

REVIEWS = [
    "a moving and funny film",
    "dull , slow and far too long",
    "the best thing this year",
    "a waste of two hours",
    "warm , witty and wise",
    "nothing in it works",
    "i would see it again tomorrow",
    "lifeless from start to end",
] * 2
SENTIMENT = [1, 0] * 8
SETTINGS = {
    "template": "Review: {sentence}\nSentiment:",
    "labels": {0: " negative", 1: " positive"},
    "num_virtual_tokens": 4,
    "max_steps": 4,
    "eval_every": 2,
    "batch_size": 4,
    "random_state": 0,
    "progress": False,
}


def test_zero_shot_sst2(smollm2, shared_dir):
    """78.7 % of the first 300 validation rows, as transformers has on the same weights."""
    with open(shared_dir / "data" / "sst2" / "validation.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:300]
    y = [row["label"] for row in rows]
    classifier = SoftPromptClassifier(smollm2, **{**SETTINGS, "num_virtual_tokens": 0})
    # One row of 300 may lie within rounding of the border.
    assert classifier.fit(rows, y).score(rows, y) == pytest.approx(236 / 300, abs=1.01 / 300)


@pytest.mark.parametrize("objective", ["labels", "tokens"])
def test_a_few_steps_lower_the_loss(smollm2, objective):
    classifier = SoftPromptClassifier(
        smollm2, **SETTINGS, objective=objective, validation_metric="loss"
    )
    classifier.fit(REVIEWS, SENTIMENT, validation_data=(REVIEWS, SENTIMENT))
    losses = [evaluation["loss"] for evaluation in classifier.history_["evaluations"]]
    assert min(losses) < losses[0]


def test_a_stopped_run_goes_on_to_the_same_bits(smollm2, tmp_path, monkeypatch):
    whole = SoftPromptClassifier(smollm2, **SETTINGS).fit(REVIEWS, SENTIMENT)
    settings = {**SETTINGS, "checkpoint_dir": tmp_path, "checkpoint_every": 1}
    calls = 0
    step = smollm2.loss_and_grad

    def stop(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "loss_and_grad", stop)
        with pytest.raises(KeyboardInterrupt):
            SoftPromptClassifier(smollm2, **settings).fit(REVIEWS, SENTIMENT)
    resumed = SoftPromptClassifier(smollm2, **settings, resume=True).fit(REVIEWS, SENTIMENT)
    np.testing.assert_array_equal(resumed.prompt_.embeddings, whole.prompt_.embeddings)
    assert resumed.history_ == whole.history_


def test_a_saved_prompt_predicts_the_same(smollm2, tmp_path):
    classifier = SoftPromptClassifier(smollm2, **SETTINGS, examples=2).fit(REVIEWS, SENTIMENT)
    classifier.prompt_.save(tmp_path)
    restored = SoftPromptClassifier.from_prompt(tmp_path, smollm2)
    np.testing.assert_array_equal(
        restored.predict_proba(REVIEWS), classifier.predict_proba(REVIEWS)
    )


def test_long_rows_are_shortened(smollm2):
    parameters = {**SETTINGS, "num_virtual_tokens": 0}
    classifier = SoftPromptClassifier(smollm2, **parameters, max_length=64)
    classifier.fit(REVIEWS, SENTIMENT)
    with pytest.warns(UserWarning, match="1 of 2 rows were longer than 64 tokens"):
        assert classifier.predict(["good " * 20_000, "good"]).shape == (2,)


def test_generator(smollm2):
    generator = SoftPromptGenerator(
        smollm2,
        template="{country} ->",
        num_virtual_tokens=4,
        max_steps=3,
        eval_every=3,
        batch_size=2,
        max_new_tokens=3,
        validation_fraction=0,
        random_state=0,
        progress=False,
    )
    countries, capitals = ["France", "Italy", "Spain"], [" Paris", " Rome", " Madrid"]
    generator.fit(countries, capitals)
    losses = [step["loss"] for step in generator.history_["steps"]]
    assert losses[-1] < losses[0]
    assert all(isinstance(text, str) for text in generator.predict(countries))
    assert 0 <= generator.score(countries, capitals) <= 1
