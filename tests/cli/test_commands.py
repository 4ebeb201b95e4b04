"""Every command does what it says, as text and as JSON, on a tiny model."""

from __future__ import annotations

import io
import json
import shutil
import sys

import numpy as np
import pytest

import softprompt
from softprompt import SoftPrompt, SoftPromptClassifier

FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "softprompt.json"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_train_saves_a_prompt(run, write, rows, model_folder, tmp_path, suffix):
    done = run(
        "train", "--model", model_folder, "--data", write(f"train.{suffix}", rows), "--validation",
        write(f"validation.{suffix}", rows[:4]), "--template", "{word}:", "--labels", "low,high",
        "--num-virtual-tokens", 3, "--max-steps", 4, "--batch-size", 4, "--learning-rate", 0.01,
        "--eval-every", 2, "--seed", 1, "--init", "text:abc", "--record", tmp_path / "run.jsonl",
        "--output", tmp_path / "prompt", "--json",
    )  # fmt: skip
    result = done.json
    assert (result["num_steps"], result["num_training_rows"]) == (4, 16)
    assert result["num_validation_rows"] == 4
    assert set(result["files"]) == FILES
    prompt = SoftPrompt.load(tmp_path / "prompt")
    assert prompt.num_virtual_tokens == 3
    assert prompt.task["labels"] == [" high", " low"]  # names alone are put after a blank
    assert len(softprompt.read_record(tmp_path / "run.jsonl")["steps"]) == 4


def test_train_is_the_estimator(run, trained, model_folder, rows):
    classifier = SoftPromptClassifier(
        str(model_folder),
        template="{word}:",
        labels={"low": "-", "high": "+"},
        num_virtual_tokens=3,
        max_steps=3,
        random_state=0,
        progress=False,
    ).fit(rows, [row["label"] for row in rows])
    saved = SoftPrompt.load(trained).embeddings
    np.testing.assert_array_equal(saved, classifier.prompt_.embeddings)  # same seed, same bits


def test_resume_goes_on_to_the_same_bits(run, write, rows, model_folder, tmp_path):
    common = (
        "train", "--model", model_folder, "--data", write("train.jsonl", rows), "--template",
        "{word}:", "--num-virtual-tokens", 3, "--max-steps", 12,
    )  # fmt: skip
    run(*common, "--output", tmp_path / "whole")
    checkpoint = ("--checkpoint-dir", tmp_path / "checkpoint")
    run(*common, *checkpoint, "--output", tmp_path / "first")
    refused = run(*common, *checkpoint, "--output", tmp_path / "second", code=1)
    assert "resume" in refused.err
    run(*common, *checkpoint, "--resume", "--output", tmp_path / "second")
    whole, second = (SoftPrompt.load(tmp_path / name) for name in ("whole", "second"))
    np.testing.assert_array_equal(whole.embeddings, second.embeddings)


def test_evaluate_is_the_estimators_score(run, write, rows, trained, model_folder):
    data = write("test.csv", rows)
    result = run("evaluate", "--prompt", trained, "--data", data, "--json").json
    classifier = SoftPromptClassifier.from_prompt(trained, str(model_folder))
    assert result["score"] == classifier.score(rows, [row["label"] for row in rows])
    assert sum(counts["correct"] for counts in result["classes"].values()) / 16 == result["score"]
    text = run("evaluate", "--prompt", trained, "--data", data).out
    assert text.startswith(f"accuracy {result['score']:.4f} on 16 rows")


def test_evaluate_without_a_prompt_is_zero_and_few_shot(run, write, rows, model_folder):
    data = write("test.jsonl", rows)
    common = ("evaluate", "--model", model_folder, "--template", "{word}:", "--data", data)
    zero = run(*common, "--labels", '{"low": "-", "high": "+"}', "--json").json
    assert (zero["rows"], zero["prompt"]) == (16, None)
    few = run(*common, "--examples", 2, "--examples-from", data, "--json").json
    assert 0 <= few["score"] <= 1


def test_predict_prints_and_writes_predictions(run, write, rows, trained, tmp_path):
    data = write("new.jsonl", [{"word": row["word"]} for row in rows])
    result = run("predict", "--prompt", trained, "--data", data, "--json").json
    assert len(result["predictions"]) == 16
    for each in result["predictions"]:
        assert sum(each["probabilities"].values()) == pytest.approx(1, abs=1e-12)  # of two float64
        assert each["prediction"] == max(each["probabilities"], key=each["probabilities"].get)
    lines = run("predict", "--prompt", trained, "--data", data, "--output", tmp_path / "p.jsonl")
    assert lines.out.splitlines() == [each["prediction"] for each in result["predictions"]]
    written = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["word"] for row in written] == [row["word"] for row in rows]
    assert [row["prediction"] for row in written] == lines.out.splitlines()


def test_predict_zero_shot(run, write, rows, model_folder):
    done = run(
        "predict", "--model", model_folder, "--template", "{word}:", "--labels", "low=-,high=+",
        "--data", write("new.csv", [{"word": row["word"]} for row in rows]),
    )  # fmt: skip
    assert set(done.out.split()) <= {"low", "high"}


def test_classes_that_are_numbers_in_json_are_the_same_in_csv(run, write, rows, model_folder,
                                                              tmp_path):  # fmt: skip
    numbered = [{**row, "label": int(row["label"] == "low")} for row in rows]
    run(
        "train", "--model", model_folder, "--data", write("train.jsonl", numbered), "--validation",
        write("validation.csv", numbered), "--template", "{word}:", "--labels", "0=+,1=-",
        "--num-virtual-tokens", 2, "--max-steps", 1, "--output", tmp_path / "prompt",
    )  # fmt: skip
    assert SoftPrompt.load(tmp_path / "prompt").task["classes"] == [0, 1]
    scores = [
        run("evaluate", "--prompt", tmp_path / "prompt", "--data", write(name, numbered), "--json")
        .json["score"]
        for name in ("test.jsonl", "test.csv")
    ]  # fmt: skip
    assert scores[0] == scores[1]


def test_text_to_text(run, write, rows, model_folder, tmp_path):
    data = write("train.jsonl", rows)
    run(
        "train", "--model", model_folder, "--data", data, "--template", "{word}:",
        "--target-field", "target", "--max-new-tokens", 4, "--num-virtual-tokens", 2,
        "--max-steps", 2, "--output", tmp_path / "prompt",
    )  # fmt: skip
    result = run("evaluate", "--prompt", tmp_path / "prompt", "--data", data, "--json").json
    assert result["metric"] == "exact_match"
    predictions = run("predict", "--prompt", tmp_path / "prompt", "--data", data, "--json").json
    right = [p["prediction"].strip() == row["target"].strip()
             for p, row in zip(predictions["predictions"], rows, strict=True)]  # fmt: skip
    assert result["score"] == pytest.approx(np.mean(right))


def test_generate_is_the_models(run, trained, model_folder, monkeypatch):
    model = softprompt.load_model(model_folder)
    texts = ["aba", "zyz"]
    expected = model.generate(texts, prompt=SoftPrompt.load(trained), max_new_tokens=5)
    options = ("--prompt", trained, "--max-new-tokens", 5, "--json")
    by_argument = run("generate", *texts, *options).json
    assert [each["output"] for each in by_argument["results"]] == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("aba\nzyz\n"))
    assert run("generate", *options).json == by_argument
    each_its_own = run("generate", *texts, "--prompt", trained, *options).json
    assert each_its_own == by_argument


def test_generate_with_beams(run, trained, model_folder):
    model, prompt = softprompt.load_model(model_folder), SoftPrompt.load(trained)
    texts = ["aba", "zyz", "b"]
    beams = {"max_new_tokens": 9, "num_beams": 5, "stop": ["F", "`", "0", ";", "q"]}
    expected = model.generate(texts, prompt, length_penalty=-3.0, **beams)
    assert expected != model.generate(texts, prompt, length_penalty=3.0, **beams)
    stops = [word for stop in beams["stop"] for word in ("--stop", stop)]
    options = ("--prompt", trained, "--max-new-tokens", 9, "--num-beams", 5, *stops, "--json")
    results = run("generate", *texts, *options, "--length-penalty", -3.0).json["results"]
    assert [each["output"] for each in results] == expected
    refused = run("generate", "aba", "--prompt", trained, "--num-beams", 2, "--stream", code=1)
    assert "stream with num_beams = 2" in refused.err


CHAT = "{{ bos_token }}{{ messages[0].content }}{{ '\\n' }}"


@pytest.fixture
def chat_model(model_folder, tmp_path):
    pytest.importorskip("jinja2", reason="chat templates need jinja2 (softprompt[chat])")
    folder = tmp_path / "chat-model"
    shutil.copytree(model_folder, folder)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def test_chat(run, write, rows, chat_model, tmp_path):
    data = write("train.jsonl", rows)
    train = (
        "train", "--model", chat_model, "--data", data, "--template", "{word}:",
        "--num-virtual-tokens", 2, "--max-steps", 1,
    )  # fmt: skip
    run(*train, "--output", tmp_path / "chat", "--chat")
    run(*train, "--output", tmp_path / "plain")
    tasks = [SoftPrompt.load(tmp_path / name).task for name in ("chat", "plain")]
    assert tasks[0]["chat"] == {"before": "<s>", "after": "\n", "strips": False}
    assert tasks[1]["chat"] is None
    assert [task["labels"] for task in tasks] == [["high", "low"], [" high", " low"]]
    evaluate = ("evaluate", "--data", data, "--json")
    zero_shot = ("--model", chat_model, "--template", "{word}:", "--labels", "low=-,high=+")
    assert run(*evaluate, *zero_shot, "--chat").json["rows"] == len(rows)
    assert run(*evaluate, "--prompt", tmp_path / "chat").json["rows"] == len(rows)
    refused = run(*evaluate, "--prompt", tmp_path / "chat", "--chat", code=2)
    assert "saved with the prompt" in refused.err


def test_generate_in_a_chat(run, chat_model):
    model = softprompt.load_model(chat_model)
    ids = [model.tokenizer.encode("<s>aba\n", add_special_tokens=False)]
    (expected,) = model.generate(ids, max_new_tokens=5)
    options = ("--model", chat_model, "--max-new-tokens", 5, "--json")
    (result,) = run("generate", "aba", *options, "--chat").json["results"]
    assert result == {"input": "aba", "output": expected}


def test_a_model_without_a_chat_template(run, model_folder):
    refused = run("generate", "aba", "--model", model_folder, "--chat", code=1)
    assert "the model's files have no chat template" in refused.err


def test_generate_streams_the_text_that_it_would_return(run, trained):
    options = ("--prompt", trained, "--max-new-tokens", 5)
    whole = run("generate", "aba", *options, "--json").json["results"][0]["output"]
    assert run("generate", "aba", *options, "--stream").out == whole + "\n"


def test_neighbors(run, trained):
    result = run("neighbors", trained, "-k", 2, "--metric", "cosine", "--json").json
    assert [len(row["cosine"]) for row in result["rows"]] == [2, 2, 2]
    assert "Nearest tokens by cosine similarity" in run("neighbors", trained).out


def test_info(run, trained, model_folder):
    here = run("info", "--json").json
    assert here["softprompt"] == softprompt.__version__
    assert here["cpu"] in ("generic", "avx2", "avx512")
    assert here["num_threads"] >= 1
    assert here["blas"]
    assert here["blas_core"]
    about_model = run("info", model_folder, "--json").json["model"]
    assert about_model["hidden_size"] == 24
    assert set(about_model["weight_bytes"]) == {"F32"}
    about = run("info", trained, "--json").json["prompt"]
    assert about["num_virtual_tokens"] == 3
    assert set(about["files"]) == FILES
    for name, value in (("cpu", here["cpu"]), ("blas_core", here["blas_core"])):
        assert f"{name}" in run("info").out
        assert value in run("info").out


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "generate"])
def test_form_of_the_weights_and_memory_limit(
    run, write, rows, trained, model_folder, tmp_path, command
):
    data = write("rows.jsonl", rows)
    arguments = {
        "train": ("--model", model_folder, "--data", data, "--template", "{word}:", "--max-steps",
                  1, "--num-virtual-tokens", 2, "--output", tmp_path / "prompt"),
        "evaluate": ("--prompt", trained, "--data", data),
        "predict": ("--prompt", trained, "--data", data),
        "generate": ("aba", "--prompt", trained, "--max-new-tokens", 2),
    }[command]  # fmt: skip
    run(command, *arguments, "--weights", "float32", "--memory-limit", 10**8, "--json")
    refused = run(command, *arguments, "--memory-limit", 1000, "--json", code=1)
    assert "memory_limit = 1000 bytes: the weights alone take" in refused.err
    run(command, *arguments, "--weights", "int3", "--json", code=2)


PLAIN = {"peft": FILES, "npy": {"p"}, "prompt_embeds": {"p"}}
OF_A_MODEL = {"prefix": FILES, "cartridge": FILES, "past_key_values": {"p"}}


@pytest.mark.parametrize("to", list(PLAIN))
def test_convert_and_back(run, trained, tmp_path, to):
    result = run("convert", trained, tmp_path / "p", "--to", to, "--json").json
    assert (result["to"], result["num_virtual_tokens"]) == (to, 3)
    assert set(result["files"]) == PLAIN[to]
    assert str(tmp_path / "p") in run("convert", trained, tmp_path / "p", "--to", to).out
    run("convert", tmp_path / "p", tmp_path / "back", "--to", "peft")
    back, before = SoftPrompt.load(tmp_path / "back"), SoftPrompt.load(trained)
    np.testing.assert_array_equal(back.embeddings, before.embeddings)
    assert (back == before) == (to == "peft")  # the others hold nothing but the numbers


@pytest.mark.parametrize("to", list(OF_A_MODEL))
def test_convert_to_keys_and_values(run, trained, model_folder, tmp_path, to):
    done = run("convert", trained, tmp_path / "p", "--to", to, "--json")
    assert set(done.json["files"]) == OF_A_MODEL[to]
    assert "loading" in done.err  # the model that the prompt names
    expected = softprompt.load_model(model_folder).prefix(SoftPrompt.load(trained))
    np.testing.assert_array_equal(softprompt.Prefix.load(tmp_path / "p").keys, expected.keys)
    about = run("info", tmp_path / "p", "--json").json["prompt"]
    assert (about["kind"], about["num_virtual_tokens"], about["num_layers"]) == ("prefix", 3, 3)
    assert set(about["norms"]) == {"keys", "values"}


def test_similarity(run, trained, tmp_path):
    SoftPrompt(-SoftPrompt.load(trained).embeddings).export(tmp_path / "minus.npy")
    paths = (trained, tmp_path / "minus.npy")
    result = run("similarity", *paths, "--json").json
    assert result["names"] == list(map(str, paths))
    np.testing.assert_allclose(result["values"], [[1, -1], [-1, 1]])
    text = run("similarity", *paths, "--metric", "per_token").out
    assert text.startswith("Average cosine similarity of the prompts' vectors")


def test_info_of_any_prompt_file(run, trained, tmp_path):
    run("convert", trained, tmp_path / "p.npy", "--to", "npy")
    about = run("info", tmp_path / "p.npy", "--json").json["prompt"]
    assert (about["kind"], about["dtype"], about["shape"]) == ("npy", "F32", [3, 24])
    assert about["files"] == {"p.npy": about["bytes"]}
    norms = np.linalg.norm(SoftPrompt.load(trained).embeddings.astype("f8"), axis=1)
    assert about["norms"]["max"] == pytest.approx(norms.max())
    text = run("info", tmp_path / "p.npy").out
    assert "prompt " in text
    assert "F32" in text
    about = run("info", trained, "--json").json["prompt"]
    assert about["kind"] == "softprompt"
    assert about["base_model"]["num_layers"] == 3


def test_demo(run, model_folder, tmp_path):
    result = run(
        "demo", "--model", model_folder, "--steps", 2, "--output", tmp_path / "demo", "--json"
    ).json
    assert result["rows"] == {"train": 250, "validation": 100, "test": 150}
    assert 0 <= result["zero_shot_test_accuracy"] <= 1
    assert 0 <= result["tuned_test_accuracy"] <= 1
    assert set(result["files"]) == FILES
    assert len(result["neighbors"]["rows"]) == SoftPrompt.load(tmp_path / "demo").num_virtual_tokens
