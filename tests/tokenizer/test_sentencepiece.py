"""SentencePiece models: ids and texts as SentencePiece itself gives them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sentencepiece", reason="SentencePiece is the oracle here")

import sentencepiece
from tokenizer.sentencepiece_files import TEXT, train

from softprompt.tokenizer.sentencepiece import SentencePieceTokenizer
from softprompt.tokenizer.sentencepiece_model import (
    CONTROL,
    UNKNOWN,
    load_sentencepiece,
    parse_sentencepiece,
)

# Alphabets that the normaliser's rules are about: what is composed, decomposed, mapped or dropped.
CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.characters(min_codepoint=32, max_codepoint=126),
    st.characters(min_codepoint=0x300, max_codepoint=0x36F),
    st.characters(min_codepoint=0x1100, max_codepoint=0x11FF),
    st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),
    st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
    st.characters(min_codepoint=0x1F300, max_codepoint=0x1F9FF),
    st.sampled_from(" \t\n\r\x00\x01\x7f\xa0\xad\u3000\u200b\u200d\ufeff\u2581\ufe0fﬁＡ①½…ﷺ㍿カﾞ"),
)
PIECES = st.one_of(
    CHARACTERS,
    st.sampled_from(
        [*TEXT.split(), "   ", "<sep>", "ab", "<0x41>", "e\u0301x", "👩\u200d👩\u200d👧"]
    ),
)
TEXTS = st.lists(PIECES, max_size=25).map("".join)

MODELS = {
    "unigram": ("unigram", {}),
    "unigram, bytes": ("unigram", {"byte_fallback": True, "vocab_size": 500}),
    "unigram, untouched": (
        "unigram",
        {
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "byte_fallback": True,
            "vocab_size": 500,
        },
    ),
    "unigram, space behind": ("unigram", {"treat_whitespace_as_suffix": True}),
    "unigram, symbols": ("unigram", {"user_defined_symbols": ["<sep>", "ab", "e\u0301x", "   "]}),
    "unigram, lower case": (
        "unigram",
        {"normalization_rule_name": "nfkc_cf", "split_by_whitespace": False},
    ),
    "bpe": ("bpe", {}),
    "bpe, bytes": ("bpe", {"byte_fallback": True, "vocab_size": 600}),
    "bpe, untouched": (
        "bpe",
        {
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "byte_fallback": True,
            "vocab_size": 600,
        },
    ),
    "bpe, symbols": ("bpe", {"user_defined_symbols": ["<sep>", "ab", "e\u0301x", "▁▁", "\n"]}),
    "bpe, spaces kept": (
        "bpe",
        {"remove_extra_whitespaces": False, "split_by_whitespace": False},
    ),
}
REAL = ("albert_unigram_30000", "test_unigram_1000", "test_bpe_1000")


class Pair:
    """A tokenizer here and SentencePiece's processor of the same bytes."""

    def __init__(self, data):
        self.model = parse_sentencepiece(data, "x.model")
        self.tokenizer = SentencePieceTokenizer(self.model)
        self.oracle = sentencepiece.SentencePieceProcessor(model_proto=data)
        kinds = zip(self.model.pieces, self.model.types, strict=True)
        self.special = [piece for piece, kind in kinds if kind in (CONTROL, UNKNOWN)]

    def check(self, text):
        if any(token in text for token in self.special):
            return  # here they are tokens, in SentencePiece they are text
        ids, expected = self.tokenizer.encode(text), self.oracle.encode(text)
        if ids != expected:
            # Two cuts of one score, to float32's rounding: the library adds up in float64.
            assert self.model.model_type == 1, text
            assert self.score(ids) == pytest.approx(self.score(expected), abs=1e-5), text
            return
        if self.model.unk_id not in ids:
            assert self.tokenizer.decode(ids) == self.oracle.decode(expected)

    def score(self, ids):
        assert "".join(map(self.oracle.id_to_piece, ids))
        return sum(map(self.oracle.get_score, ids))


@pytest.fixture(scope="module", params=sorted(MODELS))
def pair(request):
    model_type, options = MODELS[request.param]
    return Pair(train(model_type, **options))


@given(text=TEXTS)
@settings(max_examples=200)
def test_trained_models(pair, text):
    pair.check(text)


@pytest.fixture(scope="module", params=REAL)
def real(request, shared_dir):
    folder = shared_dir / "models" / "tokenizers" / "sentencepiece"
    return Pair((folder / f"{request.param}.model").read_bytes())


@given(text=TEXTS)
@settings(max_examples=200)
def test_real_models(real, text):
    real.check(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n \t",
        "\u2581",
        "a" * 5000,
        "ab " * 2000,
        "e\u0301" * 300,
        "\u0301" * 300,
        "漢" * 2000,
        "👩\u200d👩\u200d👧" * 50,
        "".join(map(chr, range(0x300))),
        "".join(map(chr, range(0x3000, 0x3400))),
        "".join(map(chr, range(0xF900, 0xFB20))),
        "".join(map(chr, range(0xFE00, 0x10000))),
    ],
)
def test_long_words_and_whole_blocks(pair, text):
    pair.check(text)


def test_special_tokens_in_a_text():
    tokenizer = SentencePieceTokenizer(parse_sentencepiece(train("bpe"), "x.model"))
    hello, world = tokenizer.encode("hello"), tokenizer.encode("world")
    assert tokenizer.encode("hello</s>world") == [*hello, 2, *world]
    assert tokenizer.encode("hello </s> world") == [*hello, 2, *world]
    assert tokenizer.encode("<s>hello") == [1, *hello]
    assert tokenizer.decode([1, *hello, 2]) == "hello"
    assert tokenizer.decode([1, *hello], skip_special_tokens=False) == "<s> hello"


def test_prefix_behind_a_special_token():
    model = parse_sentencepiece(train("bpe"), "x.model")
    tokenizer = SentencePieceTokenizer(model, prefix_after_special=False)
    with_prefix, without = (tokenizer.encode(text) for text in ("the", "</s>the"))
    assert [tokenizer.id_to_token(i) for i in with_prefix] == ["▁the"]
    assert "".join(map(tokenizer.id_to_token, without)) == "</s>the"


def test_ids_and_tokens(shared_dir):
    folder = shared_dir / "models" / "tokenizers" / "sentencepiece"
    model = load_sentencepiece(folder / "albert_unigram_30000.model")
    tokenizer = SentencePieceTokenizer(model)
    assert tokenizer.vocab_size == 30000
    assert (tokenizer.id_to_token(2), tokenizer.id_to_token(30000)) == ("[CLS]", None)
    assert (tokenizer.token_to_id("[SEP]"), tokenizer.token_to_id("no such")) == (3, None)
    assert tokenizer.decode([10**9, -1]) == ""
