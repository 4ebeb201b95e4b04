"""What families put around and beside the pieces, where no other program is at hand to compare.

tests/parity compares the same with transformers.
"""

from __future__ import annotations

import json

import pytest

pytest.importorskip("sentencepiece", reason="SentencePiece trains the models")

import sentencepiece
from tokenizer.sentencepiece_files import train
from tokenizer.vocabularies import byte_characters

from softprompt.tokenizer import added_specials, load_folder_tokenizer


def load(folder, family, vocab_size=1000):
    return load_folder_tokenizer(folder, vocab_size=vocab_size, family=family)


@pytest.fixture(scope="module")
def unigram():
    return train("unigram")


@pytest.fixture(scope="module")
def bpe():
    return train("bpe")


@pytest.fixture
def t5(tmp_path):
    model = train("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (tmp_path / "spiece.model").write_bytes(model)
    return tmp_path


@pytest.mark.parametrize("family", ["t5", "mt5", "umt5"])
def test_t5(t5, family):
    tokenizer = load(t5, family)
    ids = tokenizer.encode("a soft prompt")
    assert ids[-1] == tokenizer.eos_token_id == 1
    assert tokenizer.encode("") == [1]
    assert added_specials(tokenizer) == (False, True)
    assert tokenizer.decode(ids) == "a soft prompt"
    last = tokenizer.vocab_size - 1
    assert tokenizer.encode("<extra_id_0>") == [last, 1]
    assert tokenizer.encode("<extra_id_99>") == [last - 99, 1]
    assert tokenizer.decode([last]) == ""


def test_sentinels_have_embeddings(t5):
    (t5 / "tokenizer_config.json").write_text('{"extra_ids": 10}')
    tokenizer = load(t5, "t5")
    pieces = tokenizer.vocab_size - 10
    assert tokenizer.id_to_token(pieces) == "<extra_id_9>"
    few = load(t5, "t5", pieces + 3)
    assert [few.id_to_token(pieces + i) for i in range(4)] == [
        "<extra_id_9>", "<extra_id_8>", "<extra_id_7>", None,
    ]  # fmt: skip
    (t5 / "tokenizer_config.json").write_text('{"extra_ids": 1000000000}')
    with pytest.raises(ValueError, match="extra_ids is 1000000000, expected 0 to"):
        load(t5, "t5")


@pytest.mark.parametrize(
    ("kind", "source", "prefix"),
    [("MBart", "en_XX", False), ("MBart50", "en_XX", True), ("Nllb", "eng_Latn", True)],
)
def test_language_codes(tmp_path, unigram, kind, source, prefix):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(unigram)
    config = {"tokenizer_class": f"{kind}TokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load(tmp_path, "m2m_100")
    assert tokenizer.src_lang == tokenizer.tgt_lang == source
    code = tokenizer.languages[source]
    pieces = tokenizer.encode("a soft prompt", add_special_tokens=False)
    expected = [code, *pieces, 2] if prefix else [*pieces, 2, code]
    assert tokenizer.encode("a soft prompt") == expected
    assert tokenizer.encode_batch(["", "a soft prompt"])[1] == expected
    other = sorted(tokenizer.languages)[-1]
    tokenizer.tgt_lang = other
    assert tokenizer.languages[other] in tokenizer.encode_target("a soft prompt")
    assert code not in tokenizer.encode_target("a soft prompt")
    assert tokenizer.decode(expected) == "a soft prompt"
    with pytest.raises(ValueError, match=f"src_lang is 'klingon', expected one of .*{source}"):
        tokenizer.src_lang = "klingon"


def test_ids_of_nllb(tmp_path, bpe):
    """Beside its 256,000 pieces NLLB-200 has eng_Latn at 256047 and <mask> at 256203."""
    (tmp_path / "sentencepiece.bpe.model").write_bytes(bpe)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "NllbTokenizer"}')
    tokenizer = load(tmp_path, "m2m_100")
    mask = tokenizer.token_to_id("<mask>")
    assert tokenizer.languages["eng_Latn"] == mask - 256203 + 256047
    assert tokenizer.languages["fra_Latn"] == mask - 256203 + 256057
    assert mask == tokenizer.vocab_size - 1
    assert [tokenizer.id_to_token(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]


def test_a_code_without_an_embedding(tmp_path, unigram):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(unigram)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "MBartTokenizer"}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: .*src_lang \('en_XX'\)"):
        load(tmp_path, "mbart", vocab_size=100)


@pytest.fixture
def marian(tmp_path, unigram):
    (tmp_path / "source.spm").write_bytes(unigram)
    (tmp_path / "target.spm").write_bytes(train("bpe", vocab_size=500))
    tokens = ["</s>", "<unk>", "▁a", "▁soft", "▁the", "▁m", "o", "d", "e", "l", ">>fra<<", "<pad>"]
    tokens += ["▁model", *"abcfnrstwzp"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    return tmp_path


def test_marian(marian):
    tokenizer = load(marian, "marian")
    assert tokenizer.encode("the Ж")[0] == 4
    assert tokenizer.encode("a")[-1] == tokenizer.eos_token_id == 0
    assert tokenizer.encode(">>fra<< a")[0] == 10
    # Both sides cut with their own model.
    ids = json.loads((marian / "vocab.json").read_text())
    text = "the frozen model reads words"
    sides = {}
    for name, encode in (("source", tokenizer.encode), ("target", tokenizer.encode_target)):
        processor = sentencepiece.SentencePieceProcessor(str(marian / f"{name}.spm"))
        sides[name] = [*(ids.get(p, 1) for p in processor.encode(text, out_type=str)), 0]
        assert encode(text) == sides[name]
    assert sides["source"] != sides["target"]
    assert tokenizer.decode([4, 12, 0]) == "the model"
    assert tokenizer.vocab_size == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON object of ids by token"),
        ("{}", "expected a JSON object of ids by token"),
        ('{"a": -1}', "the token 'a' has the id -1"),
        ('{"a": true}', "the token 'a' has the id True"),
        ('{"a": 1e3}', "the token 'a' has the id 1000.0"),
        ('{"a": 1, "b": 1}', "several tokens have one id"),
        ('{"a": 1}', "there is no '</s>'"),
        ('{"</s>": 1}', "the vocabulary has no '<unk>'"),
        ("{", "vocab.json"),
    ],
)
def test_damaged_vocabulary_of_marian(marian, text, message):
    (marian / "vocab.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(marian, "marian")
    assert str(marian) in str(caught.value)


def test_a_missing_target(marian):
    (marian / "target.spm").unlink()
    with pytest.raises(OSError, match=r"target\.spm"):
        load(marian, "marian")


def test_added_tokens_of_a_sentencepiece_folder(tmp_path, bpe):
    (tmp_path / "tokenizer.model").write_bytes(bpe)
    pieces = load(tmp_path, "llama").vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<tool>": pieces + 1}))
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    tokenizer = load(tmp_path, "llama")
    assert tokenizer.encode("<tool><pad>") == [pieces + 1, pieces + 2]
    assert tokenizer.id_to_token(pieces) is None
    assert load(tmp_path, "llama", pieces).vocab_size == pieces
    (tmp_path / "added_tokens.json").write_text('{"<tool>": "x"}')
    with pytest.raises(ValueError, match=r"added_tokens\.json: expected ids by token"):
        load(tmp_path, "llama")


def test_begin_and_end_of_a_sentencepiece_folder(tmp_path, bpe):
    (tmp_path / "tokenizer.model").write_bytes(bpe)
    pieces = load(tmp_path, "llama").encode("a soft prompt")
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    assert load(tmp_path, "llama").encode("a soft prompt") == [1, *pieces]
    (tmp_path / "tokenizer_config.json").write_text('{"add_eos_token": true, "eos_token": "<s>"}')
    assert load(tmp_path, "llama").encode("a soft prompt") == [*pieces, 1]
    (tmp_path / "tokenizer_config.json").write_text('{"add_eos_token": "yes"}')
    with pytest.raises(ValueError, match="add_eos_token is 'yes', expected true or false"):
        load(tmp_path, "llama")


def test_bert(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "soft", "##er", "prompt", "naive"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n")
    tokenizer = load(tmp_path, "bert")
    assert tokenizer.encode("A softer [MASK] naïve xyz") == [2, 5, 6, 7, 4, 9, 1, 3]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 3)
    assert tokenizer.decode([2, 5, 6, 7, 3]) == "a softer"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load(tmp_path, "bert").encode("A naive") == [2, 1, 9, 3]
    with pytest.warns(UserWarning, match=r"vocab\.txt is not read"):
        assert load(tmp_path, "gpt2") is None
    for damaged, message in (
        (b"a\na\n", "'a' is on two lines"),
        (b"", "there is none"),
        (b"[CLS]\n[SEP]\na\n", r"vocab\.txt: the token '\[UNK\]' for unknown words is not in it"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            load(tmp_path, "bert")
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"vocab\.txt: not UTF-8 text at byte 0"):
        load(tmp_path, "bert")


@pytest.mark.parametrize("kind", ["Pegasus", "XLMRoberta", "XGLM"])
def test_layouts_that_are_not_computed(tmp_path, unigram, kind):
    (tmp_path / "spiece.model").write_bytes(unigram)
    (tmp_path / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{kind}Tokenizer"}}')
    with pytest.warns(UserWarning, match=rf"spiece\.model is not read .* '{kind.lower()}'"):
        assert load(tmp_path, "llama") is None


def test_language_codes_beside_tokenizer_json(tmp_path):
    """transformers lets src_lang decide, whatever the file's post-processor adds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokens = {c: i for i, c in enumerate(byte_characters())}
    backend = Tokenizer(models.BPE(tokens, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>", "eng_Latn", "fra_Latn"])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s> eng_Latn", special_tokens=[("</s>", 256), ("eng_Latn", 257)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "NllbTokenizer", "src_lang": "fra_Latn"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load(tmp_path, "m2m_100").encode("!") == [258, 33, 256]
