"""Hugging Face folders: types, views, shards, and every way in which one can be wrong."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tiny
from reference.huggingface import read_folder
from safetensors.numpy import load_file, save_file

import softprompt
from softprompt.model import weights

IDS = [[1, 7, 30, 2, 55, 4, 19, 60]]


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def llama(tmp_path):
    return tiny.write_tiny(tmp_path / "llama", "llama")


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_weight_is_the_one_of_the_file(name, tmp_path, monkeypatch):
    # Panels of 50 numbers: no tensor of the tiny models fits into one.
    monkeypatch.setattr(weights, "PANEL", 50)
    folder = tiny.write_tiny(tmp_path, name)
    model = softprompt.load_model(folder)
    spec, slots = read_folder(folder)
    assert set(model.weights) == set(slots)
    for slot, expected in slots.items():
        got = model.weights[slot]
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        assert not got.flags.writeable
        # inv_freq: NumPy's float32 power is off by a unit in the last place, torch's is not.
        tolerance = 2e-7 if slot == "rope.inv_freq" else 0
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=0)
    assert {key: model.spec.engine_dict()[key] for key in spec} == pytest.approx(spec)


def test_float32_is_borrowed_from_the_mapped_file(llama):
    arrays = softprompt.load_model(llama).weights
    assert not arrays["layers.0.q.weight"].flags.owndata


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_are_converted(name, dtype, tmp_path):
    folder = tiny.write_tiny(tmp_path, name)
    tensors = load_file(folder / "model.safetensors")
    rounded = {key: array.astype(np.float16).astype(dtype) for key, array in tensors.items()}
    save_file(rounded, folder / "model.safetensors")
    got = softprompt.load_model(folder)
    save_file({k: v.astype(np.float32) for k, v in rounded.items()}, folder / "model.safetensors")
    expected = softprompt.load_model(folder)
    np.testing.assert_array_equal(got.logits(IDS)[0], expected.logits(IDS)[0])
    assert got.fingerprint == expected.fingerprint


def test_bfloat16(llama):
    path = llama / "model.safetensors"
    tensors = load_file(path)
    bits = {key: array.view(np.uint32) >> 16 for key, array in tensors.items()}
    save_file({key: value.astype(np.uint16) for key, value in bits.items()}, path)
    path.write_bytes(path.read_bytes().replace(b'"U16"', b'"BF16"', 200).replace(b"  ", b"  "))
    data = path.read_bytes()  # the header grew: write its length anew
    end = data.index(b"}}") + 2
    header = data[8:end] + b" " * (-(end - 8) % 8)
    payload = data[8 + int.from_bytes(data[:8], "little") + len(bits) :]
    path.write_bytes(len(header).to_bytes(8, "little") + header + payload)
    model = softprompt.load_model(llama)
    for slot, name in (("final_norm.weight", "model.norm.weight"),):
        expected = (bits[name].astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(model.weights[slot], expected)


def test_prefixes_may_be_missing(llama, tmp_path):
    expected = softprompt.load_model(llama).fingerprint
    path = llama / "model.safetensors"
    tensors = {key.removeprefix("model."): value for key, value in load_file(path).items()}
    save_file(tensors, path)
    assert softprompt.load_model(llama).fingerprint == expected
    save_file(tensors | {"model.norm.weight": tensors["norm.weight"]}, path)
    with pytest.raises(ValueError, match=r"both 'norm\.weight' and 'model\.norm\.weight'|both"):
        softprompt.load_model(llama)


def test_buffers_that_hold_no_weights_are_ignored(llama, tmp_path):
    for folder, extra in (
        (llama, {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}),
        (
            tiny.write_tiny(tmp_path / "gpt2", "gpt2"),
            {
                "transformer.h.0.attn.bias": np.ones((1, 1, 64, 64), np.bool_),
                "transformer.h.1.attn.masked_bias": np.full((), -1e4, np.float32),
            },
        ),
    ):
        expected = softprompt.load_model(folder).fingerprint
        path = folder / "model.safetensors"
        save_file(load_file(path) | extra, path)
        assert softprompt.load_model(folder).fingerprint == expected


def test_tied_and_separate_heads(llama):
    tied = softprompt.load_model(llama)
    path = llama / "model.safetensors"
    tensors = load_file(path)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding}, path)
    assert softprompt.load_model(llama).config.tie_word_embeddings
    assert softprompt.load_model(edit_config(llama, tie_word_embeddings=False)).spec.tied
    # A tied configuration with a head of its own: the head counts, as in transformers 5.
    save_file(tensors | {"lm_head.weight": 2 * embedding}, path)
    separate = softprompt.load_model(edit_config(llama, tie_word_embeddings=True))
    np.testing.assert_allclose(
        separate.logits(IDS)[0], 2 * tied.logits(IDS)[0], rtol=1e-5, atol=1e-5
    )
    # A tied configuration whose file has the head alone.
    del tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding}, path)
    assert softprompt.load_model(llama).fingerprint == tied.fingerprint
    save_file(load_file(path), path)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight' is missing"):
        softprompt.load_model(edit_config(llama, tie_word_embeddings=False))


def test_a_file_is_named_instead_of_its_folder(llama):
    model = softprompt.load_model(llama / "model.safetensors")
    assert model.fingerprint == softprompt.load_model(str(llama)).fingerprint


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "up_proj.weight' is missing"),
        (lambda t: t.update(more=np.ones(1, np.float32)), "'more' is unexpected"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(23, np.float32)}),
            r"'model\.norm\.weight' has shape \[23\], expected \[24\]",
        ),
        (
            lambda t: t["model.layers.2.mlp.down_proj.weight"].__setitem__((5, 7), np.nan),
            r"'model\.layers\.2\.mlp\.down_proj\.weight' holds nan \(at \[5, 7\]",
        ),
        (lambda t: t["model.norm.weight"].__setitem__(3, np.inf), r"holds inf \(at \[3\]"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(24, np.int32)}),
            "has type I32, expected F32",
        ),
    ],
)
def test_tensors_that_do_not_fit(llama, edit, message):
    tensors = load_file(llama / "model.safetensors")
    edit(tensors)
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        softprompt.load_model(llama)


class TestShards:
    @pytest.fixture
    def folder(self, llama):
        tensors = load_file(llama / "model.safetensors")
        os.remove(llama / "model.safetensors")
        weight_map = {}
        for i, name in enumerate(sorted(tensors)):
            file = f"model-0000{i % 3 + 1}-of-00003.safetensors"
            weight_map[name] = file
        for file in set(weight_map.values()):
            save_file({n: tensors[n] for n, f in weight_map.items() if f == file}, llama / file)
        self.weight_map = weight_map
        self.write(llama, weight_map)
        return llama

    def write(self, folder, weight_map):
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def test_is_the_same_model(self, folder, tmp_path):
        expected = softprompt.load_model(tiny.write_tiny(tmp_path / "whole", "llama"))
        assert softprompt.load_model(folder).fingerprint == expected.fingerprint

    @pytest.mark.parametrize(
        "file",
        [
            "../x.safetensors",
            "/etc/passwd",
            "a/b.safetensors",
            "a\\b.safetensors",
            "x.bin",
            "",
            "..",
            ".x.safetensors",
            3,
            None,
            ["model.safetensors"],
        ],
    )
    def test_names_that_lead_elsewhere(self, folder, file):
        self.write(folder, self.weight_map | {"model.norm.weight": file})
        with pytest.raises(ValueError, match=r"index\.json: tensor 'model\.norm\.weight' is in"):
            softprompt.load_model(folder)

    def test_missing_file(self, folder):
        os.remove(folder / "model-00002-of-00003.safetensors")
        with pytest.raises(ValueError, match=r"1 of 3 files are missing.*00002-of-00003"):
            softprompt.load_model(folder)

    def test_tensor_that_is_not_where_the_index_says(self, folder):
        other = {"model.norm.weight": "model-00001-of-00003.safetensors"}
        other["model.embed_tokens.weight"] = "model-00002-of-00003.safetensors"
        moved = {k: v for k, v in other.items() if self.weight_map[k] != v}
        self.write(folder, self.weight_map | moved)
        with pytest.raises(ValueError, match=r"index\.json: tensor .* is not in"):
            softprompt.load_model(folder)

    @pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 1}', "{"])
    def test_index_that_is_none(self, folder, text):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index\.json"):
            softprompt.load_model(folder)


class TestFoldersWithoutAModel:
    def test_no_config(self, llama):
        os.remove(llama / "config.json")
        with pytest.raises(ValueError, match=r"no config\.json"):
            softprompt.load_model(llama)

    def test_pickles_only(self, llama):
        os.rename(llama / "model.safetensors", llama / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"pytorch_model\.bin.*never read.*save_pretrained"):
            softprompt.load_model(llama)

    def test_a_pickle_is_named(self, tmp_path):
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(ValueError, match="Pickles are never read"):
            softprompt.load_model(tmp_path / "pytorch_model.bin")

    def test_no_weights(self, llama):
        os.remove(llama / "model.safetensors")
        with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
            softprompt.load_model(llama)

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": 3}', "[" * 5000])
    def test_config_that_is_none(self, llama, text):
        (llama / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            softprompt.load_model(llama)

    def test_truncated_weights(self, llama):
        path = llama / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match="truncated"):
            softprompt.load_model(llama)

    def test_sizes_beyond_the_file_allocate_nothing(self, llama):
        edit_config(llama, vocab_size=2**31 - 1, hidden_size=2**30, head_dim=2**24)
        with pytest.raises(ValueError, match="has shape"):
            softprompt.load_model(llama)


def test_weights_option(llama):
    with pytest.raises(ValueError, match="weights is 'int3', expected one of stored, float32"):
        softprompt.load_model(llama, weights="int3")


def test_ids_of_the_configuration(llama):
    edit_config(llama, bos_token_id=3, eos_token_id=[5, 6, 5000], pad_token_id=-1)
    config = softprompt.load_model(llama).config
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (3, (5, 6), None)
    (llama / "generation_config.json").write_text('{"eos_token_id": 9, "bos_token_id": null}')
    config = softprompt.load_model(llama).config
    assert (config.bos_token_id, config.eos_token_ids) == (3, (9,))
    (llama / "generation_config.json").write_text("[]")
    with pytest.raises(ValueError, match="generation_config"):
        softprompt.load_model(llama)
