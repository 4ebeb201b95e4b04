"""A few training steps of a prompt, by PEFT and here."""

from __future__ import annotations

import numpy as np
import torch
from parity import oracle
from peft import PeftModel

import softprompt

STEPS = 4


def train_with_peft(tuned: PeftModel, examples: list, rate: float) -> None:
    """A few steps of AdamW on the prompt."""
    ids, mask, labels = oracle.pad(examples)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=rate)
    for _ in range(STEPS):
        loss = tuned(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_here(model, prompt: np.ndarray, examples: list, rate: float) -> np.ndarray:
    """A few steps of AdamW on the prompt."""
    prompt = prompt.copy()
    optimizer = softprompt.optim.AdamW(rate, weight_decay=0.01)
    for _ in range(STEPS):
        _, grad = model.loss_and_grad(prompt, examples)
        optimizer.step(prompt, grad)
    return prompt


def trainable(tuned: PeftModel) -> PeftModel:
    """PEFT freezes a prompt that it loads; the oracle asks for its gradient."""
    for parameter in tuned.prompt_encoder.parameters():
        parameter.requires_grad_(True)
    return tuned.eval()
