"""A prompt that leaves as a prefix gives the same logits in transformers and PEFT as it gives here.

Tolerance 1e-5 of the logits' norm; a greedy text is the same.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tiny
from golden import cases

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import peft
import torch
import transformers
from parity import oracle
from parity.test_peft_files import _offline, load_with_peft  # noqa: F401
from parity.test_twin_parity import MODELS

import softprompt

TOLERANCE = 1e-5
ROWS = 6

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unable to fetch remote file:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture(params=list(MODELS))
def case(request, tmp_path):
    """Name of the tiny model, its folder, the model here, a prompt."""
    name, changes = MODELS[request.param]
    folder = tiny.write_tiny(tmp_path / "model", name, seed=35, changes=changes)
    model = softprompt.load_model(folder)
    return name, folder, model, softprompt.SoftPrompt(cases.prompt(name, ROWS))


def assert_same_logits(theirs: list[np.ndarray], ours: list[np.ndarray]) -> None:
    for one, other in zip(theirs, ours, strict=True):
        assert np.linalg.norm(one - other) < TOLERANCE * np.linalg.norm(other)


@pytest.mark.parametrize(("to", "config"), [
    ("prefix", peft.PrefixTuningConfig),
    ("cartridge", peft.CartridgeConfig),
])  # fmt: skip
def test_peft_with_the_prefix(case, tmp_path, to, config):
    name, folder, model, prompt = case
    prompt.export(tmp_path / to, to, model=model)
    tuned = load_with_peft(oracle.load(folder), tmp_path / to).eval()
    assert isinstance(tuned.active_peft_config, config)
    batch = cases.examples(name)
    ids, mask, _ = oracle.pad(batch)
    with torch.no_grad():
        logits = tuned(input_ids=ids, attention_mask=mask).logits
    theirs = [row[:end].numpy() for row, end in zip(logits, mask.sum(dim=1).tolist(), strict=True)]
    assert_same_logits(theirs, model.logits([i + t for i, t in batch], prompt))


def test_transformers_with_past_key_values(case):
    name, folder, model, prompt = case
    theirs = oracle.load(folder)
    for ids in cases.continued(name):
        cache = transformers.DynamicCache()
        for layer, (key, value) in enumerate(model.prefix(prompt).past_key_values()):
            cache.update(torch.tensor(key), torch.tensor(value), layer)
        with torch.no_grad():
            logits = theirs(input_ids=torch.tensor([ids]), past_key_values=cache).logits
        assert_same_logits([logits[0].numpy()], model.logits([ids], prompt))


def test_greedy_text_of_peft(case, tmp_path):
    name, folder, model, prompt = case
    prompt.export(tmp_path / "prefix", "prefix", model=model)
    tuned = load_with_peft(oracle.load(folder), tmp_path / "prefix").eval()
    inputs = cases.continued(name)
    ours = model.generate(inputs, prompt, max_new_tokens=12, return_ids=True)
    assert ours == [oracle.greedy(tuned, ids, 12) for ids in inputs]


def test_the_cache_of_transformers(case):
    """Layer by layer: what transformers keeps of the prompt, in its own order of channels."""
    _, folder, model, prompt = case
    theirs = oracle.load(folder, exact=True)
    embeds = torch.tensor(prompt.embeddings[None], dtype=torch.float64)
    with torch.no_grad():
        cache = theirs(inputs_embeds=embeds, use_cache=True).past_key_values
    ours = model.prefix(prompt).past_key_values()
    for layer, (key, value) in zip(cache.layers, ours, strict=True):
        for one, other in ((layer.keys, key), (layer.values, value)):
            assert np.linalg.norm(one.numpy() - other) < TOLERANCE * np.linalg.norm(one.numpy())


def test_a_prefix_of_peft_comes_back(case, tmp_path):
    _, folder, _, _ = case
    tuned = peft.get_peft_model(
        oracle.load(folder),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    )
    for safe in (True, False):
        tuned.save_pretrained(tmp_path / str(safe), safe_serialization=safe)
        prefix = softprompt.Prefix.load(tmp_path / str(safe))
        table = tuned.prompt_encoder["default"].embedding.weight.detach().numpy()
        np.testing.assert_array_equal(prefix.flattened(), table)
    tuned.peft_config["default"].inference_mode = True
    layers = tuned.get_prompt(batch_size=1).layers
    for (key, value), layer in zip(prefix.past_key_values(), layers, strict=True):
        np.testing.assert_array_equal(key, layer.keys.detach().numpy())
        np.testing.assert_array_equal(value, layer.values.detach().numpy())
    prefix.save(tmp_path / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = peft.PeftModel.from_pretrained(oracle.load(folder), tmp_path / "again")
    np.testing.assert_array_equal(
        again.prompt_encoder["default"].embedding.weight.detach().numpy(), table
    )
