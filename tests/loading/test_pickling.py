"""A model pickles as its origin; its weights are loaded once in a process."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import softprompt
from softprompt.model import load


@pytest.fixture
def folder(tmp_path):
    return tiny.write_tiny(tmp_path / "llama", "llama")


def test_a_pickle_holds_no_weights_and_gives_the_same_model(folder):
    model = softprompt.load_model(folder, num_threads=1)
    data = pickle.dumps(model)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert again.fingerprint == model.fingerprint
    assert again.num_threads == 1
    assert again.config == model.config
    np.testing.assert_array_equal(again.logits([[1, 2, 3]])[0], model.logits([[1, 2, 3]])[0])


def test_copies_are_the_model_itself(folder):
    model = softprompt.load_model(folder)
    assert copy.copy(model) is model
    assert copy.deepcopy([model])[0] is model


def test_weights_are_shared_while_somebody_holds_them(folder):
    gc.collect()
    before = len(load._loaded)
    model = softprompt.load_model(folder)
    models = [pickle.loads(pickle.dumps(model)) for _ in range(10)]
    assert len(load._loaded) == before + 1
    array = model.weights["layers.0.q.weight"]
    assert all(m.weights["layers.0.q.weight"] is array for m in models)
    del model, models, array
    gc.collect()
    assert len(load._loaded) == before


def test_a_relative_path_is_found_from_elsewhere(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    data = pickle.dumps(softprompt.load_model("llama"))
    monkeypatch.chdir(tmp_path.parent)
    assert pickle.loads(data).config.hidden_size == 24


def test_changed_weights_are_noticed(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    data = pickle.dumps(softprompt.load_model(folder))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float32(1.01)
    path.unlink()  # a mapped file is replaced, never written into
    save_file(tensors, path)
    with pytest.raises(RuntimeError, match="the weights changed since the model was pickled"):
        pickle.loads(data)


def test_a_model_that_is_gone(folder):
    data = pickle.dumps(softprompt.load_model(folder))
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(LookupError, match="no model"):
        pickle.loads(data)


class Upper:
    """A tokenizer that goes into the pickle."""

    def encode(self, text):
        return [ord(c) % 90 for c in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids)


def test_the_users_tokenizer_is_pickled_too(folder):
    model = softprompt.load_model(folder, tokenizer=Upper())
    again = pickle.loads(pickle.dumps(model))
    assert again.tokenizer.encode("abc") == model.tokenizer.encode("abc")
