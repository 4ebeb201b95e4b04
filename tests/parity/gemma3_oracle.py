"""Gemma 3's text model in transformers, with softprompt's weights: transformers 5 cannot read these
files' own quantised types."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from softprompt.families import family_of


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
        weight = torch.tensor(np.asarray(model.weights[slot.name]))
        state["model." + slot.source] = weight - slot.view.offset
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state)
    return theirs.eval()
