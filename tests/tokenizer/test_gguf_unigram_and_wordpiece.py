"""GGUF vocabularies of the kinds "t5" and "bert"."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.tokenizer import added_specials, gguf_tokenizer
from softprompt.tokenizer.sentencepiece_model import load_sentencepiece

UNIGRAM = "test_unigram_1000"


def ugm_metadata(model, **changes):
    """A GGUF's metadata as llama.cpp's conversion writes them for T5."""
    metadata = {
        "model": "t5",
        "tokens": model.pieces,
        "scores": model.scores.astype(np.float32),
        "token_type": model.types.astype(np.int32),
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "precompiled_charsmap": np.frombuffer(model.normalization.charsmap, np.uint8),
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | changes).items()}


@pytest.fixture(scope="module")
def model(shared_dir):
    return load_sentencepiece(
        shared_dir / "models" / "tokenizers" / "sentencepiece" / f"{UNIGRAM}.model"
    )


@pytest.fixture(scope="module")
def oracle(model):
    sentencepiece = pytest.importorskip("sentencepiece", reason="SentencePiece is the oracle here")
    return sentencepiece.SentencePieceProcessor(model.where)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>"), max_size=40))
@settings(max_examples=200)
def test_unigram(model, oracle, text):
    tokenizer = gguf_tokenizer(ugm_metadata(model), "x.gguf")
    assert tokenizer.encode(text, add_special_tokens=False) == oracle.encode(text)


def test_what_is_added_to_unigram(model):
    def ids(**changes):
        tokenizer = gguf_tokenizer(ugm_metadata(model, **changes), "x.gguf")
        return tokenizer.encode("Hello  Ａ"), tokenizer

    default, tokenizer = ids()
    assert default[-1] == 2
    assert added_specials(tokenizer) == (False, True)
    assert ids(add_eos_token=False)[0] == default[:-1]
    assert ids(add_bos_token=True)[0] == [1, *default]
    # Without the character map the full-width letter is unknown.
    assert 0 not in default
    assert 0 in ids(precompiled_charsmap=np.zeros(0, np.uint8))[0]
    assert ids(add_space_prefix=False)[0] != default
    assert len(ids(remove_extra_whitespaces=False)[0]) > len(default)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, "scores has 3 values, expected 1000"),
        ({"scores": np.full(1000, np.nan, np.float32)}, r"scores\[0\] is not finite"),
        ({"precompiled_charsmap": np.zeros(3, np.float32)}, "precompiled_charsmap holds float32"),
        ({"precompiled_charsmap": np.ones(3, np.uint8)}, "precompiled_charsmap has 3 bytes"),
        ({"remove_extra_whitespaces": 1}, "remove_extra_whitespaces is 1"),
        ({"tokens": ["a"], "scores": np.zeros(1, np.float32), "token_type": np.ones(1, np.int32),
          "unknown_token_id": 7}, "unknown_token_id is no id"),
    ],
)  # fmt: skip
def test_unigram_that_does_not_fit(model, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        gguf_tokenizer(ugm_metadata(model, **changes), "x.gguf")
    assert str(caught.value).startswith("x.gguf: ")


def wpm_metadata(**changes):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["\u2581a", "\u2581soft", "er", "\u2581.", "\u2581naive", "\u2581漢"]
    metadata = {
        "model": "bert",
        "tokens": special + words,
        "token_type": np.array([3] * 5 + [1] * 6, np.int32),
        "unknown_token_id": 1,
        "bos_token_id": 2,
        "seperator_token_id": 3,
        "padding_token_id": 0,
    } | changes
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


def test_wordpiece():
    tokenizer = gguf_tokenizer(wpm_metadata(), "x.gguf")
    assert tokenizer.encode("A softer. naïve x漢") == [2, 5, 6, 7, 8, 9, 1, 10, 3]
    assert tokenizer.encode("a [MASK]", add_special_tokens=False) == [5, 4]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 3)
    assert tokenizer.decode([2, 5, 6, 7, 3]) == "a softer"
    cased = gguf_tokenizer(wpm_metadata(**{"normalizer.lowercase": False}), "x.gguf")
    assert cased.encode("A a naïve", add_special_tokens=False) == [1, 5, 1]
    bare = gguf_tokenizer(wpm_metadata(add_bos_token=False, add_sep_token=False), "x.gguf")
    assert bare.encode("a") == [5]
    # BERT's own limit of 100 characters is none of llama.cpp's.
    assert len(tokenizer.encode("soft" + "er" * 500)) == 503


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ["a", "\u2581##a"], "token_type": None}, "token_type has 1 values"),
        ({"tokens": ["a", "\u2581##a"], "token_type": np.ones(2, np.int32)}, "token '##a' twice"),
        ({"unknown_token_id": 99, "tokens": ["a"], "token_type": np.ones(1, np.int32)},
         "unknown_token_id is no id"),
        ({"seperator_token_id": 99}, "texts get a sep token"),
    ],
)  # fmt: skip
def test_wordpiece_that_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        gguf_tokenizer(wpm_metadata(**changes), "x.gguf")
