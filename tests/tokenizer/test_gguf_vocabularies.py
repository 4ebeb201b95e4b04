"""Vocabularies of GGUF files: ids of llama.cpp and of the models' own tokenizer.json."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer.vocabularies import bpe_metadata, raw_bpe_metadata, spm_encode
from tokenizers import pre_tokenizers

from softprompt.formats import open_gguf
from softprompt.tokenizer import added_specials, gguf_tokenizer
from softprompt.tokenizer.pretokenizers import PRE_TOKENIZERS, build_pre_tokenizer

TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t09½²abcI'’.漢ä")),
    max_size=40,
)


def expected_ids(file):
    """llama.cpp's own test texts and their ids."""
    texts = file.with_name(file.name + ".inp").read_bytes().decode("utf-8")
    ids = file.with_name(file.name + ".out").read_text().split("\n")
    pairs = zip(texts.split("\n__ggml_vocab_test__\n"), ids, strict=True)
    return [(text, [int(i) for i in line.split()]) for text, line in pairs]


@pytest.mark.parametrize("name", ["gpt2/ggml-vocab-gpt-2", "llama-spm/ggml-vocab-llama-spm"])
def test_ids_of_llama_cpp(shared_dir, name):
    file = shared_dir / "models" / "tokenizers" / f"{name}.gguf"
    tokenizer = gguf_tokenizer(open_gguf(file).metadata, str(file))
    cases = expected_ids(file)
    assert len(cases) > 40
    for text, ids in cases:
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2_path):
    return gguf_tokenizer(open_gguf(smollm2_path).metadata, str(smollm2_path))


@pytest.fixture(scope="module")
def smollm2_original(smollm2_tokenizer):
    """The pipeline of the model's own tokenizer.json."""
    original = tokenizers.Tokenizer.from_str(smollm2_tokenizer.backend.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    original.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    return original


def test_smollm2(smollm2_tokenizer):
    tokenizer = smollm2_tokenizer
    ids = tokenizer.encode("Hello 1234  world<|im_end|>\n")
    # Of the model's own tokenizer.json in the tokenizers library.
    assert ids == [19556, 216, 33, 34, 35, 36, 216, 905, 2, 198]
    assert added_specials(tokenizer) == (False, False)
    assert tokenizer.decode(ids) == "Hello 1234  world\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "Hello 1234  world<|im_end|>\n"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert (tokenizer.vocab_size, tokenizer.id_to_token(905)) == (49152, "Ġworld")
    # A cut that ignores digits gives " ½" as one piece, 3351.
    assert tokenizer.encode("ied 4 ½ months") == [885, 216, 36, 216, 16738, 2704]


@given(text=TEXTS)
@settings(max_examples=200)
def test_smollm2_as_tokenizer_json(smollm2_tokenizer, smollm2_original, text):
    assert smollm2_tokenizer.encode(text) == smollm2_original.encode(text).ids


@given(text=TEXTS.filter(lambda text: "<" not in text))
@settings(max_examples=100)
def test_merging_by_score(spm, text):
    tokenizer, tokens, scores = spm
    got = tokenizer.encode(text, add_special_tokens=False)
    assert got == spm_encode(text, tokens, scores)


@pytest.fixture(scope="module")
def spm(shared_dir):
    file = shared_dir / "models" / "tokenizers" / "llama-spm" / "ggml-vocab-llama-spm.gguf"
    metadata = open_gguf(file).metadata
    tokenizer = gguf_tokenizer(metadata, str(file))
    assert added_specials(tokenizer) == (True, False)
    return tokenizer, list(metadata["tokenizer.ggml.tokens"]), metadata["tokenizer.ggml.scores"]


def test_gpt_neox_gives_the_text_back(shared_dir):
    file = shared_dir / "models" / "tokenizers" / "gpt-neox" / "ggml-vocab-gpt-neox.gguf"
    tokenizer = gguf_tokenizer(open_gguf(file).metadata, str(file))
    text = "Hello  world 123\n\tdéjà 漢字 🤗"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_cuts_without_loss(name):
    is_byte_level = PRE_TOKENIZERS[name].is_byte_level
    metadata = bpe_metadata(pre=name) if is_byte_level else raw_bpe_metadata(model="gpt2", pre=name)
    tokenizer = gguf_tokenizer(metadata, "x.gguf")
    text = "  Hello hello 123456,\r\n\n don't I'LL naïve 漢字かな½ 🤗 ...!!\tÀÉ  "
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert added_specials(tokenizer)[0] == PRE_TOKENIZERS[name].adds_bos


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-2", " hello 123", ["Ġhello", "Ġ", "123"]),
        ("gpt-2", "123", ["123"]),
        ("smollm", " hello 123", ["Ġhello", "Ġ", "1", "2", "3"]),
        ("qwen2", "123", ["1", "2", "3"]),
        ("llama-bpe", "1231", ["123", "1"]),
        ("default", "123", ["123"]),
        ("deepseek-coder", " hello", ["Ġhello"]),
        ("deepseek-llm", "123 hello", ["123", "Ġhello"]),
        ("gpt-4o", "hello12312", ["hello", "123", "12"]),
        ("tekken", "hello12", ["hello", "1", "2"]),
        ("bloom", "hello,hello", ["hello", ",", "hello"]),
        ("superbpe", "1123", ["1", "123"]),
        ("tiny_aya", "1123", ["1", "123"]),
        ("afmoe", "1123", ["1", "123"]),
        ("minicpm5", "1231", ["123", "1"]),
        ("spark2_5", "123", ["1", "2", "3"]),
        ("chameleon", " hello", ["Ġhello"]),
        ("exaone-moe", "hello hello", ["hello", "Ġhello"]),
        ("kimi-k2", "1231", ["123", "1"]),
    ],
)
def test_cuts(name, text, pieces):
    tokenizer = gguf_tokenizer(bpe_metadata(pre=name), "x.gguf")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert [tokenizer.id_to_token(i) for i in ids] == pieces


def test_cuts_of_kimi_and_jais():
    def pieces(name, text):
        cut = build_pre_tokenizer(PRE_TOKENIZERS[name]).pre_tokenize_str(text)
        return [text[begin:end] for _, (begin, end) in cut]

    # Han stands alone, also within what is one word to the others.
    assert pieces("kimi-k2", "abc漢字かな") == ["abc", "漢字", "かな"]
    assert pieces("gpt-4o", "abc漢字かな") == ["abc漢字かな"]
    # Spaces before a word come in powers of two.
    assert pieces("jais-2", "a" + " " * 7 + "b") == ["a", " " * 4, " " * 2, " b"]
    assert pieces("llama-bpe", "a" + " " * 7 + "b") == ["a", " " * 6, " b"]


def test_tokens_spelled_as_they_are():
    tokenizer = gguf_tokenizer(raw_bpe_metadata(), "x.gguf")
    hello, space_hello, lines = (
        tokenizer.backend.token_to_id(t) for t in ("hello", "▁hello", "\n\n")
    )
    assert tokenizer.encode("hello hello\n\nhello") == [2, hello, space_hello, lines, hello]
    assert tokenizer.encode("é", add_special_tokens=False) == [3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode("hello é\n\n hello")) == "hello é\n\n hello"


def test_special_and_user_defined_tokens_in_a_text():
    tokenizer = gguf_tokenizer(bpe_metadata(), "x.gguf")
    begin, end, tool = (tokenizer.vocab_size - i for i in (3, 2, 1))
    hello = tokenizer.encode("hello")
    ids = tokenizer.encode("hello<|end|>hello<tool><|begin|>")
    assert ids == [*hello, end, *hello, tool, begin]
    assert tokenizer.decode(ids) == "hellohello<tool>"


def test_what_is_added_is_what_the_metadata_says():
    def ids(**changes):
        return gguf_tokenizer(bpe_metadata(**changes), "x.gguf").encode("hello")

    (hello,) = ids()
    begin, end = 264, 265
    assert ids(add_bos_token=True) == [begin, hello]
    assert ids(add_bos_token=True, add_eos_token=True) == [begin, hello, end]
    assert ids(pre="llama-bpe") == [begin, hello]
    assert ids(pre="llama-bpe", add_bos_token=False) == [hello]
    assert ids(add_eos_token=True) == [hello, end]
    assert ids(add_bos_token=True, add_eos_token=True, eos_token_id=begin) == [begin, hello, begin]


def test_a_piece_that_is_a_token_needs_no_merges():
    assert len(gguf_tokenizer(bpe_metadata(), "x.gguf").encode("hello")) == 1
    few = ["h e", "l l"]
    assert len(gguf_tokenizer(bpe_metadata(merges=few), "x.gguf").encode("hello")) == 3
    llama = bpe_metadata(pre="llama-bpe", add_bos_token=False, merges=few)
    assert len(gguf_tokenizer(llama, "x.gguf").encode("hello")) == 1


def test_no_vocabulary():
    assert gguf_tokenizer({}, "x.gguf") is None
    assert gguf_tokenizer({"tokenizer.ggml.model": "none"}, "x.gguf") is None


TOKENS = bpe_metadata()["tokenizer.ggml.tokens"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "hieroglyphs"}, "tokenizer.ggml.pre is 'hieroglyphs', expected one of .*smollm"),
        ({"pre": 7}, "tokenizer.ggml.pre is 7"),
        ({"model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'"),
        ({"model": ["gpt2"]}, "tokenizer.ggml.model"),
        ({"tokens": None}, "tokenizer.ggml.tokens is NoneType"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens is str"),
        ({"tokens": []}, "tokenizer.ggml.tokens is empty"),
        ({"tokens": np.arange(9)}, "tokenizer.ggml.tokens is ndarray"),
        ({"tokens": [*TOKENS[:-1], "!"]}, "has the token '!' twice"),
        ({"merges": None}, "tokenizer.ggml.merges is NoneType"),
        ({"merges": ["h e", "x"]}, r"merges\[1\] is 'x', expected two tokens"),
        ({"merges": ["q z"]}, r"merges\[0\] is 'q z'"),
        ({"merges": ["€ e"]}, r"merges\[0\] is '€ e'"),
        ({"merges": ["\u0121 \u0121" * 100000]}, r"merges\[0\]"),
        ({"token_type": np.ones(3, np.int32)}, "token_type has 3 values, expected 267"),
        ({"token_type": np.ones(267)}, "expected 267 integers"),
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes', expected true or false"),
        ({"add_bos_token": True, "bos_token_id": 9999}, "bos_token_id is no id"),
        ({"pre": "llama-bpe", "bos_token_id": None}, "bos_token_id is no id"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        gguf_tokenizer(bpe_metadata(**changes), "x.gguf")
    assert str(caught.value).startswith("x.gguf: ")
    assert len(str(caught.value)) < 1500


def spm_metadata(**changes):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "a", "b", "ab"]
    types = np.array([2, 3, 3] + [6] * 256 + [1] * 3, dtype=np.int32)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": np.arange(len(tokens), dtype=np.float32),
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def test_small_vocabulary_of_sentencepiece():
    tokenizer = gguf_tokenizer(spm_metadata(add_space_prefix=False), "x.gguf")
    assert tokenizer.encode("abé") == [1, 261, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode([1, 261, 3 + 0xC3, 3 + 0xA9]) == "abé"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, "scores has 3 values, expected 262"),
        ({"scores": np.zeros(262, np.int32)}, "scores"),
        ({"add_space_prefix": 1}, "add_space_prefix is 1"),
        (
            {"tokens": [*spm_metadata()["tokenizer.ggml.tokens"][:-1], "a" * 5000]},
            r"tokens\[261\] has 5000 characters",
        ),
    ],
)
def test_sentencepiece_that_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        gguf_tokenizer(spm_metadata(**changes), "x.gguf")
