"""transformers and PEFT as oracles: one function a question, NumPy and lists in and out.

Only the tests in this folder and `tests/golden/make_golden.py` use it; it needs torch, transformers
5 and peft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from torch.nn import functional
from transformers.models.llama import modeling_llama

from softprompt import Prefix

transformers.logging.set_verbosity_error()


@dataclass
class Answer:
    """What a model says about a batch: logits `[P + T_i, V]` of each sequence, loss, gradient `[P,
    d]` or None."""

    logits: list[np.ndarray]
    loss: float
    grad: np.ndarray | None


def load(folder: Path, *, dtype: str = "float32", exact: bool = False) -> torch.nn.Module:
    """The causal language model of a Hugging Face folder, frozen.

    With `exact` the model computes in float64 from end to end: transformers rounds the normalised
    rows of an RMSNorm and the sines and cosines of rotary positions to float32 even in a float64
    model.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, "float64" if exact else dtype), attn_implementation="sdpa"
    )
    model.eval().requires_grad_(False)
    if exact:
        for module in model.modules():
            if isinstance(module, modeling_llama.LlamaRMSNorm):
                module.forward = _exact_rms_norm.__get__(module)
            elif isinstance(module, modeling_llama.LlamaRotaryEmbedding):
                module.forward = _exact_rotary.__get__(module)
    return model


def _exact_rms_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def _exact_rotary(self, x, position_ids):
    angles = position_ids[..., None].double() * self.original_inv_freq.double()
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def add_prompt(model: torch.nn.Module, prompt: np.ndarray) -> PeftModel:
    """The model under PEFT's prompt tuning, with these rows `[P, d]` as its prompt."""
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(prompt))
    tuned = get_peft_model(model, config)
    table = tuned.prompt_encoder["default"].embedding
    # The prompt of a float64 model is float64 too: PEFT casts it to the type of the embeddings.
    table.weight = torch.nn.Parameter(torch.tensor(np.asarray(prompt), dtype=model.dtype))
    return tuned.eval()


def add_prefix(model: torch.nn.Module, prefix: Prefix) -> PeftModel:
    """The model under PEFT's prefix tuning, with these keys and values as its parameters."""
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=len(prefix),
        num_layers=prefix.num_layers,
        num_attention_heads=prefix.num_kv_heads,  # PEFT's words; where a head's width is not what
        token_dim=prefix.num_kv_heads * prefix.head_dim,  # PEFT takes it for
    )
    if model.config.model_type in ("gpt_neox", "falcon"):
        # PEFT believes this key, which such a model does not have and a test's config.json does.
        vars(model.config).pop("num_key_value_heads", None)
    tuned = get_peft_model(model, config)
    table = tuned.prompt_encoder["default"].embedding
    assert table.weight.shape == prefix.flattened().shape
    table.weight = torch.nn.Parameter(torch.tensor(prefix.flattened(), dtype=model.dtype))
    return tuned.eval()


def add(model: torch.nn.Module, prompt: np.ndarray | Prefix) -> PeftModel:
    """The model under PEFT's prompt tuning, or prefix tuning."""
    return (add_prefix if isinstance(prompt, Prefix) else add_prompt)(model, prompt)


def prompt_of(tuned: PeftModel) -> np.ndarray:
    """The prompt `[P, d]` of a PEFT model."""
    return tuned.prompt_encoder["default"].embedding.weight.detach().numpy().copy()


def pad(examples: Sequence[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and labels `[B, longest]` of examples (input ids, target ids), padded on the
    right."""
    longest = max(len(e[0]) + len(e[1]) for e in examples)
    ids = torch.zeros((len(examples), longest), dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (input_ids, target_ids, *_) in enumerate(examples):
        end = len(input_ids) + len(target_ids)
        ids[row, :end] = torch.tensor([*input_ids, *target_ids])
        mask[row, :end] = 1
        labels[row, len(input_ids) : end] = torch.tensor(target_ids)
    return ids, mask, labels


def ask(model: torch.nn.Module, examples: Sequence[tuple]) -> Answer:
    """One padded pass over a batch: logits, mean loss of the target tokens, gradient of a PEFT
    prompt.

    The loss is the cross-entropy that transformers computes from labels, but in the model's own
    type instead of float32. Target weights (third elements) are not PEFT's: use none.
    """
    ids, mask, labels = pad(examples)
    tuned = isinstance(model, PeftModel)
    with torch.set_grad_enabled(tuned):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        virtual = logits.shape[1] - ids.shape[1]
        labels = torch.cat((labels.new_full((len(labels), virtual), -100), labels), dim=1)
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )
        grad = None
        if tuned:
            table = model.prompt_encoder["default"].embedding.weight
            grad = torch.autograd.grad(loss, table)[0].numpy()
    lengths = virtual + mask.sum(dim=1)
    return Answer(
        [row[:end].detach().numpy() for row, end in zip(logits, lengths.tolist(), strict=True)],
        float(loss.detach()),
        grad,
    )


def greedy(model: torch.nn.Module, input_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """New tokens of greedy generation, without an end token."""
    ids = torch.tensor([list(input_ids)])
    options = transformers.GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=model.config.eos_token_id,
    )
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=options
        )[0].tolist()
    # PEFT's generate passes embeddings for the prompt and gives the text's ids back in front of the
    # new ones.
    new = out[len(input_ids) :]
    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return new[: next((i for i, token in enumerate(new) if token in ends), len(new))]
