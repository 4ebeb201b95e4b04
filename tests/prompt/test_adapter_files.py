import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from softprompt.prompt import SoftPrompt

RNG = np.random.default_rng(9)
NAMES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "softprompt.json"}
CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
RECORD = "softprompt.json"


def a_prompt(rows=3, width=4, **more):
    records = {
        "position": "after_bos",
        "task": {"kind": "classification", "labels": [[0, " neg"], [1, " pos ü"]]},
        "training": {"seed": 1, "scores": [0.5, None]},
        "base_model": {"name_or_path": "m/x", "num_layers": 2, "num_attention_heads": 3},
    }
    return SoftPrompt(RNG.normal(size=(rows, width)), **{**records, **more})


def edit(path, **changes):
    value = json.loads(path.read_text())
    for key, item in changes.items():
        if item is ...:
            del value[key]
        else:
            value[key] = item
    path.write_text(json.dumps(value))


def peft_folder(folder, tensors=None, **config):
    """Write a folder as PEFT does, without softprompt.json."""
    folder.mkdir()
    tensors = {"prompt_embeddings": np.ones((3, 4), "f4")} if tensors is None else tensors
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    full = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": 3,
        "token_dim": 4,
        "num_transformer_submodules": 1,
        "base_model_name_or_path": "gpt2",
        "num_layers": 12,
        "prompt_tuning_init": "RANDOM",
        "a_key_of_a_later_version": {"x": 1},
        **config,
    }
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in full.items() if v is not ...}))
    return folder


def test_round_trip_creates_the_folder(tmp_path):
    prompt = a_prompt()
    folder = tmp_path / "a" / "b ü"
    assert prompt.save(folder) == folder
    assert set(os.listdir(folder)) == NAMES
    assert SoftPrompt.load(folder) == prompt
    assert SoftPrompt.load(str(folder)) == prompt
    for name in (CONFIG, TENSORS, RECORD):
        assert SoftPrompt.load(folder / name) == prompt


def test_saving_again_replaces_and_the_same_prompt_gives_the_same_bytes(tmp_path):
    first, second = a_prompt(), a_prompt(rows=5, position="start", task=None)
    first.save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}
    second.save(tmp_path)
    assert SoftPrompt.load(tmp_path) == second
    first.save(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == before
    assert set(os.listdir(tmp_path)) == NAMES


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    ),
    st.integers(1, 4),
)
def test_round_trip_of_any_record(tmp_path, record, rows):
    prompt = SoftPrompt(RNG.normal(size=(rows, 2)), task=record, training=record, base_model=record)
    prompt.save(tmp_path / "p")
    assert SoftPrompt.load(tmp_path / "p") == prompt


def test_bytes_are_those_that_peft_writes(tmp_path):
    prompt = a_prompt()
    prompt.save(tmp_path)
    tensors = {"prompt_embeddings": np.array(prompt.embeddings)}
    assert (tmp_path / TENSORS).read_bytes() == save(tensors, metadata={"format": "pt"})
    text = (tmp_path / CONFIG).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True)
    assert json.loads(text) == {
        "auto_mapping": None,
        "base_model_name_or_path": "m/x",
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": 3,
        "num_layers": 2,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": 3,
        "peft_type": "PROMPT_TUNING",
        "peft_version": "0.18.0",
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": "CAUSAL_LM",
        "token_dim": 4,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [(None, ("RANDOM", None, None)), ("gpt2", ("TEXT", "Is it good?", "gpt2"))],
)
def test_a_text_start_is_recorded_only_with_its_tokenizer(tmp_path, tokenizer, expected):
    a_prompt(
        training={"init": {"text": "Is it good?"}},
        base_model={"tokenizer_name_or_path": tokenizer},
    ).save(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    keys = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path")
    assert tuple(config[key] for key in keys) == expected


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_the_umask(tmp_path, umask):
    previous = os.umask(umask)
    try:
        a_prompt().save(tmp_path / "p")
    finally:
        os.umask(previous)
    for name in NAMES:
        assert stat.S_IMODE((tmp_path / "p" / name).stat().st_mode) == 0o666 & ~umask


def test_other_files_and_a_readme_of_somebody_else_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "README.md").write_text("mine too")
    prompt = a_prompt()
    prompt.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "README.md").read_text() == "mine too"
    assert SoftPrompt.load(tmp_path) == prompt


def test_the_model_card_warns_of_the_position(tmp_path):
    a_prompt(task={"template": "`a` {x}\n\ud800"}).save(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "PEFT gives other results" in card
    a_prompt(position="start").save(tmp_path)
    assert "other results" not in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "p").write_text("x")
    with pytest.raises(FileExistsError):
        a_prompt().save(tmp_path / "p")


# What PEFT writes


def test_a_folder_of_peft(tmp_path):
    prompt = SoftPrompt.load(peft_folder(tmp_path / "p"))
    np.testing.assert_array_equal(prompt.embeddings, np.ones((3, 4)))
    assert prompt.position == "start"
    assert prompt.task is prompt.training is None
    assert prompt.base_model == {
        "name_or_path": "gpt2",
        "hidden_size": 4,
        "num_layers": 12,
        "task_type": "CAUSAL_LM",
    }


@pytest.mark.parametrize(
    ("submodules", "task_type", "rows"),
    [
        (2, "SEQ_2_SEQ_LM", 6),
        (None, "SEQ_2_SEQ_LM", 6),
        (..., "SEQ_2_SEQ_LM", 3),
        (1, "SEQ_2_SEQ_LM", 3),
        (..., ..., 3),
    ],
)
def test_encoder_rows_are_the_first(tmp_path, submodules, task_type, rows):
    values = np.arange(rows * 4, dtype="f4").reshape(rows, 4)
    folder = peft_folder(
        tmp_path / "p",
        {"prompt_embeddings": values},
        num_transformer_submodules=submodules,
        task_type=task_type,
    )
    prompt = SoftPrompt.load(folder)
    np.testing.assert_array_equal(prompt.embeddings, values[:3])
    prompt.save(tmp_path / "again")
    config = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert config["task_type"] == ("CAUSAL_LM" if task_type is ... else task_type)
    assert SoftPrompt.load(tmp_path / "again") == prompt


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_other_floating_types(tmp_path, dtype):
    values = RNG.normal(size=(3, 4)).astype(dtype)
    prompt = SoftPrompt.load(peft_folder(tmp_path / "p", {"prompt_embeddings": values}))
    np.testing.assert_array_equal(prompt.embeddings, values.astype("f4"))


def bare(dtype, shape, data, padding=0):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    text = json.dumps({"prompt_embeddings": entry}).encode() + b" " * padding
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("padding", range(4))
def test_bfloat16_and_unaligned_data(tmp_path, padding):
    values = RNG.normal(size=(3, 4)).astype("f4")
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    (tmp_path / "p.safetensors").write_bytes(bare("BF16", [3, 4], upper.tobytes(), padding))
    expected = (values.view(np.uint32) & 0xFFFF0000).view("f4")
    loaded = SoftPrompt.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(loaded.embeddings, expected)
    (tmp_path / "p.safetensors").write_bytes(bare("F32", [3, 4], values.tobytes(), padding))
    loaded = SoftPrompt.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(loaded.embeddings, values)


# Bad folders


def test_missing_things(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such soft prompt"):
        SoftPrompt.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json; expected a saved"):
        SoftPrompt.load(tmp_path)
    peft_folder(tmp_path / "task_a")
    with pytest.raises(FileNotFoundError, match="but there is one in 'task_a'"):
        SoftPrompt.load(tmp_path)
    (tmp_path / "task_a" / TENSORS).unlink()
    with pytest.raises(FileNotFoundError, match=r"without adapter_model\.safetensors"):
        SoftPrompt.load(tmp_path / "task_a")


@pytest.mark.parametrize("place", ["folder", "adapter_model.bin", "other.pt"])
def test_other_pickles_are_refused_unread(tmp_path, place):
    folder = peft_folder(tmp_path / "p")
    (folder / TENSORS).unlink()
    for name in ("adapter_model.bin", "other.pt"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
    path = folder if place == "folder" else folder / place
    with pytest.raises(ValueError, match=r"expected a file of torch\.save; other pickles are not"):
        SoftPrompt.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type 'LORA', expected 'PROMPT_TUNING'"),
        ({"peft_type": ...}, "peft_type None"),
        ({"peft_type": ["PROMPT_TUNING"]}, "peft_type"),
        ({"num_virtual_tokens": 4}, r"shape \[3, 4\], expected 4 rows: .*num_virtual_tokens = 4"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens 0, expected an integer from 1"),
        ({"num_virtual_tokens": -3}, "num_virtual_tokens -3"),
        ({"num_virtual_tokens": 3.0}, "num_virtual_tokens 3.0"),
        ({"num_virtual_tokens": True}, "num_virtual_tokens True"),
        ({"num_virtual_tokens": "3"}, "num_virtual_tokens '3'"),
        ({"num_virtual_tokens": 10**60}, "num_virtual_tokens of 200 bits"),
        ({"num_virtual_tokens": ...}, "num_virtual_tokens is missing"),
        ({"token_dim": 5}, r"shape \[3, 4\], expected 5 columns: .*token_dim = 5"),
        ({"token_dim": -1}, "token_dim -1"),
        ({"num_transformer_submodules": 2}, "expected 6 rows"),
        ({"num_transformer_submodules": 3}, "num_transformer_submodules 3, expected"),
        ({"task_type": "DANCE"}, "task_type 'DANCE', expected one of CAUSAL_LM"),
        ({"task_type": {}}, "task_type"),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_bad_configurations(tmp_path, changes, message, ours):
    if ours:
        a_prompt().save(tmp_path / "p")
    else:
        peft_folder(tmp_path / "p")
    edit(tmp_path / "p" / CONFIG, **changes)
    with pytest.raises(ValueError, match=message) as err:
        SoftPrompt.load(tmp_path / "p")
    assert CONFIG in str(err.value) or TENSORS in str(err.value)


@pytest.mark.parametrize("name", [CONFIG, RECORD])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", "expected"),
        (b"null", "expected"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"peft_type": 1, "peft_type": 2}', "occurs twice"),
        (b"[" + b" " * 20_000_000 + b"]", "bytes of JSON"),
    ],
)
def test_hostile_json(tmp_path, name, content, message):
    a_prompt().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as err:
        SoftPrompt.load(tmp_path)
    assert name in str(err.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format"),
        ({"format_version": 2}, "format_version 2, this softprompt reads 1; a newer"),
        ({"position": "end"}, "position is 'end'"),
        ({"position": ["start"]}, "position"),
        ({"save_id": "../../../etc/passwd"}, "save_id"),
        ({"save_id": ...}, "save_id is 'None'"),
        ({"tensor_sha256": "0" * 63}, "tensor_sha256"),
        ({"tensor_sha256": "0" * 64}, "damaged, or another program replaced it"),
        ({"num_virtual_tokens": 2}, r"describes \[2, 4\]"),
        ({"hidden_size": "4"}, "hidden_size"),
        ({"task": []}, "task"),
        ({"base_model": "m"}, "base_model"),
    ],
)
def test_bad_records(tmp_path, changes, message):
    a_prompt().save(tmp_path)
    edit(tmp_path / RECORD, **changes)
    with pytest.raises(ValueError, match=message) as err:
        SoftPrompt.load(tmp_path)
    assert str(tmp_path) in str(err.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no tensor 'prompt_embeddings'.*it has: none"),
        ({"lora_A": np.ones((3, 4), "f4")}, "it has: lora_A"),
        (
            {"prompt_embeddings": np.ones((3, 4), "f4"), "base_model.score.weight": np.ones(2)},
            "also holds base_model.score.weight",
        ),
        ({"prompt_embeddings": np.ones(12, "f4")}, r"shape \[12\], expected \[num_virtual"),
        ({"prompt_embeddings": np.ones((1, 3, 4), "f4")}, r"shape \[1, 3, 4\]"),
        ({"prompt_embeddings": np.ones((0, 4), "f4")}, r"shape \[0, 4\]"),
        ({"prompt_embeddings": np.ones((3, 4), "i4")}, "dtype I32, expected one of F32"),
        ({"prompt_embeddings": np.full((3, 4), np.nan, "f4")}, "row 0, column 0 is nan"),
        ({"prompt_embeddings": np.full((3, 4), 1e300)}, r"row 0, column 0 is 1e\+300"),
    ],
)
def test_bad_tensors(tmp_path, tensors, message):
    folder = peft_folder(tmp_path / "p", tensors)
    for path in (folder, folder / TENSORS):
        with pytest.raises(ValueError, match=message) as err:
            SoftPrompt.load(path)
        assert TENSORS in str(err.value)


def test_an_absurd_size_is_refused_before_it_is_read(tmp_path):
    text = json.dumps(
        {
            "prompt_embeddings": {
                "dtype": "F32",
                "shape": [2**20, 2**12],
                "data_offsets": [0, 2**34],
            }
        }
    ).encode()
    folder = peft_folder(tmp_path / "p")
    with open(folder / TENSORS, "wb") as file:  # Sparse: it takes no room.
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2**34)
    with pytest.raises(ValueError, match="expected at most 268435456 values"):
        SoftPrompt.load(folder)


def test_every_truncation_of_the_tensor_file_is_refused(tmp_path):
    a_prompt().save(tmp_path)
    data = (tmp_path / TENSORS).read_bytes()
    for length in range(0, len(data), 3):
        (tmp_path / TENSORS).write_bytes(data[:length])
        with pytest.raises(ValueError, match="adapter_model"):
            SoftPrompt.load(tmp_path)


def test_a_flipped_bit_is_noticed(tmp_path):
    a_prompt().save(tmp_path)
    data = bytearray((tmp_path / TENSORS).read_bytes())
    data[-5] ^= 1
    (tmp_path / TENSORS).write_bytes(data)
    with pytest.raises(ValueError, match="is damaged, or another program replaced it"):
        SoftPrompt.load(tmp_path)
    # The way out that the message names.
    (tmp_path / RECORD).unlink()
    assert SoftPrompt.load(tmp_path).position == "start"
    assert load_file(tmp_path / TENSORS)["prompt_embeddings"].shape == (3, 4)
