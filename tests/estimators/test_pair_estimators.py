"""Estimators on a model with an encoder: what the encoder reads, what the decoder writes."""

from __future__ import annotations

import json

import decoders
import numpy as np
import pairs
import pytest

import softprompt
from softprompt.estimators import SoftPromptClassifier, SoftPromptGenerator

EOS = 2
WORDS = ["abc", "xyz", "abca", "xyzx"] * 4


class Letters:
    """Letters are ids from 3 on; of what the decoder writes from 30 on."""

    bos_token_id, eos_token_id, vocab_size = 0, EOS, 67

    def encode(self, text, add_special_tokens=True):
        return [3 + ord(c) % 27 for c in text] + [EOS] * add_special_tokens

    def encode_target(self, text, add_special_tokens=True):
        return [30 + ord(c) % 27 for c in text] + [EOS] * add_special_tokens

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(97 + (i - 30 - 97) % 27) for i in ids if i >= 30)


@pytest.fixture
def model(tmp_path):
    config = pairs.CONFIGS["bart"]
    decoders.write_decoder(tmp_path, config, decoders.table_shapes(config), seed=8)
    return softprompt.load_model(tmp_path, tokenizer=Letters())


@pytest.fixture
def seen(model):
    """Examples that the model was trained on."""
    examples = []
    loss_and_grad = model.loss_and_grad

    def spy(prompt, batch):
        examples.extend(batch)
        return loss_and_grad(prompt, batch)

    model.loss_and_grad = spy
    return examples


SETTINGS = {
    "template": "{word}",
    "num_virtual_tokens": 3,
    "max_steps": 30,
    "eval_every": 10,
    "learning_rate": 0.2,
    "random_state": 0,
    "progress": False,
}


def test_a_generator_reads_and_writes_end_tokens(model, seen):
    generator = SoftPromptGenerator(model, max_new_tokens=4, **SETTINGS)
    generator.fit(WORDS, ["ab", "c", "ab", "c"] * 4)
    tokenizer = model.tokenizer
    assert {tuple(ids) for ids, _ in seen} == {tuple(tokenizer.encode(word)) for word in WORDS}
    targets = {tuple(target) for _, target in seen}
    assert targets == {tuple(tokenizer.encode_target(text)) for text in ("ab", "c")}
    losses = [e["loss"] for e in generator.history_["evaluations"]]
    assert min(losses[1:]) < losses[0]
    got = generator.predict(WORDS[:2]).tolist()
    assert got == model.generate(WORDS[:2], generator.prompt_, max_new_tokens=4)


def test_the_end_of_a_target_is_no_token_of_it(model, seen):
    settings = SETTINGS | {"max_steps": 2}
    generator = SoftPromptGenerator(model, max_new_tokens=3, **settings)
    generator.fit(WORDS, ["abc"] * 16)
    with pytest.warns(UserWarning, match="16 of 16 targets in y were longer than"):
        generator.fit(WORDS, ["abcd"] * 16)
    short, long = [model.tokenizer.encode_target(text) for text in ("abc", "abcd")]
    assert {tuple(target) for _, target in seen} == {tuple(short), tuple(long[:3])}


@pytest.mark.parametrize("objective", ["tokens", "labels"])
def test_a_classifier_ranks_labels_by_the_decoder(model, objective):
    classifier = SoftPromptClassifier(
        model, labels={0: "ab", 1: "abc"}, objective=objective, **SETTINGS
    )
    classes = [0, 1, 0, 1] * 4
    classifier.fit(WORDS, classes)
    # With its end token the one label is no beginning of the other.
    choices = [model.tokenizer.encode_target(text) for text in ("ab", "abc")]
    inputs = [model.tokenizer.encode(word) for word in WORDS]
    expected = model.rank(inputs, choices, classifier.prompt_)
    np.testing.assert_array_equal(classifier.predict_log_proba(WORDS), expected)
    losses = [e["loss"] for e in classifier.history_["evaluations"]]
    assert min(losses[1:]) < losses[0]


def test_labels_have_no_blank_and_starts_are_tokens_of_the_input(model):
    classifier = SoftPromptClassifier(model, **SETTINGS | {"max_steps": 1})
    classifier.fit(WORDS, ["low", "high"] * 8)
    assert classifier._labels.texts == ["high", "low"]
    objective, starts = classifier._make_objective(
        classifier._method,
        [[3]],
        classifier._label([{"word": "a"}], ["low"], np.ones(1), names=("X", "y"), balance=0),
    )
    assert starts == [model.tokenizer.encode(text, False) for text in ("high", "low")]
    assert objective.num_rows == 1


def test_an_answer_takes_no_room_of_the_input(model):
    generator = SoftPromptGenerator(model, max_new_tokens=40, **SETTINGS | {"max_steps": 1})
    generator.fit(["a" * 44, *WORDS[1:]], ["c"] * 16)
    with pytest.warns(UserWarning, match="longer than 45 tokens"):
        generator.fit(["a" * 45, *WORDS[1:]], ["c"] * 16)
    with pytest.raises(ValueError, match="49 tokens of an answer leave no room"):
        SoftPromptGenerator(model, max_new_tokens=48, **SETTINGS).fit(WORDS, ["c"] * 16)


def test_a_saved_prompt_is_peft_s_with_one_submodule(model, tmp_path):
    generator = SoftPromptGenerator(model, max_new_tokens=4, **SETTINGS | {"max_steps": 2})
    generator.fit(WORDS, ["ab", "c"] * 8)
    generator.prompt_.save(tmp_path / "prompt")
    config = json.loads((tmp_path / "prompt" / "adapter_config.json").read_text())
    assert (config["task_type"], config["num_transformer_submodules"]) == ("SEQ_2_SEQ_LM", 1)
    restored = SoftPromptGenerator.from_prompt(tmp_path / "prompt", model)
    assert restored.predict(WORDS).tolist() == generator.predict(WORDS).tolist()


def test_neighbours_and_prefixes(model):
    table = softprompt.neighbors(model.embeddings[[5, 9]], model, k=1)
    assert [row.cosine[0].token_id for row in table.rows] == [5, 9]
    with pytest.raises(ValueError, match="no keys and values of its own in an encoder"):
        model.prefix(model.embeddings[[5, 9]])
