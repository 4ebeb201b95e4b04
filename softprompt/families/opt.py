"""OPT (Zhang et al., 2022, section 2): GPT-2's layer with ReLU and learned positions that begin at
the third row of their table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import ACTIVATIONS, read_sizes
from softprompt.families.spec import Family, Spec, View, check_spec
from softprompt.families.tables import table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "num_attention_heads": 12,
    "activation_function": "relu",
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

_OFFSET = 2


def _positions(spec: Spec) -> View:
    return View(start=_OFFSET, stride=spec.max_positions + _OFFSET)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of an OPT.

    Parameters
    ----------
    config : mapping
        As transformers 4 or 5 writes it.
    where : str
        The file's name, for messages.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        A value out of range, or a switch that changes the function and is not computed here.
    """
    fields = Fields(config, where, DEFAULTS)
    sizes = read_sizes(fields, kv_heads=None, head_dim=None)
    width = sizes["hidden_size"]
    fields.neutral("word_embed_proj_dim", (width,), "a projection of embeddings of another size")
    before = fields.flag("do_layer_norm_before")
    bias, affine = fields.flag("enable_bias"), fields.flag("layer_norm_elementwise_affine")
    spec = Spec(
        **sizes,
        intermediate_size=fields.integer("ffn_dim"),
        norm="layer",
        norm_eps=1e-5,
        positions="learned",
        rotary_dim=0,
        rope_interleaved=False,
        activation=fields.choice("activation_function", ACTIVATIONS),
        gated=False,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="opt",
        norm_place="pre" if before else "post",
        final_norm=before and not fields.flag("_remove_final_layer_norm"),
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        norm_bias=affine,
        norm_weights=affine,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=("opt",),
    slots=table(
        {
            "embedding": "embed_tokens",
            "position": "embed_positions",
            "attn_norm": "layers.{i}.self_attn_layer_norm",
            "attn_out_norm": "layers.{i}.self_attn_layer_norm",
            "q": "layers.{i}.self_attn.q_proj",
            "k": "layers.{i}.self_attn.k_proj",
            "v": "layers.{i}.self_attn.v_proj",
            "o": "layers.{i}.self_attn.out_proj",
            "mlp_norm": "layers.{i}.final_layer_norm",
            "mlp_out_norm": "layers.{i}.final_layer_norm",
            "up": "layers.{i}.fc1",
            "down": "layers.{i}.fc2",
            "final_norm": "final_layer_norm",
            "head": "lm_head",
        },
        hf_views={"position": _positions},
    ),
    read_config=read_config,
    hf_prefixes=("model.decoder.", "decoder.", ""),
)
