"""Rows that are too long lose their fields' ends, and nothing else."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
from fake_model import EOS, CharacterTokenizer, FakeModel
from hypothesis import given
from hypothesis import strategies as st

from softprompt.estimators.encoding import RowEncoder, TextEncoder, shorten_answer
from softprompt.estimators.template import Template

CHARACTERS = TextEncoder.of(FakeModel())


def _text(ids):
    return CharacterTokenizer().decode(ids)


def test_the_field_is_shortened_and_the_template_kept():
    encoder = RowEncoder(Template("Review: {s}\nOpinion:"), CHARACTERS, limit=25)
    [short, long] = encoder.encode([{"s": "good"}, {"s": "very very very good"}])
    assert _text(short) == "Review: good\nOpinion:"
    assert _text(long) == "Review: very ver\nOpinion:"
    with pytest.warns(UserWarning, match="1 of 2 rows were longer than 25 tokens"):
        encoder.warn()


def test_the_longest_field_is_shortened_first():
    encoder = RowEncoder(Template("{a}|{b}"), CHARACTERS, limit=10)
    assert _text(encoder.encode([{"a": "x" * 50, "b": "yyy"}])[0]) == "xxxxxx|yyy"
    assert _text(encoder.encode([{"a": "xxx", "b": "y" * 50}])[0]) == "xxx|yyyyyy"
    # Equally long fields lose equally much, and one token stays free.
    assert _text(encoder.encode([{"a": "x" * 50, "b": "y" * 60}])[0]) == "xxxx|yyyy"


def test_a_field_that_is_named_twice():
    encoder = RowEncoder(Template("{a}|{a}"), CHARACTERS, limit=8)
    assert _text(encoder.encode([{"a": "x" * 50}])[0]) == "xxx|xxx"


class PairTokenizer:
    """Two characters a token, counted from the start of the whole text; no encode_batch."""

    def encode(self, text, add_special_tokens=True):
        return [hash(text[i : i + 2]) % 100 for i in range(0, len(text), 2)]


@given(st.text("ab ", max_size=300), st.text("ab ", max_size=300), st.integers(3, 200))
def test_rows_always_fit_and_use_the_room(a, b, limit):
    for tokenizer in (CharacterTokenizer(), PairTokenizer()):
        model = SimpleNamespace(
            tokenizer=tokenizer, config=SimpleNamespace(adds_eos=False, eos_token_ids=())
        )
        encoder = RowEncoder(Template("<{a}|{b}>"), TextEncoder.of(model), limit=limit)
        [ids] = encoder.encode([{"a": a, "b": b}])
        full = len(tokenizer.encode(f"<{a}|{b}>"))
        # What is left free: a character of each of two fields.
        assert min(full, limit) - 2 <= len(ids) <= limit


def test_a_long_text_is_not_encoded_whole_at_every_trial():
    lengths = []

    class Spy(CharacterTokenizer):
        def encode(self, text, add_special_tokens=True):
            lengths.append(len(text))
            return super().encode(text, add_special_tokens)

    model = SimpleNamespace(
        tokenizer=Spy(), config=SimpleNamespace(adds_eos=False, eos_token_ids=())
    )
    encoder = RowEncoder(Template("{a}:"), TextEncoder.of(model), limit=100)
    encoder.encode([{"a": "x" * 100_000}])
    assert sum(length > 1000 for length in lengths) <= 2


def test_what_stands_before_is_not_shortened():
    encoder = RowEncoder(Template("{a}:"), CHARACTERS, before="shown: +\n\n", limit=14)
    assert _text(encoder.encode([{"a": "x" * 50}])[0]) == "shown: +\n\nxxx:"


def test_errors_name_the_row():
    encoder = RowEncoder(Template("{a}:"), CHARACTERS, limit=5, truncation="error")
    with pytest.raises(ValueError, match=r"X\[1\] has 7 tokens with the template, at most 5 fit"):
        encoder.encode([{"a": "abc"}, {"a": "abcdef"}])
    encoder = RowEncoder(Template("a long template {a}"), CHARACTERS, limit=5)
    message = r"rows\[9\]: the text around the fields alone has 16 tokens, at most 5 fit"
    with pytest.raises(ValueError, match=message):
        encoder.encode([{"a": "abc"}], name="rows", numbers=[9])


def test_nothing_shortened_warns_of_nothing():
    encoder = RowEncoder(Template("{a}"), CHARACTERS, limit=5)
    encoder.encode([{"a": "abc"}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.warn()


def test_special_tokens_are_the_models_without_an_end():
    encoder = TextEncoder.of(FakeModel(adds_bos=True, adds_eos=True))
    [ids] = encoder.texts(["ab"])
    assert len(ids) == 3
    assert EOS not in ids
    assert len(encoder.answer("ab")) == 2


def test_a_model_without_a_tokenizer_is_named():
    model = FakeModel()
    model.tokenizer = None
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        TextEncoder.of(model)


def test_targets():
    assert shorten_answer([1, 2, 3], 3, truncation="field", where="y[0]") == ([1, 2, 3], False)
    assert shorten_answer([1, 2, 3], 2, truncation="field", where="y[0]") == ([1, 2], True)
    with pytest.raises(ValueError, match=r"y\[0\] has 3 tokens, at most 2 fit"):
        shorten_answer([1, 2, 3], 2, truncation="error", where="y[0]")


def test_an_answer_is_what_the_model_writes():
    class Translating(CharacterTokenizer):
        def encode_target(self, text, add_special_tokens=True):
            return [7, *self.encode(text, add_special_tokens)]

    encoder = TextEncoder(Translating(adds_bos=True), adds_eos=False, eos_token_ids=())
    assert encoder.answer("a") == [7, *CharacterTokenizer().encode("a")]
    assert TextEncoder(CharacterTokenizer(), adds_eos=False, eos_token_ids=()).answer("a") == (
        CharacterTokenizer().encode("a")
    )
