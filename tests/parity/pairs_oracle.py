"""transformers and PEFT on the tiny folders of `pairs`, each example in a run of its own.

As `families_oracle`, with SEQ_2_SEQ_LM: PEFT's table has twice the rows, of which it reads the
first half; the decoder's inputs are given, so that transformers shifts no labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import decoders
import numpy as np
import pairs
import torch
import transformers
from parity.families_oracle import exact_types
from parity.oracle import Answer
from peft import PromptTuningConfig, TaskType, get_peft_model
from torch.nn import functional


def tensor_shapes(folder: Path, config: Mapping) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a folder with this config.json has to hold."""
    with torch.device("meta"):
        model = transformers.AutoModelForSeq2SeqLM.from_config(
            transformers.AutoConfig.from_pretrained(folder)
        )
    state = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    if config.get("tie_word_embeddings") is False:  # a head of its own, as T5 1.1 has it in files
        tied -= {"lm_head.weight"}
    not_saved = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    return {name: shape for name, shape in state.items() if name not in tied | not_saved}


def write(folder: Path, config: Mapping, *, seed: int) -> Path:
    """Write the folder of a configuration of `pairs`."""
    decoders.write_config(folder, config)
    return decoders.write_decoder(folder, config, tensor_shapes(folder, config), seed=seed)


def load(folder: Path, *, exact: bool) -> torch.nn.Module:
    """The model of a folder, frozen, with eager attention."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder,
        dtype=torch.float64 if exact else torch.float32,
        attn_implementation="eager",
    )
    return model.eval().requires_grad_(False)


def add_prompt(model: torch.nn.Module, prompt: np.ndarray) -> torch.nn.Module:
    """The model under PEFT's prompt tuning; the half that PEFT never reads holds something else."""
    config = PromptTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=len(prompt))
    tuned = get_peft_model(model, config)
    rows = np.concatenate([prompt, prompt[::-1] + 1.0])
    table = tuned.prompt_encoder["default"].embedding
    table.weight = torch.nn.Parameter(torch.tensor(rows, dtype=model.dtype))
    return tuned.eval()


def scales_in_encoder(model: torch.nn.Module) -> bool:
    """Marian scales what it looks up in its encoder and not what it is given: PEFT, which looks up
    itself, loses the scale of the text's rows.
    """
    config = model.config
    return config.model_type == "marian" and config.scale_embedding


def run(
    model: torch.nn.Module, input_ids: Sequence[int], decoder_ids: Sequence[int]
) -> torch.Tensor:
    """Logits `[len(decoder_ids), V]` of a model, under PEFT or not."""
    ids = torch.tensor([list(input_ids)], dtype=torch.int64)
    given = {"decoder_input_ids": torch.tensor([list(decoder_ids)]), "use_cache": False}
    mask = torch.ones_like(ids)
    if hasattr(model, "prompt_encoder") and scales_in_encoder(model):
        rows = model.prompt_encoder["default"].embedding.weight
        text = model.word_embeddings(ids)[0] * model.config.d_model**0.5
        embeds = torch.cat([rows[: len(rows) // 2], text])[None]
        return model.base_model(inputs_embeds=embeds, **given).logits[0]
    return model(input_ids=ids, attention_mask=mask, **given).logits[0]


def ask(
    folder: Path, examples: Sequence[tuple], prompt: np.ndarray | None, *, exact: bool
) -> Answer:
    """Logits that predict the targets, mean loss of the target tokens, gradient of the prompt."""
    logits, losses, grads = [], [], []
    count = sum(len(targets) for _, targets in examples)
    config = json.loads((folder / "config.json").read_text())
    model = load(folder, exact=exact)
    if prompt is not None:
        model = add_prompt(model, prompt)
    for input_ids, target_ids in examples:
        read = [pairs.decoder_start(config, target_ids), *target_ids[:-1]]
        with torch.set_grad_enabled(prompt is not None):
            if exact:
                with exact_types():
                    out = run(model, input_ids, read)
            else:
                out = run(model, input_ids, read)
            logp = functional.log_softmax(out, dim=-1)
            loss = -logp[torch.arange(len(target_ids)), torch.tensor(target_ids)].sum() / count
            if prompt is not None:
                table = model.prompt_encoder["default"].embedding.weight
                grad = torch.autograd.grad(loss, table)[0].numpy()
                assert not grad[len(prompt) :].any()
                grads.append(grad[: len(prompt)])
        logits.append(out.detach().numpy())
        losses.append(float(loss.detach()))
    return Answer(logits, sum(losses), sum(grads) if grads else None)


def greedy(
    model: torch.nn.Module, input_ids: Sequence[int], start: int, max_new_tokens: int
) -> list[int]:
    """New tokens of greedy generation, without an end token, every step a run of its own."""
    ids = [start]
    for _ in range(max_new_tokens):
        with torch.no_grad():
            token = int(run(model, input_ids, ids)[-1].argmax())
        if token == model.config.eos_token_id:
            break
        ids.append(token)
    return ids[1:]
