"""Adapter folders that change hands with PEFT: equal bytes, and equal values either way."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import peft
import torch
import transformers

from softprompt.prompt import SoftPrompt

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unable to fetch remote file:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    # PEFT looks for the base model's configuration; without a network it says so and goes on.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def gpt2():
    config = transformers.GPT2Config(
        n_embd=8, n_layer=2, n_head=2, vocab_size=20, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    model.name_or_path = "some/model"
    return model


def t5():
    config = transformers.T5Config(
        d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, vocab_size=20, pad_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def with_adapter(model, task_type="CAUSAL_LM", **options):
    config = peft.PromptTuningConfig(task_type=task_type, num_virtual_tokens=5, **options)
    return peft.get_peft_model(model, config)


def rows_of(tuned, name="default"):
    return tuned.prompt_encoder[name].embedding.weight.detach().numpy()


def load_with_peft(model, folder):
    """Load as a user does; a key that PEFT does not know would be a warning, here an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return peft.PeftModel.from_pretrained(model, folder)


def test_our_folder_is_the_one_that_peft_writes(tmp_path):
    tuned = with_adapter(gpt2())
    tuned.save_pretrained(tmp_path / "theirs")
    facts = {"name_or_path": "some/model", "num_layers": 2, "num_attention_heads": 2}
    SoftPrompt(rows_of(tuned), base_model=facts).save(tmp_path / "ours")
    theirs, ours = (json.loads((tmp_path / who / CONFIG).read_text()) for who in ("theirs", "ours"))
    # PEFT's own version is all that may differ.
    assert theirs.pop("peft_version") == peft.__version__
    ours.pop("peft_version")
    assert ours == theirs
    assert (tmp_path / "ours" / TENSORS).read_bytes() == (
        tmp_path / "theirs" / TENSORS
    ).read_bytes()
    # Byte for byte once the version is theirs.
    text = (tmp_path / "ours" / CONFIG).read_text().replace("0.18.0", peft.__version__)
    assert text == (tmp_path / "theirs" / CONFIG).read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_peft_to_softprompt(tmp_path, dtype):
    tuned = with_adapter(gpt2()).to(dtype)
    tuned.save_pretrained(tmp_path)
    prompt = SoftPrompt.load(tmp_path)
    expected = tuned.prompt_encoder["default"].embedding.weight.detach().float().numpy()
    np.testing.assert_array_equal(prompt.embeddings, expected)
    assert prompt.position == "start"
    assert prompt.base_model == {
        "name_or_path": "some/model",
        "hidden_size": 8,
        "num_layers": 2,
        "num_attention_heads": 2,
        "task_type": "CAUSAL_LM",
    }


def test_softprompt_to_peft(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 8)).astype("f4")
    prompt = SoftPrompt(values, task={"kind": "x"}, training={"seed": 1}, position="after_bos")
    prompt.save(tmp_path)
    loaded = load_with_peft(gpt2(), tmp_path)
    np.testing.assert_array_equal(rows_of(loaded), values)
    assert loaded.active_peft_config.num_virtual_tokens == 7


def test_a_text_start_with_its_tokenizer_loads_in_peft(tmp_path):
    values = np.ones((3, 8), "f4")
    for tokenizer, init in ((None, "RANDOM"), ("no/such-tokenizer", "TEXT")):
        SoftPrompt(
            values,
            training={"init": {"text": "Is it good?"}},
            base_model={"tokenizer_name_or_path": tokenizer},
        ).save(tmp_path)
        loaded = load_with_peft(gpt2(), tmp_path)
        np.testing.assert_array_equal(rows_of(loaded), values)
        assert loaded.active_peft_config.prompt_tuning_init == init


def test_there_and_back_again(tmp_path):
    values = np.random.default_rng(1).normal(size=(4, 8)).astype("f4")
    SoftPrompt(values).save(tmp_path / "a")
    load_with_peft(gpt2(), tmp_path / "a").save_pretrained(tmp_path / "b")
    np.testing.assert_array_equal(SoftPrompt.load(tmp_path / "b").embeddings, values)
    assert (tmp_path / "a" / TENSORS).read_bytes() == (tmp_path / "b" / TENSORS).read_bytes()


def test_peft_saving_over_our_folder_is_noticed(tmp_path):
    SoftPrompt(np.ones((5, 8), "f4")).save(tmp_path)
    with_adapter(gpt2()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another program replaced it"):
        SoftPrompt.load(tmp_path)
    prompt = SoftPrompt(np.zeros((5, 8), "f4"))
    prompt.save(tmp_path)
    assert SoftPrompt.load(tmp_path) == prompt


def test_a_prompt_for_an_encoder(tmp_path):
    tuned = with_adapter(t5(), "SEQ_2_SEQ_LM")
    tuned.save_pretrained(tmp_path / "theirs")
    assert rows_of(tuned).shape == (10, 8)
    prompt = SoftPrompt.load(tmp_path / "theirs")
    np.testing.assert_array_equal(prompt.embeddings, rows_of(tuned)[:5])
    prompt.save(tmp_path / "ours")
    np.testing.assert_array_equal(
        rows_of(load_with_peft(t5(), tmp_path / "ours")), prompt.embeddings
    )


def test_a_named_adapter_is_pointed_at(tmp_path):
    tuned = with_adapter(gpt2())
    tuned.add_adapter("mood", tuned.peft_config["default"])
    tuned.save_pretrained(tmp_path, selected_adapters=["mood"])
    with pytest.raises(FileNotFoundError, match="there is one in 'mood': load that folder"):
        SoftPrompt.load(tmp_path)
    np.testing.assert_array_equal(
        SoftPrompt.load(tmp_path / "mood").embeddings, rows_of(tuned, "mood")
    )


def test_other_kinds_are_refused(tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True)
    peft.get_peft_model(gpt2(), config).save_pretrained(tmp_path / "lora")
    with pytest.raises(ValueError, match="peft_type 'LORA', expected 'PROMPT_TUNING'"):
        SoftPrompt.load(tmp_path / "lora")
