"""Files of the installed torch, read without it: equal numbers, whatever the layout."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import peft
import torch
from parity.test_peft_files import (
    _offline,  # noqa: F401
    gpt2,
    load_with_peft,
    rows_of,
    t5,
    with_adapter,
)

from softprompt.formats.torch_file import open_torch
from softprompt.prompt import SoftPrompt

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
LAYOUTS = pytest.mark.parametrize("zip_layout", [True, False])

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unable to fetch remote file:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


def numbers(stored) -> torch.Tensor:
    if stored.dtype == "BF16":
        upper = stored.data.view("<u2").astype(np.uint32) << 16
        return torch.tensor(upper.view(np.float32).reshape(stored.shape))
    return torch.tensor(stored.data.view(NUMPY[stored.dtype]).reshape(stored.shape))


@LAYOUTS
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8],
)
def test_types_and_views(tmp_path, zip_layout, dtype):
    whole = (torch.arange(120.0) / 3).to(dtype).reshape(4, 5, 6)
    views = {
        "whole": whole,
        "rows": whole[1:3],
        "transposed": whole.permute(2, 0, 1),
        "steps": whole[::2, 1::3, ::4],
        "scalar": whole[1, 2, 3],
        "empty": whole[:, :0],
        "parameter": torch.nn.Parameter(whole[0].float()),
    }
    torch.save(views, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_layout)
    opened = open_torch(tmp_path / "x.pt")
    assert list(opened) == list(views)
    for name, view in views.items():
        assert opened[name].shape == tuple(view.shape)
        expected = view.detach().float() if dtype == torch.bfloat16 else view.detach()
        assert torch.equal(numbers(opened[name]).to(expected.dtype), expected)


@LAYOUTS
def test_the_state_of_a_model_and_its_optimizer(tmp_path, zip_layout):
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(state, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zip_layout)
    opened = open_torch(tmp_path / "x.ckpt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(numbers(opened[f"model.{name}"]), tensor)
    assert opened.values["epoch"] == 3
    assert "optimizer.state.0.exp_avg" in opened


def test_whole_modules_are_refused_by_name(tmp_path):
    torch.save(torch.nn.Embedding(3, 4), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"asks for 'torch\.nn\.modules\.sparse\.Embedding'"):
        open_torch(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_bin_of_peft(tmp_path, dtype):
    tuned = with_adapter(gpt2()).to(dtype)
    tuned.save_pretrained(tmp_path / "bin", safe_serialization=False)
    tuned.save_pretrained(tmp_path / "safe")
    prompt = SoftPrompt.load(tmp_path / "bin")
    expected = tuned.prompt_encoder["default"].embedding.weight.detach().float().numpy()
    np.testing.assert_array_equal(prompt.embeddings, expected)
    assert prompt == SoftPrompt.load(tmp_path / "safe")


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_p_tuning_saves_a_prompt(tmp_path, kind):
    """PEFT saves what its encoder makes of the parameters, and reads it as a prompt."""
    config = peft.PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=5,
        encoder_hidden_size=6,
        encoder_reparameterization_type=kind,
    )
    tuned = peft.get_peft_model(gpt2(), config).eval()
    tuned.save_pretrained(tmp_path)
    with torch.no_grad():
        rows = tuned.get_prompt(batch_size=1)[0].numpy()
    # PEFT computes them twice, with a last bit that may differ from run to run.
    np.testing.assert_allclose(SoftPrompt.load(tmp_path).embeddings, rows, rtol=1e-6, atol=1e-7)
    SoftPrompt.load(tmp_path).save(tmp_path / "ours")  # as prompt tuning, which it is from now on
    ids = torch.tensor([[1, 2, 3]])
    again = load_with_peft(tuned.get_base_model(), tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, tuned(input_ids=ids).logits)


def test_a_bin_for_an_encoder(tmp_path):
    tuned = with_adapter(t5(), "SEQ_2_SEQ_LM")
    tuned.save_pretrained(tmp_path, safe_serialization=False)
    for path in (tmp_path, tmp_path / "adapter_model.bin"):
        np.testing.assert_array_equal(SoftPrompt.load(path).embeddings, rows_of(tuned)[:5])


def test_a_bin_with_other_weights_is_refused(tmp_path):
    with_adapter(gpt2()).save_pretrained(tmp_path, safe_serialization=False)
    state = torch.load(tmp_path / "adapter_model.bin", weights_only=True)
    state["base_model.score.weight"] = torch.ones(2, 3)
    torch.save(state, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"also holds base_model\.score\.weight"):
        SoftPrompt.load(tmp_path)


def test_our_plain_files_in_torch_and_numpy(tmp_path):
    from safetensors.torch import load_file

    prompt = SoftPrompt(np.random.default_rng(0).normal(size=(4, 8)))
    prompt.export(tmp_path / "p.npy")
    prompt.export(tmp_path / "p.safetensors", "prompt_embeds")
    embeds = load_file(tmp_path / "p.safetensors")["prompt_embeds"]
    # what vLLM's requests take is this tensor, as torch.save writes it
    torch.save(embeds, tmp_path / "p.pt")
    np.testing.assert_array_equal(embeds.numpy(), np.load(tmp_path / "p.npy"))
    np.testing.assert_array_equal(SoftPrompt.load(tmp_path / "p.pt").embeddings, embeds.numpy())
