"""transformers and PEFT on the tiny folders of `decoders`, each text in a run of its own.

Attention is the eager form, the one with every switch (see `load`). With `exact` a model computes
in float64 from end to end: where transformers rounds norms, softmaxes, sines and cosines to float32
even in a float64 model, the name float32 stands for float64 while it runs. Rotary frequencies stay
as they are, numbers of float32.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import decoders
import numpy as np
import torch
import transformers
from parity import oracle
from parity.oracle import Answer
from torch.nn import functional

from softprompt import Prefix
from softprompt.families import FAMILIES
from softprompt.families.fields import Fields

transformers.utils.logging.disable_progress_bar()


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a folder with this config.json has to hold."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    tied = set(model._tied_weights_keys or {}) if config.tie_word_embeddings else set()
    state = model.state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items() if name not in tied}
    if config.model_type == "gpt_neox":  # files have another name for the head than the module
        shapes = {name.replace("lm_head.", "embed_out."): shape for name, shape in shapes.items()}
    return shapes


def write(folder: Path, config: Mapping, *, seed: int) -> Path:
    """Write the folder of a configuration of `decoders`."""
    decoders.write_config(folder, config)
    return decoders.write_decoder(folder, config, tensor_shapes(folder), seed=seed)


@contextmanager
def exact_types() -> Iterator[None]:
    """While it runs, whoever rounds to float32 gets float64."""
    single, cast = torch.float32, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32 = torch.float = single
        torch.Tensor.float = cast


def load(folder: Path, *, exact: bool) -> torch.nn.Module:
    """The causal language model of a folder, frozen, with eager attention.

    But Falcon with the fused one: transformers' eager form adds ALiBi's biases twice.
    """
    is_falcon = transformers.AutoConfig.from_pretrained(folder).model_type == "falcon"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float64 if exact else torch.float32,
        attn_implementation="sdpa" if is_falcon else "eager",
    )
    return model.eval().requires_grad_(False)


def ask(
    folder: Path, examples: Sequence[tuple], prompt: np.ndarray | Prefix | None, *, exact: bool
) -> Answer:
    """Logits of the texts' rows, mean loss of the target tokens, gradient of the prompt, or of the
    prefix as PEFT has it."""
    logits, losses, grads = [], [], []
    count = sum(len(targets) for _, targets in examples)
    model = None
    for input_ids, target_ids in examples:
        if model is None or _is_dynamic(model):
            # Anew: such a model keeps the rotary frequencies of its longest text.
            model = load(folder, exact=exact)
            if prompt is not None:
                model = oracle.add(model, prompt)
        ids = torch.tensor([[*input_ids, *target_ids]])
        with torch.set_grad_enabled(prompt is not None):
            if exact:
                with exact_types():
                    out = run(model, ids)
            else:
                out = run(model, ids)
            before = len(out) - ids.shape[1] + len(input_ids)
            logp = functional.log_softmax(out[before - 1 : -1], dim=-1)
            loss = -logp[torch.arange(len(target_ids)), torch.tensor(target_ids)].sum() / count
            if prompt is not None:
                table = model.prompt_encoder["default"].embedding.weight
                grads.append(torch.autograd.grad(loss, table)[0].numpy())
        logits.append(out[-ids.shape[1] :].detach().numpy())
        losses.append(float(loss.detach()))
    return Answer(logits, sum(losses), sum(grads) if grads else None)


def _is_dynamic(model: torch.nn.Module) -> bool:
    return (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") == "dynamic"


def run(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one text's ids `[1, T]`, computed without a cache."""
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]


def greedy(model: torch.nn.Module, input_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """New tokens of greedy generation, without an end token, every step a run of its own: a cache
    keeps keys that were rotated by the frequencies of a shorter text.
    """
    ids = list(input_ids)
    end = model.config.eos_token_id
    for _ in range(max_new_tokens):
        with torch.no_grad():
            token = int(run(model, torch.tensor([ids]))[-1].argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(input_ids) :]


def all_ids(embeddings: torch.nn.Module) -> torch.Tensor:
    """The ids of all rows of an embedding table."""
    return torch.arange(embeddings.num_embeddings)


WITHOUT_EFFECT = frozenset(
    # of training, of the cache, of what is returned, of tokens and files
    {"initializer_range", "initializer_factor", "init_std", "layerdrop", "use_cache", "dtype"}
    | {"attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "dropout"}
    | {"resid_dropout", "embed_dropout", "classifier_dropout", "activation_dropout"}
    | {"summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"}
    | {"summary_first_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "model_type"}
    | {"architectures", "id2label", "label2id", "problem_type", "return_dict"}
    | {"chunk_size_feed_forward"}
    | {"output_attentions", "output_hidden_states", "transformers_version", "is_encoder_decoder"}
    | {"torch_dtype", "_name_or_path", "is_decoder", "_commit_hash", "quantization_config"}
    # of tensor parallelism; BLOOM reads it with another switch, which is tested by itself
    | {"pretraining_tp"}
)


def unread_switches(folders: Sequence[Path]) -> set[str]:
    """Keys of transformers' configuration of a family that softprompt's reader asks for in none of
    these folders.
    """
    asked: set[str] = set()
    known: set[str] = set()
    get = Fields.get

    def recording(self: Fields, key: str) -> object:
        asked.add(key)
        return get(self, key)

    for folder in folders:
        config = transformers.AutoConfig.from_pretrained(folder)
        known |= {field.name for field in dataclasses.fields(config)}
        family = next(f for f in FAMILIES if config.model_type in f.model_types)
        try:
            Fields.get = recording
            for values in (json.loads((folder / "config.json").read_text()), config.to_dict()):
                family.read_config(values, "config.json")
        finally:
            Fields.get = get
    return known - asked - WITHOUT_EFFECT
