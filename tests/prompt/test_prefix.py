"""Prefixes: keys and values of transformers (tests/golden/prompts), files, interrupted saves."""

import copy
import json
import os
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from golden import cases
from safetensors.numpy import load_file, save_file
from test_interrupted_save import load_quietly, run_until, stop_at

import softprompt
from softprompt import _core
from softprompt.families.rope import split_half_order
from softprompt.model.load import reload_model
from softprompt.prompt import (
    Prefix,
    PromptModelMismatchWarning,
    SoftPrompt,
    describe,
    is_prompt,
    load_prompt,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
RNG = np.random.default_rng(4)
ROWS = 5


def a_prefix(layers=2, tokens=3, heads=2, width=4, seed=0, **records) -> Prefix:
    values = np.random.default_rng(seed).normal(size=(2, layers, tokens, heads, width))
    return Prefix(*values, **records)


def equal(one: Prefix, two: Prefix) -> bool:
    return np.array_equal(one.keys, two.keys) and np.array_equal(one.values, two.values)


@pytest.fixture(scope="module", params=list(tiny.CONFIGS))
def case(request, tmp_path_factory):
    folder = tiny.write_tiny(tmp_path_factory.mktemp("tiny"), request.param, seed=cases.SEED)
    return request.param, softprompt.load_model(folder)


@pytest.mark.parametrize("kind", ["prefix", "cartridge"])
def test_keys_and_values_of_transformers(case, kind):
    """Made by transformers in float64: 1e-5 of the norm, as for logits."""
    name, model = case
    expected = Prefix.load(GOLDEN / f"{kind}_{name}")
    ours = model.prefix(cases.prompt(name, ROWS))
    assert ours.keys.shape == expected.keys.shape
    for mine, theirs in ((ours.keys, expected.keys), (ours.values, expected.values)):
        assert np.linalg.norm(mine - theirs) < 1e-5 * np.linalg.norm(theirs)
    stored = load_file(GOLDEN / f"{kind}_{name}" / "adapter_model.safetensors")
    np.testing.assert_array_equal(expected.flattened(), stored["prompt_embeddings"])


def interleaved_order(prefix: Prefix, spec) -> np.ndarray:
    """Keys in the order of a GGUF's channels."""
    return prefix.keys[..., np.argsort(split_half_order(spec.head_dim, spec.rotary_dim))]


@pytest.mark.parametrize("name", ["llama", "llama-biases"])
def test_interleaved_rotation_of_a_gguf(tmp_path, name):
    """A GGUF's order of channels: the same keys in transformers' order."""
    model = softprompt.load_model(tiny.write_tiny(tmp_path, name, seed=cases.SEED))
    spec = replace(model.spec, rope_interleaved=True)
    back = np.argsort(split_half_order(spec.head_dim, spec.rotary_dim))
    weights = dict(model.weights)
    for slot, weight in model.weights.items():
        parts = slot.split(".")
        if len(parts) == 4 and parts[2] in ("q", "k"):
            heads = weight.reshape(-1, spec.head_dim, *weight.shape[1:])
            weights[slot] = np.ascontiguousarray(heads[:, back].reshape(weight.shape))
    interleaved = softprompt.Model(
        core=_core.Model(spec.engine_dict(), weights), weights=weights, spec=spec,
        config=model.config, tokenizer=None, origin=model.origin,
        reload=reload_model,
    )  # fmt: skip
    prompt = cases.prompt(name, ROWS)
    one, two = model.prefix(prompt), interleaved.prefix(prompt)
    assert not np.allclose(interleaved_order(two, spec), one.keys, atol=1e-2)
    np.testing.assert_allclose(two.keys, one.keys, atol=1e-5)  # of values of size one
    assert interleaved.fingerprint == model.fingerprint


def test_a_prompt_after_the_beginning_of_text(case):
    name, model = case
    prompt = SoftPrompt(cases.prompt(name, ROWS), position="after_bos")
    prefix = model.prefix(prompt)
    assert prefix.num_virtual_tokens == ROWS + 1
    bos = model.embeddings[np.array([model.config.bos_token_id])]
    whole = model.prefix(np.concatenate([bos, prompt.embeddings]))
    np.testing.assert_allclose(prefix.keys, whole.keys, atol=1e-6)
    np.testing.assert_allclose(prefix.values, whole.values, atol=1e-6)


def test_what_a_prefix_says(case):
    name, model = case
    prompt = SoftPrompt(cases.prompt(name, 2), task={"kind": "x"}, training={"seed": 1})
    prefix = model.prefix(prompt)
    assert prefix.base_model["fingerprint"] == model.fingerprint
    assert (prefix.task, prefix.training) == ({"kind": "x"}, {"seed": 1})
    assert repr(prefix).startswith(f"Prefix(2 virtual tokens, {model.config.num_layers} layers")
    assert len(prefix) == 2
    key, value = prefix.past_key_values()[-1]
    np.testing.assert_array_equal(key[0, 1], prefix.keys[-1, :, 1])
    np.testing.assert_array_equal(value[0, 1], prefix.values[-1, :, 1])


def test_bad_prompts(case):
    _, model = case
    width = model.config.hidden_size
    with pytest.raises(TypeError, match="prompt: expected an array or a SoftPrompt, got None"):
        model.prefix(None)
    with pytest.raises(ValueError, match=f"expected rows of {width} values"):
        model.prefix(np.ones((2, width + 1)))
    limit = model.config.max_positions
    with pytest.raises(ValueError, match=f"{limit + 1} rows are longer than the model's context"):
        model.prefix(np.ones((limit + 1, width)))
    assert len(model.prefix(np.ones((limit, width)))) == limit


# ---- files ----


@pytest.mark.parametrize("peft_type", ["PREFIX_TUNING", "CARTRIDGE"])
def test_round_trip(tmp_path, peft_type):
    records = {"task": {"a": [1]}, "training": {"b": None}, "base_model": {"name_or_path": "m/x"}}
    prefix = a_prefix(**records)
    assert prefix.save(tmp_path / "p", peft_type=peft_type) == tmp_path / "p"
    loaded = Prefix.load(tmp_path / "p")
    assert equal(loaded, prefix)
    assert {name: getattr(loaded, name) for name in records} == records
    config = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    assert config["peft_type"] == peft_type
    assert (config["num_layers"], config["num_attention_heads"], config["token_dim"]) == (2, 2, 8)
    assert is_prompt(tmp_path / "p")
    with pytest.raises(ValueError, match="found 'softprompt-prefix'"):
        SoftPrompt.load(tmp_path / "p")
    (tmp_path / "p" / "softprompt.json").unlink()  # as PEFT writes it
    loaded = Prefix.load(tmp_path / "p")
    assert equal(loaded, prefix)
    assert loaded.base_model == {"name_or_path": "m/x"}
    with pytest.raises(ValueError, match=rf"peft_type '{peft_type}'.*Prefix\.load reads it"):
        SoftPrompt.load(tmp_path / "p")


def test_keys_of_the_configuration_are_those_of_peft(tmp_path):
    for kind, peft_type in (("prefix", "PREFIX_TUNING"), ("cartridge", "CARTRIDGE")):
        Prefix.load(GOLDEN / f"{kind}_llama").save(tmp_path, peft_type=peft_type)
        ours, theirs = (
            json.loads((folder / "adapter_config.json").read_text())
            for folder in (tmp_path, GOLDEN / f"{kind}_llama")
        )
        theirs.pop("init_weights", None)  # of a later PEFT, which fills in its default
        versions = ours.pop("peft_version"), theirs.pop("peft_version")
        assert versions[0] < versions[1]
        assert ours == theirs


def test_past_key_values_file(tmp_path, case):
    _, model = case
    prompt = SoftPrompt(cases.prompt(case[0], ROWS))
    path = prompt.export(tmp_path / "a" / "kv.safetensors", "past_key_values", model=model)
    tensors = load_file(path)
    config = model.config
    shape = (1, config.num_kv_heads, ROWS, config.head_dim)
    assert {array.shape for array in tensors.values()} == {shape}
    assert len(tensors) == 2 * config.num_layers
    assert equal(Prefix.load(path), model.prefix(prompt))
    assert describe(path)["kind"] == "prefix"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("past_key_values.1.value"), "no tensor 'past_key_values.1.value'"),
        (lambda t: t.update(other=np.ones(3, "f4")), "expected those or the folder"),
        (lambda t: t.clear(), "expected those or the folder"),
        (
            lambda t: t.update({"past_key_values.1.key": np.ones((1, 2, 3, 5), "f4")}),
            r"'past_key_values.1.key': shape \[1, 2, 3, 5\]",
        ),
        (
            lambda t: t.update({"past_key_values.0.key": np.ones((2, 2, 3, 4), "f4")}),
            r"shape \[2, 2, 3, 4\], expected \[1,",
        ),
        (
            lambda t: t.update({"past_key_values.0.key": np.ones((1, 2, 3, 4), "i4")}),
            "dtype I32, expected one of",
        ),
        (
            lambda t: t.update({"past_key_values.0.key": np.full((1, 2, 3, 4), np.nan, "f4")}),
            "keys: layer 0, virtual token 0 is not finite",
        ),
    ],
)
def test_bad_past_key_values(tmp_path, change, message):
    tensors = {
        f"past_key_values.{layer}.{kind}": RNG.normal(size=(1, 2, 3, 4)).astype("f4")
        for layer in range(2)
        for kind in ("key", "value")
    }
    change(tensors)
    path = tmp_path / "kv.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=message) as err:
        Prefix.load(path)
    assert str(path) in str(err.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type 'LORA', expected PREFIX_TUNING or CARTRIDGE"),
        ({"num_layers": None}, "num_layers is missing, expected an integer from 1"),
        ({"num_layers": 3}, r"shape \[3, 32\], expected \[3, 48\]"),
        ({"num_virtual_tokens": 4}, r"expected \[4, 32\]"),
        ({"token_dim": 9}, "token_dim 9 is no multiple of 2 heads"),
        ({"num_attention_heads": -1}, "num_attention_heads -1"),
        ({"num_attention_heads": 4}, r"describes \[3, 2, 2, 4\]"),
        ({"num_transformer_submodules": 2}, "for an encoder and a decoder"),
    ],
)
def test_bad_configurations(tmp_path, change, message):
    a_prefix().save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as err:
        Prefix.load(tmp_path)
    assert str(tmp_path) in str(err.value)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (np.ones((2, 3, 4)), ValueError, r"keys: shape \(2, 3, 4\), expected \[num_layers"),
        (np.ones((2, 0, 3, 4)), ValueError, "keys: shape"),
        (np.ones((2, 3, 2, 4), int), TypeError, "keys: dtype int64"),
        (np.full((2, 3, 2, 4), np.inf), ValueError, "keys: layer 0, virtual token 0 is not finite"),
        (np.full((2, 3, 2, 4), 1e300), ValueError, "not finite in float32"),
        (np.ones((1, 3, 2, 4)), ValueError, r"keys of shape \(1, 3, 2, 4\) and values of shape"),
    ],
)
def test_bad_arrays(keys, error, message):
    with pytest.raises(error, match=message):
        Prefix(keys, np.ones((2, 3, 2, 4)))


def test_arrays_are_copies_and_read_only():
    keys = np.ones((2, 3, 2, 4), "f4")
    prefix = Prefix(keys, keys)
    keys[:] = 5
    assert prefix.keys.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        prefix.keys[:] = 0
    with pytest.raises(ValueError, match="peft_type='LORA': expected one of PREFIX_TUNING"):
        prefix.save("nowhere", peft_type="LORA")


def test_every_truncation_and_a_flipped_bit(tmp_path):
    a_prefix(layers=1, tokens=1, heads=1).save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="adapter_model"):
            Prefix.load(tmp_path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged, or another program replaced it"):
        Prefix.load(tmp_path)


# ---- as a value ----


def test_from_what_is_trained():
    prefix = a_prefix(task={"a": 1})
    sizes = {"num_layers": 2, "num_kv_heads": 2}
    again = Prefix.from_flattened(prefix.flattened(), **sizes, task={"a": 1})
    assert again == prefix
    assert again != Prefix.from_flattened(prefix.flattened(), **sizes)
    assert again != a_prefix(seed=1, task={"a": 1})
    assert prefix != 5
    moved = prefix.flattened().astype(np.float64) + 1.0
    shifted = Prefix.from_flattened(moved, **sizes)
    np.testing.assert_allclose(shifted.keys, prefix.keys + 1, rtol=1e-6)
    assert shifted.keys.dtype == np.float32
    for bad, error, message in (
        (np.ones((3, 31)), ValueError, r"prefix: shape \(3, 31\), expected rows of num_layers"),
        (np.ones((2, 3, 32)), ValueError, "prefix: shape"),
        (np.ones((3, 32), int), TypeError, "prefix: dtype int64"),
        (np.full((3, 32), np.nan), ValueError, "prefix: row 0, column 0 is nan"),
    ):
        with pytest.raises(error, match=message):
            Prefix.from_flattened(bad, **sizes)
    with pytest.raises(ValueError, match="num_layers=0"):
        Prefix.from_flattened(np.ones((3, 32)), num_layers=0, num_kv_heads=2)


def test_pickling():
    prefix = a_prefix(base_model={"name_or_path": "m"})
    for copied in (pickle.loads(pickle.dumps(prefix)), copy.deepcopy(prefix)):
        assert copied == prefix
        assert not copied.keys.flags.writeable
        assert not copied.values.flags.writeable
    with pytest.raises(TypeError, match="unhashable"):
        hash(prefix)


def test_a_prefix_and_a_model(case):
    name, model = case
    prefix = model.prefix(cases.prompt(name, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prefix.check_model(model)
    other = Prefix(prefix.keys, prefix.values, base_model={"fingerprint": "0" * 64})
    with pytest.warns(PromptModelMismatchWarning, match="the prefix was made for another") as seen:
        other.check_model(model)
    assert seen[0].filename == __file__
    narrow = Prefix(prefix.keys[..., :1], prefix.values[..., :1])
    with pytest.raises(ValueError, match="'head_dim': 1}, expected the model's"):
        narrow.check_model(model)


def test_load_prompt_says_what_it_is(tmp_path):
    prefix, prompt = a_prefix(), SoftPrompt(np.ones((3, 4)))
    prefix.save(tmp_path / "prefix")
    prompt.save(tmp_path / "prompt")
    prefix.export(tmp_path / "kv" / "cache.safetensors", "past_key_values")
    prompt.export(tmp_path / "p.npy")
    for place in ("prefix", "prefix/adapter_model.safetensors", "prefix/softprompt.json"):
        assert load_prompt(tmp_path / place) == prefix
    assert equal(load_prompt(tmp_path / "kv" / "cache.safetensors"), prefix)
    for place in ("prompt", "prompt/adapter_model.safetensors", "p.npy"):
        assert np.array_equal(load_prompt(tmp_path / place).embeddings, prompt.embeddings)
    with pytest.raises(FileNotFoundError, match="no such soft prompt"):
        load_prompt(tmp_path / "nothing")


@pytest.mark.parametrize("to", ["peft", "prefix", "cartridge", "past_key_values"])
def test_export_of_a_prefix(tmp_path, to):
    prefix = a_prefix()
    assert prefix.export(tmp_path / "a" / "out", to) == tmp_path / "a" / "out"
    assert equal(Prefix.load(tmp_path / "a" / "out"), prefix)
    for wrong, message in (
        ("npy", "a form of prompts"),
        ("prompt_embeds", "a form of"),
        ("x", "expected one of peft"),
    ):
        with pytest.raises(ValueError, match=message):
            prefix.export(tmp_path / "b", wrong)
    assert not (tmp_path / "b").exists()


# ---- interrupted saves ----

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def loaded_quietly(folder: Path) -> Prefix | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return Prefix.load(folder)
        except FileNotFoundError:
            return None


@needs_fork
@pytest.mark.parametrize("earlier", [None, a_prefix(tokens=4, seed=1), a_prefix(seed=1)])
def test_killed_before_every_call(tmp_path, earlier):
    new, seen = a_prefix(), []
    for count in range(1, 200):
        folder = tmp_path / "p"
        shutil.rmtree(folder, ignore_errors=True)
        if earlier is not None:
            earlier.save(folder)
        killed = run_until(folder, new, stop_at("any", count))
        loaded = loaded_quietly(folder)
        if loaded is None:
            assert earlier is None
            seen.append(False)
        else:
            seen.append(equal(loaded, new))
            assert seen[-1] or equal(loaded, earlier)
        if not killed:
            break
        new.save(folder)
        assert equal(Prefix.load(folder), new)
        assert not [name for name in os.listdir(folder) if name.startswith(".")], "leftovers"
    assert not killed
    assert count > 15, "the calls of a save were not seen"
    assert seen == sorted(seen)
    assert seen[-1]


@needs_fork
def test_an_interrupted_save_is_a_warning(tmp_path):
    a_prefix(seed=1).save(tmp_path)
    assert run_until(tmp_path, a_prefix(), stop_at("replace", 5))
    with pytest.warns(UserWarning, match="the last save was interrupted") as caught:
        assert equal(Prefix.load(tmp_path), a_prefix())
    assert caught[0].filename == __file__


@needs_fork
def test_a_prefix_saved_over_a_prompt(tmp_path):
    """One folder, two kinds: whatever kills the save, it holds one of them whole."""
    prompt, prefix = SoftPrompt(np.ones((3, 4))), a_prefix()
    kinds = []
    for count in range(1, 200):
        shutil.rmtree(tmp_path / "p", ignore_errors=True)
        prompt.save(tmp_path / "p")
        killed = run_until(tmp_path / "p", prefix, stop_at("any", count))
        record = json.loads((tmp_path / "p" / "softprompt.json").read_text())
        if record["format"] == "softprompt":
            assert load_quietly(tmp_path / "p") == prompt
        else:
            assert equal(loaded_quietly(tmp_path / "p"), prefix)
        kinds.append(record["format"])
        if not killed:
            break
    assert set(kinds) == {"softprompt", "softprompt-prefix"}
    assert kinds == sorted(kinds)


# ---- export ----


def test_export_of_plain_files(tmp_path):
    prompt = SoftPrompt(RNG.normal(size=(3, 4)))
    assert prompt.export(tmp_path / "a" / "p.npy") == tmp_path / "a" / "p.npy"
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "p.npy"), prompt.embeddings)
    prompt.export(tmp_path / "e.safetensors", "prompt_embeds")
    stored = load_file(tmp_path / "e.safetensors")
    assert list(stored) == ["prompt_embeds"]
    np.testing.assert_array_equal(stored["prompt_embeds"], prompt.embeddings)
    prompt.export(tmp_path / "folder", "peft")
    for path in ("a/p.npy", "e.safetensors", "folder"):
        assert SoftPrompt.load(tmp_path / path) == prompt


def test_what_cannot_be_said_is_a_warning(tmp_path):
    prompt = SoftPrompt(np.ones((3, 4)), position="after_bos")
    for to in ("npy", "prompt_embeds"):
        with pytest.warns(UserWarning, match="stands after the beginning-of-text token") as caught:
            prompt.export(tmp_path / "p", to)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt.export(tmp_path / "folder", "peft")


def test_bad_exports(tmp_path, case):
    name, model = case
    prompt = SoftPrompt(cases.prompt(name, 2), base_model={"vocab_size": 5})
    with pytest.raises(ValueError, match="to='onnx': expected one of peft, npy"):
        prompt.export(tmp_path / "p", "onnx")
    with pytest.raises(TypeError, match="to='prefix': keys and values are a model's"):
        prompt.export(tmp_path / "p", "prefix")
    with pytest.raises(ValueError, match="the model's hidden_size is"):
        SoftPrompt(np.ones((2, 3))).export(tmp_path / "p", "cartridge", model=model)
    assert os.listdir(tmp_path) == []
    with pytest.warns(PromptModelMismatchWarning, match="vocab_size 5") as caught:
        prompt.export(tmp_path / "p", "prefix", model=model)
    assert caught[0].filename == __file__
    assert equal(Prefix.load(tmp_path / "p"), model.prefix(prompt))


@pytest.mark.parametrize("to", ["npy", "prompt_embeds"])
def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch, to):
    prompt = SoftPrompt(np.ones((3, 4)))
    prompt.export(tmp_path / "p", to)
    before = (tmp_path / "p").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        SoftPrompt(np.zeros((3, 4))).export(tmp_path / "p", to)
    assert os.listdir(tmp_path) == ["p"]
    assert (tmp_path / "p").read_bytes() == before
