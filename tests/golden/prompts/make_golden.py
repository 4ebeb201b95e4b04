"""Make the files of other systems: ``python tests/golden/prompts/make_golden.py``, with torch,
transformers 5 and peft 0.21.

PEFT's folders are PEFT's own. ruPrompts, adapters, OpenPrompt and TGIS are not installed beside
current torch: their folders are made by `torch.save` (or the safetensors library) in the layouts
that their sources write (ruPrompts `Prompt.save_pretrained`, adapters' loaders and
`PromptTuning.prompt_embedding`, OpenPrompt's trainer and `SoftTemplate`, TGIS' `prompt_cache.py`).
The numbers are those of `golden.cases.prompt`, so that the files hold answers only.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import peft
import torch
from safetensors.torch import save_file

TESTS = Path(__file__).resolve().parents[2]
sys.path.append(str(TESTS))

import tiny  # noqa: E402
from golden import cases  # noqa: E402
from parity import oracle  # noqa: E402

FOLDER = Path(__file__).parent
ROWS = 3
PREFIX_ROWS = 5


def prompt() -> torch.Tensor:
    """The prompt `[3, 20]` float32 of all files."""
    return torch.tensor(cases.prompt("gpt2", ROWS))


def folder(name: str) -> Path:
    """An empty folder of that name here."""
    path = FOLDER / name
    path.mkdir(exist_ok=True)
    for file in path.iterdir():
        file.unlink()
    return path


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")


def plain_files() -> None:
    """torch's and NumPy's files: layouts, types, strides, parameters, whole states."""
    values = prompt()
    torch.save({"prompt_embeddings": values}, FOLDER / "zip.pt")
    torch.save(values, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Parameter(values), FOLDER / "parameter.pt")
    torch.save(
        {"prompt_embeddings": torch.nn.Parameter(values)},
        FOLDER / "legacy_parameter.pt",
        _use_new_zipfile_serialization=False,
    )
    torch.save(values.T.contiguous().T, FOLDER / "transposed.pt")
    padded = torch.zeros(2 * ROWS, values.shape[1] + 2)
    padded[1::2, 2:] = values
    torch.save(padded[1::2, 2:], FOLDER / "strided.pt")
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        torch.save(values.to(dtype), FOLDER / f"{str(dtype).removeprefix('torch.')}.pt")
    module = torch.nn.Module()
    module.prompt_embedding = torch.nn.Embedding.from_pretrained(values)
    module.register_buffer("position_ids", torch.arange(4))
    torch.save(module.state_dict(), FOLDER / "state_dict.pt")

    np.save(FOLDER / "prompt.npy", values.numpy())
    np.save(FOLDER / "fortran.npy", np.asfortranarray(values.numpy()))
    np.save(FOLDER / "big_endian.npy", values.numpy().astype(">f8"))
    np.savez(FOLDER / "prompt.npz", prompt_embeddings=values.numpy(), loss=np.arange(3.0))
    np.savez_compressed(FOLDER / "compressed.npz", values.numpy())


def peft_folders() -> None:
    """A prompt as `.bin`; prefixes from the cache that transformers makes of a prompt."""
    with tempfile.TemporaryDirectory() as temporary:
        model_folder = tiny.write_tiny(Path(temporary), "gpt2", seed=cases.SEED)
        tuned = oracle.add_prompt(oracle.load(model_folder), cases.prompt("gpt2", ROWS))
        tuned.save_pretrained(folder("peft_bin"), safe_serialization=False)
    for name in tiny.CONFIGS:
        for peft_type, config in (
            ("prefix", peft.PrefixTuningConfig),
            ("cartridge", peft.CartridgeConfig),
        ):
            with tempfile.TemporaryDirectory() as temporary:
                model_folder = tiny.write_tiny(Path(temporary), name, seed=cases.SEED)
                model = oracle.load(model_folder, exact=True)
                embeds = torch.tensor(cases.prompt(name, PREFIX_ROWS)[None], dtype=model.dtype)
                with torch.no_grad():
                    cache = model(inputs_embeds=embeds, use_cache=True).past_key_values
                layers = [(layer.keys, layer.values) for layer in cache.layers]
                tuned = peft.get_peft_model(
                    model, config(task_type="CAUSAL_LM", num_virtual_tokens=PREFIX_ROWS)
                )
                tuned.float()
                peft.tuners.cartridge.utils.initialize_kv_prefix_from_past_key_values(
                    tuned, past_key_values=layers
                )
                tuned.save_pretrained(folder(f"{peft_type}_{name}"))
    for config in FOLDER.glob("*/adapter_config.json"):  # no names of temporary folders
        text = json.loads(config.read_text(encoding="utf-8"))
        if text.get("base_model_name_or_path"):
            write_json(config, text | {"base_model_name_or_path": "tiny"})
        (config.parent / "README.md").unlink(missing_ok=True)


def other_systems() -> None:
    """Folders and files in the layouts of other systems."""
    values = prompt()
    place = folder("ruprompts")
    torch.save(values, place / "prompt_provider.bin")
    write_json(
        place / "prompt.json",
        {
            "format": {"template": "<P*2><P>{text} =", "compiled_template": "<P><P><P>{text} ="},
            "config": {
                "embedding_dim": values.shape[1],
                "prompt_length": ROWS,
                "pretrained_model_name": "some/model",
                "is_safe": False,
            },
        },
    )
    adapter = {
        "config": {
            "architecture": "prompt_tuning",
            "combine": "prefix_after_bos",
            "prompt_init": "random_uniform",
            "prompt_init_text": None,
            "prompt_length": ROWS,
            "random_uniform_scale": 0.5,
        },
        "hidden_size": values.shape[1],
        "model_class": "GPT2AdapterModel",
        "model_name": "gpt2",
        "model_type": "gpt2",
        "name": "mood",
        "version": "adapters.1.2.0",
    }
    state = {"transformer.prompt_tuning.prompt_tunings.mood.prompt_embedding.weight": values}
    place = folder("adapters_bin")
    write_json(place / "adapter_config.json", adapter)
    torch.save(OrderedDict(state), place / "pytorch_adapter.bin")
    place = folder("adapters")
    write_json(place / "adapter_config.json", adapter)
    save_file(state, place / "adapter.safetensors")
    torch.save(
        {
            "epoch": 3,
            "global_step": 120,
            "best_score": 0.75,
            "state_dict": {
                "template": OrderedDict({"soft_embeds": torch.nn.Parameter(values)}),
                "verbalizer": OrderedDict({"label_words_ids": torch.arange(4).reshape(2, 2)}),
            },
            "optimizer": [{"state": {0: {"step": 120}}, "param_groups": [{"lr": 0.3}]}],
        },
        FOLDER / "openprompt.ckpt",
    )
    torch.save(values, folder("tgis") / "decoder.pt")
    place = folder("t5x")
    with (place / "encoder.prompt.prompt.prompt").open("wb") as file:
        np.save(file, values.numpy())


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(cases.SEED)
    plain_files()
    peft_folders()
    other_systems()
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    print(f"{len(sizes)} files, {sum(sizes)} bytes")


if __name__ == "__main__":
    main()
