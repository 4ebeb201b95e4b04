"""Tokenizers of Hugging Face folders without tokenizer.json, against transformers' own classes.

Where transformers 5 departs from SentencePiece, on which the models were trained, SentencePiece
counts (`tests/tokenizer/test_sentencepiece.py`); the texts here are those on which both agree:
no combining marks, no spaces at the ends or several in a row, and nothing that looks like a token.
"""

from __future__ import annotations

import json
import unicodedata

import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")
pytest.importorskip("sentencepiece", reason="transformers reads these files through SentencePiece")

import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer import sentencepiece_files

from softprompt.tokenizer import load_folder_tokenizer

WORDS = sentencepiece_files.TEXT.split()
CHARACTERS = st.sampled_from("abcxyzABC019 .,;!'-ßäöéñłжи漢字かなカ한글🤗👩½ﬁＡ①…€")
TEXTS = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join),
    st.text(CHARACTERS, min_size=1, max_size=30).map(lambda text: " ".join(text.split()) or "a"),
)


def write(folder, config=None, **files):
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ours(folder, family, vocab_size=2000):
    return load_folder_tokenizer(folder, vocab_size=vocab_size, family=family)


def check(text, mine, theirs, *, decodes=True):
    ids = mine.encode(text)
    assert ids == theirs(text)["input_ids"]
    assert mine.encode(text, add_special_tokens=False) == theirs.encode(
        text, add_special_tokens=False
    )
    assert mine.encode_target(text) == theirs(text_target=text)["input_ids"]
    if decodes:
        decoded = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert mine.decode(ids).strip() == decoded.strip()


@pytest.fixture(scope="module")
def unigram():
    return sentencepiece_files.train("unigram")


def pair(tmp_path_factory, name, family, config, **files):
    folder = write(tmp_path_factory.mktemp(family), config, **files)
    theirs = getattr(transformers, name).from_pretrained(folder)
    return ours(folder, family), theirs


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    model = sentencepiece_files.train("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return pair(tmp_path_factory, "T5Tokenizer", "t5", None, spiece__model=model)


@given(text=TEXTS)
@settings(max_examples=100)
def test_t5(t5, text):
    check(text, *t5)


def test_sentinels_of_t5(t5):
    mine, theirs = t5
    for text in ("a <extra_id_0> b", "<extra_id_99>", "x<extra_id_5>y</s>", "", "<pad>a"):
        check(text, mine, theirs)
    assert mine.vocab_size == len(theirs)


@pytest.fixture(scope="module")
def llama_model():
    return sentencepiece_files.train(
        "bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory, llama_model):
    config = {"add_bos_token": True, "tokenizer_class": "LlamaTokenizer", "pad_token": "<pad>"}
    return pair(tmp_path_factory, "LlamaTokenizer", "llama", config, tokenizer__model=llama_model)


@given(text=TEXTS)
@settings(max_examples=100)
def test_llama(llama, text):
    check(text, *llama)


def test_special_tokens_of_llama(llama):
    mine, theirs = llama
    for text in ("a</s>b", "<s>", "a <pad> b", "</s>", "", "x<unk>"):
        check(text, mine, theirs)
    assert (mine.bos_token_id, mine.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.parametrize(
    "config",
    [
        {"add_eos_token": True},
        {"legacy": True, "add_bos_token": True},
        {"add_prefix_space": False},
        {"added_tokens_decoder": {"600": {"content": "<tool>", "special": False}}},
        {"extra_special_tokens": ["<new>"]},
    ],
)
def test_options_of_llama(tmp_path, llama_model, config):
    folder = write(tmp_path, config, tokenizer__model=llama_model)
    theirs = transformers.LlamaTokenizer.from_pretrained(folder)
    for text in ("Hello world", "a</s>b", "the prompt</s>the model", "<tool> <new> a", "naïve"):
        check(text, ours(folder, "llama"), theirs, decodes=False)


@pytest.fixture(scope="module", params=["MBartTokenizer", "MBart50Tokenizer"])
def mbart(request, tmp_path_factory, unigram):
    config = {"src_lang": "de_DE", "tgt_lang": "fr_XX", "tokenizer_class": request.param}
    return pair(tmp_path_factory, request.param, "mbart", config, sentencepiece__bpe__model=unigram)


# MBartTokenizer 5.23 drops the model's character map, which MBart50Tokenizer keeps.
@given(text=TEXTS.filter(lambda text: unicodedata.is_normalized("NFKC", text)))
@settings(max_examples=50)
def test_mbart(mbart, text):
    check(text, *mbart)


def test_languages_of_mbart(mbart):
    mine, theirs = mbart
    for code, token_id in mine.languages.items():
        assert token_id == theirs.convert_tokens_to_ids(code)
    assert mine.token_to_id("<mask>") == theirs.mask_token_id
    mine.src_lang = theirs.src_lang = "ja_XX"
    check("Hello world", mine, theirs)
    mine.src_lang = theirs.src_lang = "de_DE"


@pytest.mark.parametrize("legacy", [False, True])
def test_nllb(tmp_path, legacy):
    model = sentencepiece_files.train("bpe")
    config = {"tokenizer_class": "NllbTokenizer", "src_lang": "deu_Latn", "tgt_lang": "fra_Latn"}
    folder = write(tmp_path, config | {"legacy_behaviour": legacy}, sentencepiece__bpe__model=model)
    mine = ours(folder, "m2m_100")
    theirs = transformers.NllbTokenizer.from_pretrained(folder)
    # transformers 5.23 gives the codes of such a folder no ids; with tokenizer.json it has them.
    backend = theirs.backend_tokenizer
    backend.add_special_tokens([*mine.languages, "<mask>"])
    write(folder, tokenizer__json=backend.to_str())
    theirs = transformers.NllbTokenizer.from_pretrained(folder)
    with_json = ours(folder, "m2m_100")
    for text in ("Hello world", "the prompt", "naïve"):
        pieces = theirs.encode(text, add_special_tokens=False)
        assert mine.encode(text, add_special_tokens=False) == pieces
        assert with_json.encode(text, add_special_tokens=False) == pieces
        code = mine.languages["deu_Latn"]
        assert mine.encode(text) == ([*pieces, 2, code] if legacy else [code, *pieces, 2])
        code = mine.languages["fra_Latn"]
        assert mine.encode_target(text) == ([*pieces, 2, code] if legacy else [code, *pieces, 2])


@pytest.fixture(scope="module")
def m2m100(tmp_path_factory, unigram):
    processor = sentencepiece_files.sentencepiece.SentencePieceProcessor(model_proto=unigram)
    pieces = [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}
    vocabulary |= {piece: i + 4 for i, piece in enumerate(reversed(pieces))}
    del vocabulary["x"]
    config = {"src_lang": "de", "tgt_lang": "fr", "tokenizer_class": "M2M100Tokenizer"}
    return pair(
        tmp_path_factory,
        "M2M100Tokenizer",
        "m2m_100",
        config,
        sentencepiece__bpe__model=unigram,
        vocab__json=json.dumps(vocabulary),
    )


@given(text=TEXTS)
@settings(max_examples=50)
def test_m2m100(m2m100, text):
    check(text, *m2m100, decodes=False)


def test_languages_of_m2m100(m2m100):
    mine, theirs = m2m100
    assert mine.languages == theirs.lang_code_to_id
    assert mine.decode(mine.encode("a soft prompt")) == "a soft prompt"


@pytest.fixture(scope="module")
def marian(tmp_path_factory, unigram):
    target = sentencepiece_files.train("bpe")
    vocabulary = {"</s>": 0, "<unk>": 1}
    for model in (unigram, target):
        processor = sentencepiece_files.sentencepiece.SentencePieceProcessor(model_proto=model)
        for i in range(3, processor.get_piece_size(), 2):  # half of them, so that some are unknown
            vocabulary.setdefault(processor.id_to_piece(i), len(vocabulary))
    for token in (">>fra<<", "<pad>"):
        vocabulary[token] = len(vocabulary)
    return pair(
        tmp_path_factory,
        "MarianTokenizer",
        "marian",
        {"source_lang": "en", "target_lang": "de"},
        source__spm=unigram,
        target__spm=target,
        vocab__json=json.dumps(vocabulary),
    )


@given(text=TEXTS)
@settings(max_examples=50)
def test_marian(marian, text):
    mine, theirs = marian
    theirs.punc_normalizer = lambda text: text  # with sacremoses installed it is Moses'
    check(text, mine, theirs)


def test_target_language_of_marian(marian):
    mine, theirs = marian
    check(">>fra<< a soft prompt", mine, theirs, decodes=False)
    check(">>fra<<a soft prompt", mine, theirs, decodes=False)


BYTES = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
BYTES += [chr(256 + i) for i in range(256 - len(BYTES))]


@pytest.fixture(
    scope="module", params=["GPT2Tokenizer", "BartTokenizer", "RobertaTokenizer", "Qwen2Tokenizer"]
)
def byte_level(request, tmp_path_factory):
    merges = ["t h", "th e", "Ġ the", "Ġ t", "i n", "Ġ a", "1 2", "s o", "so f", "sof t"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *BYTES, *(m.replace(" ", "") for m in merges)]
    tokens += ["<mask>", "<|endoftext|>"]
    return pair(
        tmp_path_factory,
        request.param,
        request.param.removesuffix("Tokenizer").lower(),
        {},
        vocab__json=json.dumps({token: i for i, token in enumerate(tokens)}),
        merges__txt="#version: 0.2\n" + "\n".join(merges) + "\n",
    )


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | TEXTS)
@settings(max_examples=50)
def test_byte_level(byte_level, text):
    check(text, *byte_level)


def test_special_tokens_of_byte_level(byte_level):
    mine, theirs = byte_level
    for text in ("a <mask> b", "a</s>b", "the<|endoftext|>the", ""):
        check(text, mine, theirs, decodes=False)
    assert mine.eos_token_id == theirs.eos_token_id
    assert mine.bos_token_id == theirs.bos_token_id


@pytest.fixture(scope="module", params=[{}, {"do_lower_case": False}])
def bert(request, tmp_path_factory):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens += ["the", "##the", "soft", "prompt", "naive", "##.", ".", ",", "漢", "字", "ä"]
    return pair(
        tmp_path_factory,
        "BertTokenizer",
        "bert",
        request.param,
        vocab__txt="\n".join(tokens) + "\n",
    )


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | TEXTS)
@settings(max_examples=50)
def test_bert(bert, text):
    check(text, *bert)
