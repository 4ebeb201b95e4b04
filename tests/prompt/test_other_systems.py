"""Prompts from files of other systems (tests/golden/prompts), and from folders that lie."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from formats.hostile import ALLOWED, bounded_memory, mutations
from golden import cases
from safetensors.numpy import save_file

from softprompt.prompt import SoftPrompt, describe, is_prompt
from softprompt.prompt.load import load_prompt_file

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
VALUES = cases.prompt("gpt2", 3)


@pytest.mark.parametrize(
    ("file", "kind", "tensor", "dtype"),
    [
        ("peft_bin", "peft", "prompt_embeddings", "F32"),
        ("peft_bin/adapter_model.bin", "peft", "prompt_embeddings", "F32"),
        ("peft_bin/adapter_config.json", "peft", "prompt_embeddings", "F32"),
        ("zip.pt", "torch", "prompt_embeddings", "F32"),
        ("legacy.pt", "torch", "tensor", "F32"),
        ("parameter.pt", "torch", "tensor", "F32"),
        ("legacy_parameter.pt", "torch", "prompt_embeddings", "F32"),
        ("transposed.pt", "torch", "tensor", "F32"),
        ("strided.pt", "torch", "tensor", "F32"),
        ("float64.pt", "torch", "tensor", "F64"),
        ("state_dict.pt", "torch", "prompt_embedding.weight", "F32"),
        ("prompt.npy", "npy", "array", "F32"),
        ("fortran.npy", "npy", "array", "F32"),
        ("big_endian.npy", "npy", "array", "F64"),
        ("prompt.npz", "npz", "prompt_embeddings", "F32"),
        ("compressed.npz", "npz", "arr_0", "F32"),
        ("t5x", "t5x", "array", "F32"),
        ("t5x/encoder.prompt.prompt.prompt", "t5x", "array", "F32"),
        ("ruprompts", "ruprompts", "tensor", "F32"),
        ("ruprompts/prompt_provider.bin", "torch", "tensor", "F32"),
        (
            "adapters",
            "adapters",
            "transformer.prompt_tuning.prompt_tunings.mood.prompt_embedding.weight",
            "F32",
        ),
        (
            "adapters_bin",
            "adapters",
            "transformer.prompt_tuning.prompt_tunings.mood.prompt_embedding.weight",
            "F32",
        ),
        ("openprompt.ckpt", "openprompt", "state_dict.template.soft_embeds", "F32"),
        ("tgis", "tgis", "tensor", "F32"),
        ("tgis/decoder.pt", "torch", "tensor", "F32"),
    ],
)
def test_every_kind_is_recognised(file, kind, tensor, dtype):
    assert is_prompt(GOLDEN / file)
    found = load_prompt_file(GOLDEN / file, SoftPrompt)
    assert (found.kind, found.tensor, found.dtype, found.shape) == (kind, tensor, dtype, (3, 20))
    np.testing.assert_array_equal(found.prompt.embeddings, VALUES)
    assert SoftPrompt.load(str(GOLDEN / file)) == found.prompt


@pytest.mark.parametrize(("file", "bits"), [("bfloat16.pt", 8), ("float16.pt", 11)])
def test_rounded_types(file, bits):
    loaded = SoftPrompt.load(GOLDEN / file).embeddings
    np.testing.assert_allclose(loaded, VALUES, rtol=2.0**-bits)  # half a unit of so many bits


def test_what_files_say_besides():
    adapters = SoftPrompt.load(GOLDEN / "adapters")
    assert adapters.position == "after_bos"
    assert adapters.base_model == {"name_or_path": "gpt2", "family": "gpt2"}
    ruprompts = SoftPrompt.load(GOLDEN / "ruprompts")
    assert ruprompts.task == {"template": "{text} ="}
    assert ruprompts.base_model == {"name_or_path": "some/model"}
    peft = SoftPrompt.load(GOLDEN / "peft_bin")
    assert peft.base_model["name_or_path"] == "tiny"
    assert SoftPrompt.load(GOLDEN / "tgis").base_model is None


@pytest.mark.parametrize("name", ["prompt_embeddings", "prompt_embeds", "anything"])
def test_a_bare_safetensors_tensor(tmp_path, name):
    save_file({name: VALUES}, tmp_path / "p.safetensors")
    assert load_prompt_file(tmp_path / "p.safetensors", SoftPrompt).tensor == name
    np.testing.assert_array_equal(SoftPrompt.load(tmp_path / "p.safetensors").embeddings, VALUES)


def test_a_name_chooses_among_several(tmp_path):
    save_file(
        {"model.prompt_embeds": VALUES, "step": np.ones(1), "other": np.ones((2, 2))},
        tmp_path / "p.safetensors",
    )
    np.testing.assert_array_equal(SoftPrompt.load(tmp_path / "p.safetensors").embeddings, VALUES)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": VALUES, "b": VALUES}, r"2 tensors could be the prompt \(a, b\), expected one alone"),
        ({"a.prompt_embeds": VALUES, "b.prompt_embeds": VALUES, "c": VALUES}, "2 tensors could be"),
        ({"my_prompt_embeds": VALUES, "b": VALUES}, "2 tensors could be"),
        ({"a": VALUES[None]}, r"tensor 'a': shape \[1, 3, 20\], expected \[num_virtual_tokens"),
        ({"a": VALUES.astype("i4")}, "tensor 'a': dtype I32, expected one of F32"),
        ({}, r"0 tensors could be the prompt \(none\)"),
    ],
)
def test_tensors_that_are_no_prompt(tmp_path, tensors, message):
    path = tmp_path / "p.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=message) as err:
        SoftPrompt.load(path)
    assert str(path) in str(err.value)


@pytest.mark.parametrize("suffix", ["bin", "pt", "ckpt", "anything"])
def test_a_pickle_with_code_is_refused_by_its_name(tmp_path, suffix):
    data = (GOLDEN / "legacy.pt").read_bytes()
    spoiled = data.replace(b"ctorch._utils\n_rebuild_tensor_v2", b"cos\nsystem".ljust(33), 1)
    (tmp_path / f"p.{suffix}").write_bytes(spoiled)
    with pytest.raises(ValueError, match=rf"p\.{suffix}: pickle: asks for 'os\.system *'"):
        SoftPrompt.load(tmp_path / f"p.{suffix}")


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["format"].update(template="{text}"), "do not all stand in front"),
        (lambda v: v["format"].update(template="<P>{text}<P*2>"), "do not all stand in front"),
        (lambda v: v["format"].update(template=5), "format.template is no text"),
        (lambda v: v.pop("format"), "format is no object"),
        (lambda v: v.update(config=[]), "config is no object"),
        (lambda v: v["config"].update(prompt_length=4), r"shape \[3, 20\], expected \(4, 20\)"),
        (lambda v: v["config"].update(embedding_dim="20"), r"shape \[3, 20\]"),
    ],
)
def test_bad_folders_of_ruprompts(tmp_path, change, message):
    folder = copy("ruprompts", tmp_path)
    edit(folder / "prompt.json", change)
    with pytest.raises(ValueError, match=message) as err:
        SoftPrompt.load(folder)
    assert str(folder) in str(err.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["config"].update(architecture="lora"), "'lora', expected 'prompt_tuning'"),
        (lambda v: v["config"].update(combine="middle"), "combine 'middle', expected one of"),
        (lambda v: v["config"].update(prompt_length=30), r"shape \[3, 20\], expected \(30"),
        (lambda v: v.update(config="x"), "config is no object"),
        (lambda v: v.pop("config"), "peft_type None"),
    ],
)
def test_bad_folders_of_adapters(tmp_path, change, message):
    folder = copy("adapters", tmp_path)
    edit(folder / "adapter_config.json", change)
    with pytest.raises(ValueError, match=message) as err:
        SoftPrompt.load(folder)
    assert str(folder) in str(err.value)


def test_missing_files(tmp_path):
    folder = copy("adapters", tmp_path)
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"without adapter\.safetensors or pytorch_adapter"):
        SoftPrompt.load(folder)
    folder = copy("peft_bin", tmp_path)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"without adapter_model\.safetensors"):
        SoftPrompt.load(folder)
    assert not is_prompt(tmp_path)


def test_encoder_and_decoder(tmp_path):
    for name, file in (("tgis", "encoder.pt"), ("t5x", "decoder.prompt.prompt.prompt")):
        folder = copy(name, tmp_path)
        (present,) = folder.iterdir()
        shutil.copy(present, folder / file)
        with pytest.raises(ValueError, match="for the encoder and the decoder, expected one"):
            SoftPrompt.load(folder)
        assert SoftPrompt.load(folder / file).num_virtual_tokens == 3


def test_steps_of_t5x_are_pointed_at(tmp_path):
    for step in (900, 1000, 50):
        shutil.copytree(GOLDEN / "t5x", tmp_path / "numpy_checkpoints" / f"checkpoint_{step}")
    with pytest.raises(FileNotFoundError, match=r"_50', .*_900', .*_1000': load one of them"):
        SoftPrompt.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'checkpoint_1000': load one of them"):
        SoftPrompt.load(tmp_path / "numpy_checkpoints")
    assert SoftPrompt.load(tmp_path / "numpy_checkpoints" / "checkpoint_50").hidden_size == 20


def test_the_rows_of_an_encoder_in_a_bin(tmp_path):
    """Both ways in take PEFT's encoder rows: the folder, and its tensor file by name."""
    folder = copy("peft_bin", tmp_path)
    edit(
        folder / "adapter_config.json",
        lambda v: v.update(num_virtual_tokens=2, num_transformer_submodules=2),
    )
    with pytest.raises(ValueError, match="expected 4 rows"):
        SoftPrompt.load(folder / "adapter_model.bin")


FILES = sorted(p for p in GOLDEN.rglob("*") if p.is_file() and p.suffix != ".py")


@pytest.mark.parametrize("source", FILES, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_mutations_of_every_file(tmp_path, source):
    """A prompt, or an error that names the place: nothing else, and no memory beyond the file's."""
    folder = tmp_path / "p"
    if source.parent == GOLDEN:
        folder.mkdir()
    else:
        shutil.copytree(source.parent, folder)
    data = source.read_bytes()
    for changed in mutations(data, 20, head=len(data)):
        (folder / source.name).write_bytes(changed)
        message = None
        with bounded_memory(2**25):
            try:
                describe(folder / source.name if source.parent == GOLDEN else folder)
            except ALLOWED as err:
                message = str(err)
        assert message is None or str(folder) in message


def test_descriptions():
    about = describe(GOLDEN / "float64.pt")
    norms = np.linalg.norm(VALUES.astype("f8"), axis=1)
    assert about["kind"] == "torch"
    assert (about["dtype"], about["shape"]) == ("F64", [3, 20])
    # float64 sums of 20 terms
    assert about["norms"] == pytest.approx(
        {"min": norms.min(), "mean": norms.mean(), "max": norms.max()}, rel=1e-12
    )
    assert about["rms"] == pytest.approx(np.sqrt(np.square(VALUES.astype("f8")).mean()), rel=1e-12)
    assert json.loads(json.dumps(describe(GOLDEN / "adapters")))["position"] == "after_bos"
