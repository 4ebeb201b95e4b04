"""Prefix tuning: loss, gradient and files of PEFT's PREFIX_TUNING against softprompt.

The reference is a float64 run. Tolerance: 1e-5 (SmolLM2's gradient 1e-4, as that of its prompts),
or four times what transformers' own float32 run differs by, where that is more; of the norm of the
logits, of the loss, of the norm of the gradient.
"""

from __future__ import annotations

import decoders
import numpy as np
import pytest
import tiny
from golden import cases

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import peft
import torch
from parity import families_oracle, oracle
from parity.test_families_parity import NEW_TOKENS, bound, relative
from parity.test_peft_files import _offline, load_with_peft  # noqa: F401
from parity.test_smollm2_parity import (  # noqa: F401
    ask_in_float64,
    examples,
    prompt_of,
    theirs,
)
from parity.test_twin_parity import MODELS

import softprompt
from softprompt import Prefix

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unable to fetch remote file:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


def prefix_for(model: softprompt.Model, rows: int) -> Prefix:
    """Random keys and values of about the size of a model's own."""
    config = model.config
    shape = (2, config.num_layers, rows, config.num_kv_heads, config.head_dim)
    return Prefix(*np.random.default_rng(rows).normal(size=shape))


def group_in_the_cache(model: softprompt.Model) -> int:
    """Heads of transformers' cache for one of a prefix: Falcon's cache repeats those of a group."""
    config = model.config
    repeats = config.family == "falcon" and config.num_kv_heads > 1
    return config.num_attention_heads // config.num_kv_heads if repeats else 1


def in_the_cache(prefix: Prefix, model: softprompt.Model) -> Prefix:
    group = group_in_the_cache(model)
    return Prefix(np.repeat(prefix.keys, group, axis=2), np.repeat(prefix.values, group, axis=2))


def of_the_heads(grad: np.ndarray, model: softprompt.Model) -> np.ndarray:
    """A gradient of `in_the_cache` as that of the prefix."""
    config = model.config
    heads = (config.num_layers * 2 * config.num_kv_heads, group_in_the_cache(model))
    return grad.reshape(len(grad), *heads, config.head_dim).sum(axis=2).reshape(len(grad), -1)


def assert_same(model, prompt, batch, exact: oracle.Answer, single: oracle.Answer) -> None:
    got = model.logits([i + t for i, t in batch], prompt)
    for ours, theirs_, rough in zip(got, exact.logits, single.logits, strict=True):
        assert relative(ours, theirs_) < bound(relative(rough, theirs_))
    allowed = bound(abs(single.loss - exact.loss) / exact.loss) * exact.loss
    loss, grad = model.loss_and_grad(prompt, batch)
    assert abs(loss - exact.loss) < allowed
    assert relative(grad, exact.grad) < bound(relative(single.grad, exact.grad))


@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("case", list(MODELS))
def test_padded_batches(tmp_path, case, rows):
    """PEFT's padded batch, whose mask and positions begin behind the prefix, and ours."""
    name, changes = MODELS[case]
    folder = tiny.write_tiny(tmp_path, name, seed=31, changes=changes)
    model, batch = softprompt.load_model(folder), cases.examples(name)
    prefix = prefix_for(model, rows)
    exact, single = (
        oracle.ask(oracle.add_prefix(oracle.load(folder, dtype=dtype), prefix), batch)
        for dtype in ("float64", "float32")
    )
    assert_same(model, prefix, batch, exact, single)


@pytest.mark.parametrize("name", list(decoders.CONFIGS))
def test_every_family(tmp_path, name):
    """Row by row: windows, biases by distance, norms of heads, rotations that grow with a text."""
    config = decoders.CONFIGS[name]
    folder = families_oracle.write(tmp_path, config, seed=5)
    model, batch = softprompt.load_model(folder), decoders.examples(config)
    prefix = prefix_for(model, 5)
    exact, single = (
        families_oracle.ask(folder, batch, in_the_cache(prefix, model), exact=exact)
        for exact in (True, False)
    )
    for answer in (exact, single):
        answer.grad = of_the_heads(answer.grad, model)
    assert_same(model, prefix, batch, exact, single)


@pytest.mark.parametrize("name", list(decoders.CONFIGS))
def test_a_prompts_prefix_in_every_family(tmp_path, name):
    """PEFT with the keys and values of `Model.prefix` has the prompt's logits: their order of
    channels is transformers'."""
    config = decoders.CONFIGS[name]
    folder = families_oracle.write(tmp_path, config, seed=8)
    model, batch = softprompt.load_model(folder), decoders.examples(config)
    prompt = decoders.prompt(config, 5)
    if softprompt.families.length_class(model.spec, model.spec.max_positions):
        pytest.skip("rotations depend on the length: a prefix keeps those of short texts")
    prefix = model.prefix(prompt)
    exact = families_oracle.ask(folder, batch, in_the_cache(prefix, model), exact=True)
    whole = families_oracle.ask(folder, batch, prompt, exact=True)
    for one, other in zip(exact.logits, whole.logits, strict=True):
        # The prefix is of float32.
        assert relative(one, other) < 2e-5


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_greedy_text(tmp_path, case):
    name, changes = MODELS[case]
    folder = tiny.write_tiny(tmp_path, name, seed=33, changes=changes)
    model = softprompt.load_model(folder)
    prefix = prefix_for(model, 4)
    tuned = oracle.add_prefix(oracle.load(folder), prefix)
    inputs = cases.continued(name)
    ours = model.generate(inputs, prefix, max_new_tokens=NEW_TOKENS, return_ids=True)
    assert ours == [oracle.greedy(tuned, ids, NEW_TOKENS) for ids in inputs]


def test_a_trained_prefix_in_peft(tmp_path):
    """What the loop trains and `save` writes, PEFT loads unchanged; and PEFT's comes back."""
    folder = tiny.write_tiny(tmp_path / "model", "llama", seed=3)
    model, batch = softprompt.load_model(folder), cases.examples("llama")
    values = model.prefix(cases.prompt("llama", 4)).flattened()
    optimizer = softprompt.optim.AdamW(0.03)
    sizes = {"num_layers": model.config.num_layers, "num_kv_heads": model.config.num_kv_heads}
    losses = []
    for _ in range(5):
        loss, grad = model.loss_and_grad(Prefix.from_flattened(values, **sizes), batch)
        values = optimizer.step(values.copy(), grad)
        losses.append(loss)
    assert losses[-1] < losses[0]
    prefix = Prefix.from_flattened(values, **sizes, task={"kind": "x"})
    prefix.save(tmp_path / "ours")
    tuned = load_with_peft(oracle.load(folder), tmp_path / "ours").eval()
    ids, mask, _ = oracle.pad(batch)
    with torch.no_grad():
        logits = tuned(input_ids=ids, attention_mask=mask).logits
    ours = model.logits([i + t for i, t in batch], prefix)
    for row, end, mine in zip(logits, mask.sum(dim=1).tolist(), ours, strict=True):
        assert relative(mine, row[:end].numpy()) < 1e-5
    tuned.save_pretrained(tmp_path / "theirs")
    again = softprompt.load_prompt(tmp_path / "theirs")
    np.testing.assert_array_equal(again.flattened(), prefix.flattened())


@pytest.mark.parametrize("safe", [True, False])
def test_a_projected_prefix_of_peft(tmp_path, safe):
    """With `prefix_projection` PEFT saves what the MLP makes, and so that is what is read."""
    folder = tiny.write_tiny(tmp_path / "model", "llama", seed=3)
    model, batch = softprompt.load_model(folder), cases.examples("llama")
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=7
    )
    tuned = peft.get_peft_model(oracle.load(folder), config).eval()
    tuned.save_pretrained(tmp_path / "saved", safe_serialization=safe)
    prefix = softprompt.load_prompt(tmp_path / "saved")
    assert isinstance(prefix, Prefix)
    assert softprompt.prompt.describe(tmp_path / "saved")["kind"] == "prefix"
    ids, mask, _ = oracle.pad(batch)
    with torch.no_grad():
        logits = tuned(input_ids=ids, attention_mask=mask).logits
    ours = model.logits([i + t for i, t in batch], prefix)
    for row, end, mine in zip(logits, mask.sum(dim=1).tolist(), ours, strict=True):
        assert relative(mine, row[:end].numpy()) < 1e-5


@pytest.mark.parametrize("rows", [1, 20])
def test_smollm2(smollm2, theirs, examples, rows):  # noqa: F811
    prefix = smollm2.prefix(prompt_of(smollm2, rows))
    tuned = oracle.add_prefix(theirs, prefix)
    exact = ask_in_float64(tuned, examples)
    loss, grad = smollm2.loss_and_grad(prefix, examples)
    assert abs(loss - exact.loss) < 1e-5 * exact.loss
    assert relative(grad, exact.grad) < 1e-4
    for got, expected in zip(
        smollm2.logits([i + t for i, t in examples], prefix), exact.logits, strict=True
    ):
        assert relative(got, expected) < 1e-4
