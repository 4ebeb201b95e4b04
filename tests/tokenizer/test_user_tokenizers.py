"""Tokenizers that the user brings."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from tokenizer.vocabularies import bpe_metadata

import softprompt
from softprompt.tokenizer import added_specials, gguf_tokenizer, wrap_tokenizer


class Plain:
    def encode(self, text):
        return [ord(c) - 97 for c in text]

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)


class Full(Plain):
    bos_token_id = np.int64(25)
    eos_token_id = None
    vocab_size = 26

    def encode(self, text, add_special_tokens=True):
        return np.array([25] * add_special_tokens + super().encode(text))

    def decode(self, ids, **options):
        return super().decode(ids) + str(options)


class Batch(Plain):
    def encode(self, text):
        return {"input_ids": super().encode(text), "attention_mask": []}

    def convert_ids_to_tokens(self, token_id):
        return f"token {token_id}"


def test_two_methods_are_enough():
    tokenizer = wrap_tokenizer(Plain())
    assert tokenizer.encode("abc", add_special_tokens=False) == [0, 1, 2]
    assert tokenizer.encode_batch(["a", ""]) == [[0], []]
    assert tokenizer.decode(np.array([0, 1])) == "ab"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.vocab_size) == (None,) * 3
    assert tokenizer.id_to_token(2) == "c"
    assert added_specials(tokenizer) == (False, False)


def test_options_are_passed_on_where_they_are_taken():
    tokenizer = wrap_tokenizer(Full())
    assert tokenizer.encode("a") == [25, 0]
    assert all(type(i) is int for i in tokenizer.encode("a"))
    assert tokenizer.encode("a", add_special_tokens=False) == [0]
    assert tokenizer.decode([0]) == "a{'skip_special_tokens': True}"
    assert (tokenizer.bos_token_id, tokenizer.vocab_size) == (25, 26)
    assert added_specials(tokenizer) == (True, False)


def test_mappings_and_names():
    tokenizer = wrap_tokenizer(Batch())
    assert tokenizer.encode("ab") == [0, 1]
    assert tokenizer.id_to_token(4) == "token 4"


def test_the_tokenizers_library():
    backend = gguf_tokenizer(bpe_metadata(add_bos_token=True), "x").backend
    tokenizer = wrap_tokenizer(backend)
    hello = tokenizer.encode("hello", add_special_tokens=False)
    assert tokenizer.encode("hello") == [264, *hello]
    assert tokenizer.decode([264, *hello]) == "hello"
    assert tokenizer.vocab_size == 267
    assert tokenizer.id_to_token(264) == "<|begin|>"


@pytest.mark.parametrize("value", [3, "name", object(), {"encode": 1}, str])
def test_what_is_no_tokenizer(value, tmp_path):
    if value in ("name", str):  # they have an encode, but no decode
        assert hasattr(value, "encode")
    with pytest.raises(TypeError, match="expected an object with encode"):
        wrap_tokenizer(value)
    folder = tiny.write_tiny(tmp_path, "llama")
    with pytest.raises(TypeError, match="expected an object with encode"):
        softprompt.load_model(folder, tokenizer=value)


@pytest.mark.parametrize("result", [None, "text", ["a"], [1.5], 3, {"ids": [1]}])
def test_encode_that_returns_no_ids(result):
    class Odd(Plain):
        def encode(self, text):
            return result

    with pytest.raises(TypeError, match=r"encode\(\) of the tokenizer \(Odd\) returned"):
        wrap_tokenizer(Odd()).encode("a")


def test_decode_that_returns_no_text():
    class Odd(Plain):
        def decode(self, ids):
            return b"a"

    with pytest.raises(TypeError, match=r"decode\(\) of the tokenizer \(Odd\) returned bytes"):
        wrap_tokenizer(Odd()).decode([1])


def test_a_given_tokenizer_replaces_one_that_is_not_known(tmp_path):
    from loading.gguf_files import write_gguf

    folder = tiny.write_tiny(tmp_path / "folder", "llama")
    unknown = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "hieroglyphs"}
    unknown["tokenizer.ggml.tokens"] = [f"t{i}" for i in range(97)]
    file = write_gguf(folder, tmp_path / "model.gguf", metadata=unknown)
    with pytest.raises(ValueError, match="hieroglyphs"):
        softprompt.load_model(file)
    model = softprompt.load_model(file, tokenizer=Full())
    assert model.config.adds_bos
    assert len(model.logits(["abc"])[0]) == 4
