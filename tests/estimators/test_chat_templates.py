"""Texts as the user's turn of a conversation: what the model gets, and what is saved."""

from __future__ import annotations

import numpy as np
import pytest
from fake_model import BOS, CharacterTokenizer, FakeModel
from sklearn.base import clone

pytest.importorskip("jinja2", reason="chat templates need jinja2 (softprompt[chat])")

from softprompt.estimators import SoftPromptClassifier, SoftPromptGenerator
from softprompt.tokenizer import ChatTemplate

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[model]{% endif %}"
)


def texts(encoded):
    return [CharacterTokenizer().decode(ids) for ids in encoded]


def inputs(estimator, rows):
    return texts(ids for chunk in estimator._encoded_chunks(rows) for ids in chunk)


def test_the_template_goes_into_the_users_turn(make):
    classifier = make(num_virtual_tokens=0, chat_template=TEMPLATE)
    classifier.fit(["abc", "xyz"], ["low", "high"])
    assert inputs(classifier, ["ab"]) == ["[user]ab:[model]"]
    without = make(num_virtual_tokens=0, chat_template=False).fit(["abc", "xyz"], ["low", "high"])
    assert inputs(without, ["ab"]) == ["ab:"]


def test_demonstrations_stand_in_the_turn_too(make, task):
    classifier = make(num_virtual_tokens=0, examples=2, chat_template=TEMPLATE).fit(*task)
    (text,) = inputs(classifier, ["ab"])
    assert text == f"[user]{classifier.demonstrations_}ab:[model]"
    assert classifier.demonstrations_.count(":") == 2


def test_white_space_that_the_template_takes_off(make):
    template = TEMPLATE.replace("message.content", "message.content | trim")
    classifier = make(num_virtual_tokens=0, template="  {word} \n", chat_template=template)
    classifier.fit(["abc", "xyz"], ["low", "high"])
    assert inputs(classifier, ["ab"]) == ["[user]ab[model]"]


def test_the_text_alone_is_shortened(make):
    classifier = make(num_virtual_tokens=0, chat_template=TEMPLATE, max_length=20)
    classifier.fit(["abc", "xyz"], ["low", "high"])
    with pytest.warns(UserWarning, match="1 of 1 rows were longer than 20 tokens"):
        assert inputs(classifier, ["x" * 50]) == ["[user]xxxxxx:[model]"]


@pytest.mark.parametrize(("end", "label"), [("[model]", " low"), ("[model]\\n", "low")])
def test_a_name_as_label_follows_the_generation_prompt(make, end, label):
    template = TEMPLATE.replace("[model]", end.replace("\\n", "{{ '\\n' }}"))
    classifier = make(labels=None, num_virtual_tokens=0, chat_template=template)
    classifier.fit(["abc", "xyz"], ["low", "high"])
    assert classifier._labels.texts[1] == label


def test_special_tokens_are_those_of_the_template_alone(task):
    model = FakeModel(hidden_size=32, adds_bos=True, adds_eos=True)
    plain, chat = (
        SoftPromptClassifier(
            model, template="{word}:", labels=["-", "+"], num_virtual_tokens=0, chat_template=given
        ).fit(["a", "b"], ["-", "+"])
        for given in (None, TEMPLATE)
    )
    first = [next(iter(each._encoded_chunks(["ab"])))[0] for each in (plain, chat)]
    assert first[0][0] == BOS
    assert first[1] == CharacterTokenizer().encode("[user]ab:[model]", add_special_tokens=False)


def test_the_models_own_template(make, model, task):
    with pytest.raises(ValueError, match="chat_template=True, but the model's files have no"):
        make(chat_template=True).fit(*task)
    model.tokenizer.chat_template = ChatTemplate(TEMPLATE)
    classifier = make(chat_template=True, max_steps=2).fit(*task)
    assert inputs(classifier, ["ab"]) == ["[user]ab:[model]"]
    assert clone(classifier).chat_template is True


def test_a_saved_prompt_keeps_what_stood_around_its_texts(make, model, task, tmp_path):
    classifier = make(chat_template=TEMPLATE, max_steps=4).fit(*task)
    classifier.prompt_.save(tmp_path)
    assert classifier.prompt_.task["chat"] == {
        "before": "[user]", "after": "[model]", "strips": False,
    }  # fmt: skip
    # The model needs no template any more, and another one changes nothing.
    model.tokenizer.chat_template = ChatTemplate("other {{ messages[0].content }}")
    again = SoftPromptClassifier.from_prompt(tmp_path, model)
    assert inputs(again, ["ab"]) == ["[user]ab:[model]"]
    assert np.array_equal(again.predict_proba(task[0]), classifier.predict_proba(task[0]))
    without = SoftPromptClassifier.from_prompt(tmp_path, model, chat_template=None)
    assert inputs(without, ["ab"]) == ["ab:"]


def test_the_generator(make_generator, model, tmp_path):
    generator = make_generator(chat_template=TEMPLATE, max_steps=2).fit(["ab", "xy"] * 4, ["-"] * 8)
    generator.prompt_.save(tmp_path)
    again = SoftPromptGenerator.from_prompt(tmp_path, model)
    for each in (generator, again):
        assert inputs(each, ["ab"]) == ["[user]ab:[model]"]
    assert generator.predict(["ab"]).tolist() == again.predict(["ab"]).tolist()


def test_a_prompt_from_before_chat_templates(make, model, task, tmp_path):
    classifier = make(max_steps=2).fit(*task)
    record = dict(classifier.prompt_.task)
    assert record.pop("chat") is None
    prompt = type(classifier.prompt_)(classifier.prompt_.embeddings, task=record)
    assert inputs(SoftPromptClassifier.from_prompt(prompt, model), ["ab"]) == ["ab:"]


def test_a_damaged_record(make, model, task):
    classifier = make(max_steps=2).fit(*task)
    record = classifier.prompt_.task | {"chat": {"before": 3}}
    prompt = type(classifier.prompt_)(classifier.prompt_.embeddings, task=record)
    with pytest.raises(ValueError, match="the chat frame is"):
        SoftPromptClassifier.from_prompt(prompt, model)


@pytest.mark.parametrize(
    ("chat_template", "error", "message"),
    [
        (3, TypeError, "chat_template must be True, a text or None, got a int"),
        ("{% if", ValueError, "chat_template: the chat template failed: TemplateSyntaxError"),
        ("no text of the user's", ValueError, "writes the user's text 0 times"),
    ],
)
def test_bad_templates(make, task, chat_template, error, message):
    with pytest.raises(error, match=message):
        make(chat_template=chat_template).fit(*task)
