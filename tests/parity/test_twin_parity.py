"""The float64 twin against a live float64 transformers and PEFT, over more models than the golden
ones.

Tolerances as in `tests/golden/test_twin_against_golden.py`: float64 rounding, except for rotary
frequencies, which both sides hold in float32 and may compute with a difference in the last bit.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from golden import cases
from reference.huggingface import read_twin

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

from parity import oracle

MODELS = {
    "llama": ("llama", {}),
    "llama-biases": ("llama-biases", {}),
    "llama-one-group": ("llama", {"num_key_value_heads": 6, "mlp_bias": True}),
    "llama-gelu": ("llama", {"hidden_act": "gelu", "attention_bias": True}),
    "gpt2": ("gpt2", {}),
    "gpt2-relu": ("gpt2", {"activation_function": "relu", "n_inner": 33}),
    "gpt2-erf": ("gpt2", {"activation_function": "gelu", "layer_norm_epsilon": 1e-2}),
    "gpt2-unscaled": ("gpt2", {"scale_attn_weights": False}),
}


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("case", list(MODELS))
def test_twin_equals_transformers(tmp_path, case, rows):
    name, changes = MODELS[case]
    folder = tiny.write_tiny(tmp_path, name, seed=7, changes=changes)
    twin, batch = read_twin(folder), cases.examples(name)
    model = oracle.load(folder, exact=True)
    prompt = None
    if rows:
        prompt = cases.prompt(name, rows)
        model = oracle.add_prompt(model, prompt)
    theirs = oracle.ask(model, batch)
    for (input_ids, target_ids), logits in zip(batch, theirs.logits, strict=True):
        ours = twin.logits(input_ids + target_ids, prompt)
        assert np.abs(ours - logits).max() < 1e-6 * np.abs(logits).max()
    if rows:
        loss, grad = twin.loss_and_grad(prompt, batch)
        assert abs(loss - theirs.loss) < 1e-7 * loss
        assert np.linalg.norm(grad - theirs.grad) < 1e-6 * np.linalg.norm(theirs.grad)
