"""T5 (Raffel et al., 2020, section 2.1), its version 1.1, FLAN-T5 and mT5: RMSNorm before every
part, biases of scores by distance instead of positions, no other bias, scores that are not scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.families.fields import MAX_LAYERS, Fields
from softprompt.families.readers import ACTIVATIONS
from softprompt.families.relative import Relative
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import pair_table

MAX_POSITIONS = 2**20
"""Biases by distance have no end. So long a text is one that nobody means."""

_T5: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "t5": _T5,
    "mt5": _T5
    | {
        "vocab_size": 250112,
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
    },
}
"""What transformers assumes for keys that ``config.json`` leaves out, by ``model_type``."""


def _stack(name: str, mlp: int) -> dict[str, Any]:
    attention = name + ".block.{i}.layer.0."
    feed_forward = f"{name}.block.{{i}}.layer.{mlp}."
    return {
        "relative": f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
        "attn_norm": f"{attention}layer_norm",
        **{part: f"{attention}SelfAttention.{part}" for part in "qkvo"},
        "mlp_norm": f"{feed_forward}layer_norm",
        "gate": f"{feed_forward}DenseReluDense.wi_0",
        "up": lambda spec: f"{feed_forward}DenseReluDense.wi{'_1' if spec.gated else ''}",
        "down": f"{feed_forward}DenseReluDense.wo",
        "final_norm": f"{name}.final_layer_norm",
    }


_CROSS = "decoder.block.{i}.layer.1."

SLOTS = pair_table(
    {
        "embedding": "shared",
        **_stack("decoder", 2),
        "cross_norm": f"{_CROSS}layer_norm",
        **{f"cross_{part}": f"{_CROSS}EncDecAttention.{part}" for part in "qkvo"},
        "head": "lm_head",
    },
    _stack("encoder", 1),
)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a T5 or an mT5.

    Parameters
    ----------
    config : mapping
        As transformers 4 or 5 writes it.
    where : str
        The file's name, for messages.

    Returns
    -------
    Spec
        With a tied head: whether it is one is seen by the tensors, as in transformers 5.

    Raises
    ------
    ValueError
        A value out of range, or a switch that changes the function and is not computed here.
    """
    model_type = config["model_type"]
    fields = Fields(config, where, DEFAULTS[model_type])
    fields.neutral("is_encoder_decoder", (True,), "a half of the model")
    fields.neutral("is_decoder", (False,), "a half of the model")
    gated, activation = _feed_forward(fields)
    width, heads = fields.integer("d_model"), fields.integer("num_heads")
    layers = fields.integer("num_layers", high=MAX_LAYERS)
    relative = _relative(fields)
    spec = Spec(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=width,
        num_layers=fields.optional_integer("num_decoder_layers", high=MAX_LAYERS) or layers,
        num_encoder_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=fields.integer("d_kv"),
        intermediate_size=fields.integer("d_ff"),
        max_positions=MAX_POSITIONS,
        norm="rms",
        norm_eps=fields.number("layer_norm_epsilon"),
        positions="relative",
        relative=relative,
        relative_reach=relative.max_distance,
        rotary_dim=0,
        rope_interleaved=False,
        activation=activation,
        gated=gated,
        attention_scale=1.0,
        embedding_scale=1.0,
        family=model_type,
        logit_scale=width**-0.5 if model_type == "t5" and _is_scaled(fields) else 1.0,
        tied=True,
    )
    return check_spec(spec, where)


def _feed_forward(fields: Fields) -> tuple[bool, str]:
    """Whether the MLP is gated, and its activation."""
    kind = fields.get("feed_forward_proj")
    parts = kind.split("-") if isinstance(kind, str) else []
    if len(parts) == 2 and parts[0] == "gated" and parts[1] in ACTIVATIONS:
        # "gated-gelu" is a historical name: transformers computes gelu_new.
        return True, ACTIVATIONS["gelu_new" if parts[1] == "gelu" else parts[1]]
    if len(parts) != 1 or kind not in ACTIVATIONS:
        names = ", ".join(sorted(ACTIVATIONS))
        raise fields.error("feed_forward_proj", f"one of {names}, or gated- before it")
    return False, ACTIVATIONS[kind]


def _is_scaled(fields: Fields) -> bool:
    """Whether the head reads rows that are scaled: T5 1.0, which ties its head by name."""
    if fields.get("scale_decoder_outputs") is not None:  # as transformers 5 writes it
        return fields.flag("scale_decoder_outputs")
    return fields.flag("tie_word_embeddings")


def _relative(fields: Fields) -> Relative:
    buckets = fields.integer("relative_attention_num_buckets", low=4, high=2**16)
    reach = fields.integer("relative_attention_max_distance", low=1, high=2**20)
    if reach <= buckets // 2:
        raise fields.error(
            "relative_attention_max_distance",
            f"more than half of relative_attention_num_buckets ({buckets})",
        )
    return Relative(buckets, reach)


FAMILY = Family(
    model_types=tuple(DEFAULTS),
    slots=SLOTS,
    read_config=read_config,
    hf_aliases=dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"
    ),
    # Of models that were made before attention to the encoder lost its (unused) biases.
    hf_ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)
