"""Every command takes a folder of a prefix as it takes one of a prompt."""

from __future__ import annotations

import json

import numpy as np
import pytest

import softprompt
from softprompt import Prefix, SoftPromptClassifier


@pytest.fixture
def trained(run, write, rows, model_folder, tmp_path):
    """Folder of a prefix for the words."""
    run(
        "train", "--model", model_folder, "--data", write("train.jsonl", rows), "--template",
        "{word}:", "--labels", "low=-,high=+", "--method", "prefix", "--num-virtual-tokens", 3,
        "--max-steps", 3, "--output", tmp_path / "prefix",
    )  # fmt: skip
    return tmp_path / "prefix"


def test_train_is_the_estimator(trained, model_folder, rows):
    classifier = SoftPromptClassifier(
        str(model_folder),
        template="{word}:",
        labels={"low": "-", "high": "+"},
        method="prefix",
        num_virtual_tokens=3,
        max_steps=3,
        random_state=0,
        progress=False,
    ).fit(rows, [row["label"] for row in rows])
    saved = softprompt.load_prompt(trained)
    np.testing.assert_array_equal(saved.keys, classifier.prompt_.keys)  # same seed, same bits
    np.testing.assert_array_equal(saved.values, classifier.prompt_.values)
    config = json.loads((trained / "adapter_config.json").read_text())
    assert config["peft_type"] == "PREFIX_TUNING"


def test_evaluate_and_predict(run, write, rows, trained, model_folder):
    data = write("test.csv", rows)
    score = run("evaluate", "--prompt", trained, "--data", data, "--json").json["score"]
    classifier = SoftPromptClassifier.from_prompt(trained, str(model_folder))
    assert score == classifier.score(rows, [row["label"] for row in rows])
    predicted = run("predict", "--prompt", trained, "--data", data, "--json").json["predictions"]
    assert [each["prediction"] for each in predicted] == classifier.predict(rows).tolist()


def test_a_text_to_text_prefix(run, write, rows, model_folder, tmp_path):
    run(
        "train", "--model", model_folder, "--data", write("train.jsonl", rows), "--template",
        "{word}:", "--target-field", "target", "--method", "prefix", "--num-virtual-tokens", 2,
        "--max-steps", 2, "--max-new-tokens", 3, "--output", tmp_path / "prefix",
    )  # fmt: skip
    done = run("predict", "--prompt", tmp_path / "prefix", "--data", write("new.jsonl", rows))
    assert len(done.out.splitlines()) >= 16


def test_generate(run, trained, model_folder):
    result = run(
        "generate", "aba", "zy", "--prompt", trained, "--max-new-tokens", 4, "--json"
    ).json["results"]
    model = softprompt.load_model(model_folder)
    expected = model.generate(["aba", "zy"], Prefix.load(trained), max_new_tokens=4)
    assert [each["output"] for each in result] == expected


def test_goes_on_from_a_prefix(run, write, rows, trained, model_folder, tmp_path):
    run(
        "train", "--model", model_folder, "--data", write("train.jsonl", rows), "--template",
        "{word}:", "--labels", "low=-,high=+", "--method", "prefix", "--num-virtual-tokens", 3,
        "--init", trained, "--learning-rate", 0, "--max-steps", 1, "--output", tmp_path / "more",
    )  # fmt: skip
    first, more = (softprompt.load_prompt(folder) for folder in (trained, tmp_path / "more"))
    np.testing.assert_array_equal(first.flattened(), more.flattened())


def test_info(run, trained):
    about = run("info", trained, "--json").json["prompt"]
    assert (about["kind"], about["num_virtual_tokens"]) == ("prefix", 3)
    assert about["task"]["kind"] == "classification"
    assert "prefix" in run("info", trained).out


@pytest.mark.parametrize("to", ["peft", "prefix", "cartridge", "past_key_values"])
def test_convert(run, trained, tmp_path, to):
    """Without a model: its keys and values are there already."""
    result = run("convert", trained, tmp_path / "out", "--to", to, "--json").json
    assert (result["num_virtual_tokens"], result["hidden_size"]) == (3, None)
    found = softprompt.load_prompt(tmp_path / "out")
    np.testing.assert_array_equal(found.flattened(), Prefix.load(trained).flattened())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "{prefix}", "{out}", "--to", "npy"], "'npy' is a form of prompts"),
        (["neighbors", "{prefix}"], "no rows in the space of the vocabulary"),
        (["similarity", "{prefix}", "{prefix}"], "twice"),
        (["train", "--method", "lora"], "method must be one of 'prompt', 'prefix', got 'lora'"),
    ],
)
def test_what_a_prefix_cannot_do(
    run, write, rows, trained, model_folder, tmp_path, arguments, message
):
    given = [part.format(prefix=trained, out=tmp_path / "out") for part in arguments]
    if given[0] == "train":
        given += ["--model", model_folder, "--data", write("train.jsonl", rows), "--template"]
        given += ["{word}:", "--output", tmp_path / "out"]
    assert message in run(*given, code=1).err


def test_a_prompts_file_that_is_a_prefix_says_so(trained):
    with pytest.raises(ValueError, match=r"softprompt\.load_prompt reads prompts and prefixes"):
        softprompt.SoftPrompt.load(trained)
