"""Tokenizers of Hugging Face folders: ids as transformers 5 gives them, and damaged files."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
from tokenizer.vocabularies import bpe_metadata

import softprompt
from softprompt.tokenizer import added_specials, gguf_tokenizer, load_folder_tokenizer

BEGIN, END, TOOL = 264, 265, 266


def load(folder, vocab_size=300, family="llama"):
    return load_folder_tokenizer(folder, vocab_size=vocab_size, family=family)


@pytest.fixture
def folder(tmp_path):
    backend = gguf_tokenizer(bpe_metadata(), "x").backend
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write_config(folder, name="tokenizer_config.json", **values):
    (folder / name).write_text(json.dumps(values))


def edit(folder, **changes):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [BEGIN], "tokens": ["<|begin|>"]}},
}


def test_the_file_is_the_whole_pipeline(folder):
    tokenizer = load(folder)
    (hello,) = tokenizer.encode("hello")
    assert tokenizer.encode(" hello<|end|>")[-1] == END
    assert tokenizer.encode_batch(["hello", ""]) == [[hello], []]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, None)
    # Only the file's post-processor adds tokens; transformers 5 drops add_bos_token beside it.
    write_config(folder, bos_token="<|begin|>", eos_token="<|end|>", add_bos_token=True)
    tokenizer = load(folder)
    assert tokenizer.encode("hello") == [hello]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BEGIN, END)
    edit(folder, post_processor=TEMPLATE)
    write_config(folder, bos_token={"content": "<|begin|>"}, add_bos_token=False)
    tokenizer = load(folder)
    assert tokenizer.encode("hello") == [BEGIN, hello]
    assert tokenizer.encode("hello", add_special_tokens=False) == [hello]
    assert added_specials(tokenizer) == (True, False)


def test_truncation_and_padding_of_the_file_are_left_out(folder):
    expected = load(folder).encode("hello hello hello")
    edit(
        folder,
        truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
    )
    assert load(folder).encode("hello hello hello") == expected


def test_tokens_that_only_the_config_knows(folder):
    entry = {"content": "<new>", "special": True, "lstrip": False, "normalized": False}
    write_config(folder, added_tokens_decoder={"267": entry}, pad_token="<pad>")
    tokenizer = load(folder)
    assert tokenizer.encode("hello<new><pad>")[1:] == [267, 268]
    # Ids without an embedding are not added.
    assert load(folder, vocab_size=268).vocab_size == 268
    assert load(folder, vocab_size=267).vocab_size == 267


def test_names_of_special_tokens_map(folder):
    write_config(folder, "special_tokens_map.json", bos_token="<|begin|>", eos_token="<tool>")
    write_config(folder, eos_token="<|end|>")
    tokenizer = load(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BEGIN, END)


class TestGpt2:
    @pytest.fixture
    def folder(self, shared_dir, tmp_path):
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(shared_dir / "models" / "tokenizers" / "gpt2" / name, tmp_path)
        return tmp_path

    def test_vocab_and_merges(self, folder):
        tokenizer = load(folder, 50257, "gpt2")
        # OpenAI's own ids.
        assert tokenizer.encode("Hello world") == [15496, 995]
        assert tokenizer.encode(" Hello world<|endoftext|>") == [18435, 995, 50256]
        assert tokenizer.decode([15496, 995, 50256]) == "Hello world"
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (50256, 50256)

    def test_what_the_config_adds(self, folder):
        write_config(folder, add_bos_token=True)
        assert load(folder, 50257, "gpt2").encode("Hello world") == [50256, 15496, 995]
        write_config(folder, add_prefix_space=True)
        assert load(folder, 50257, "gpt2").encode("Hello world") == [18435, 995]
        write_config(folder, add_bos_token="yes")
        with pytest.raises(ValueError, match="add_bos_token is 'yes'"):
            load(folder, 50257, "gpt2")

    @pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
    def test_damaged(self, folder, name):
        (folder / name).write_text("{" if name == "vocab.json" else "#version: 0.2\nnone such x\n")
        with pytest.raises(ValueError, match=r"vocab\.json"):
            load(folder, 50257, "gpt2")

    def test_other_families_cut_texts_otherwise(self, folder):
        with pytest.warns(UserWarning, match=r"vocab\.json is not read .* kind 'starcoder2'"):
            assert load(folder, 50257, "starcoder2") is None
        # "123" is one piece to GPT-2, three to Qwen 2.
        assert len(load(folder, 50257, "gpt2").encode("123")) == 1
        assert len(load(folder, 50257, "qwen2").encode("123")) == 3

    def test_bart_and_opt(self, folder):
        hello = [15496, 995]
        write_config(folder, bos_token="!", eos_token='"', tokenizer_class="BartTokenizer")
        assert load(folder, 50257, "llama").encode("Hello world") == [0, *hello, 1]
        write_config(folder, bos_token="!", add_bos_token=True)
        assert load(folder, 50257, "opt").encode("Hello world") == [0, *hello]


def test_no_tokenizer(tmp_path):
    assert load(tmp_path) is None
    (tmp_path / "tekken.json").write_bytes(b"{}")
    with pytest.warns(UserWarning, match=r"tekken\.json is not read"):
        assert load(tmp_path) is None


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_damaged_sentencepiece_models(tmp_path, name):
    (tmp_path / name).write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken's form, which some call so too
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"model": {"type": "BPE"}}', "[" * 100000, "\ud7ff"]
)
def test_damaged_tokenizer_json(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json: the tokenizers library refuses it"):
        load(tmp_path)


def test_a_merge_of_tokens_that_are_none(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit(folder, model=model | {"merges": [["no", "such"]]})
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"x": {"content": "a"}}},
        {"added_tokens_decoder": {"9": "a"}},
        {"added_tokens_decoder": {"9": {"content": 3}}},
        {"extra_special_tokens": "<a>"},
        {"extra_special_tokens": [3]},
        {"chat_template": 3},
        {"chat_template": [{"name": "default", "template": 3}]},
    ],
)
def test_damaged_config(folder, values):
    write_config(folder, **values)
    (key,) = values
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {key}"):
        load(folder)
    (folder / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        load(folder)


def test_a_text_that_the_vocabulary_cannot_write(folder):
    """A vocabulary of words without one for unknown words is whole, and says no to some texts."""
    words = {"type": "WordLevel", "vocab": {"hello": 0}, "unk_token": "[UNK]"}
    edit(folder, model=words, pre_tokenizer={"type": "Whitespace"}, added_tokens=[])
    tokenizer = load(folder)
    assert tokenizer.encode("hello hello") == [0, 0]
    with pytest.raises(ValueError, match="text 'hello world': the tokenizers library refuses it"):
        tokenizer.encode("hello world")


def test_texts_that_are_none(folder):
    tokenizer = load(folder)
    for value in (None, 3, b"hello", ["hello"]):
        with pytest.raises(TypeError, match="expected a str"):
            tokenizer.encode(value)
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("\ud800")
    assert tokenizer.id_to_token(10**12) is None
    assert tokenizer.id_to_token(-1) is None
    assert tokenizer.decode([]) == ""


def test_a_model_with_its_tokenizer(folder):
    tiny.write_tiny(folder, "llama", changes={"vocab_size": 267})
    write_config(folder, bos_token="<|begin|>")
    edit(folder, post_processor=TEMPLATE)
    model = softprompt.load_model(folder)
    assert model.config.adds_bos
    assert not model.config.adds_eos
    assert len(model.logits(["hello"])[0]) == 2


def test_a_model_without_one_takes_ids_and_says_so(tmp_path):
    model = softprompt.load_model(tiny.write_tiny(tmp_path, "llama"))
    assert model.tokenizer is None
    assert len(model.logits([[1, 2]])[0]) == 2
    with pytest.raises(ValueError, match="no tokenizer"):
        model.logits(["text"])
