"""The commands on a model with an encoder and the tokenizer of its folder."""

from __future__ import annotations

import decoders
import pairs
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from tokenizers import decoders as token_decoders

import softprompt

CHARACTERS = ["<s>", "<pad>", "</s>", *map(chr, range(32, 127))]
EOS = 2


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory):
    """A random BART of characters, whose tokenizer ends every text."""
    folder = tmp_path_factory.mktemp("pair")
    config = pairs.CONFIGS["bart"] | {"vocab_size": len(CHARACTERS)}
    decoders.write_decoder(folder, config, decoders.table_shapes(config), seed=3)
    vocabulary = {character: i for i, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = token_decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>", "bos_token": "<s>"}')
    return folder


def test_a_task_of_texts(run, write, rows, pair_folder, tmp_path):
    data = write("train.jsonl", rows)
    common = ("--model", pair_folder, "--data", data, "--template", "{word}")
    run(
        "train", *common, "--target-field", "target", "--max-new-tokens", 4, "--max-steps", 3,
        "--num-virtual-tokens", 2, "--output", tmp_path / "prompt",
    )  # fmt: skip
    prompt = softprompt.SoftPrompt.load(tmp_path / "prompt")
    assert prompt.base_model["task_type"] == "SEQ_2_SEQ_LM"
    model = softprompt.load_model(pair_folder)
    assert model.tokenizer.encode("ab")[-1] == EOS
    done = run("generate", "aba", "--prompt", tmp_path / "prompt", "--max-new-tokens", 5, "--json")
    assert done.json["results"][0]["output"] == model.generate(["aba"], prompt, max_new_tokens=5)[0]
    scored = run("evaluate", "--prompt", tmp_path / "prompt", "--data", data, "--json").json
    assert scored["metric"] == "exact_match"
    assert 0.0 <= scored["score"] <= 1.0
    assert run("neighbors", tmp_path / "prompt", "--json").json["rows"]


def test_a_task_of_classes(run, write, rows, pair_folder, tmp_path):
    run(
        "train", "--model", pair_folder, "--data", write("train.jsonl", rows), "--template",
        "{word}", "--labels", "low=lo,high=hi", "--max-steps", 3, "--num-virtual-tokens", 2,
        "--output", tmp_path / "prompt",
    )  # fmt: skip
    prompt = softprompt.SoftPrompt.load(tmp_path / "prompt")
    assert prompt.task["labels"] == ["hi", "lo"]
    classifier = softprompt.SoftPromptClassifier.from_prompt(prompt, str(pair_folder))
    assert all(ids[-1] == EOS for ids in classifier._label_ids)
    predicted = run(
        "predict", "--prompt", tmp_path / "prompt", "--data", write("new.jsonl", rows), "--json"
    ).json
    expected = classifier.predict([row["word"] for row in rows]).tolist()
    assert [row["prediction"] for row in predicted["predictions"]] == expected


def test_info_says_what_the_encoder_is(run, pair_folder):
    about = run("info", pair_folder, "--json").json["model"]
    assert (about["num_encoder_layers"], about["decoder_start_token_id"]) == (2, 2)
