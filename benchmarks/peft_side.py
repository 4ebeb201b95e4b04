"""The other side of the comparison: transformers and PEFT's prompt tuning, as their documentation
shows it.

Needs torch, transformers 5, peft and gguf, which softprompt itself does without.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when transformers is imported

import numpy as np
import torch
import transformers
from peft import PromptTuningConfig, TaskType, get_peft_model

transformers.logging.set_verbosity_error()


def load(gguf_file: Path) -> torch.nn.Module:
    """The model of a GGUF file, dequantised to float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        dtype=torch.float32,
        attn_implementation="sdpa",
    )


def add_prompt(model: torch.nn.Module, prompt: np.ndarray) -> torch.nn.Module:
    """The model under prompt tuning, frozen, with these rows `[P, d]` as its prompt."""
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(prompt))
    tuned = get_peft_model(model, config).train()
    with torch.no_grad():
        _prompt_of(tuned).copy_(torch.from_numpy(prompt))
    return tuned


def _prompt_of(tuned: torch.nn.Module) -> torch.nn.Parameter:
    return tuned.prompt_encoder["default"].embedding.weight


def pad(examples: Sequence[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Ids, mask and labels `[B, longest]` of (input ids, target ids), padded on the right."""
    longest = max(len(inputs) + len(target) for inputs, target in examples)
    ids = torch.zeros((len(examples), longest), dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (inputs, target) in enumerate(examples):
        end = len(inputs) + len(target)
        ids[row, :end] = torch.tensor([*inputs, *target])
        mask[row, :end] = 1
        labels[row, len(inputs) : end] = torch.tensor(target)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_grad(tuned: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[float, object]:
    """One training step without the optimiser: loss and gradient `[P, d]` (NumPy)."""
    tuned.zero_grad(set_to_none=True)
    loss = tuned(**batch).loss
    loss.backward()
    return float(loss.detach()), _prompt_of(tuned).grad.numpy()
