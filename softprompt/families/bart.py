"""BART and its relatives: an encoder and a decoder of Transformer layers (Lewis et al., 2020).

BART (norms after the halves) and mBART (before them, and one behind each stack; Liu et al., 2020)
learn their positions. Marian (Junczys-Dowmunt et al., 2018) and M2M-100 (Fan et al., 2021), to
which NLLB belongs, have sines and cosines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.families.fields import MAX_LAYERS, MAX_POSITIONS, Fields
from softprompt.families.readers import ACTIVATIONS
from softprompt.families.sinusoid import Sinusoid
from softprompt.families.spec import Family, Slot, Spec, View, check_spec
from softprompt.families.tables import pair_table

# What transformers assumes for keys that config.json leaves out, by model_type.
_COMMON: dict[str, Any] = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "d_model": 1024,
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "bart": _COMMON,
    "mbart": _COMMON,
    "marian": _COMMON
    | {"vocab_size": 58101, "share_encoder_decoder_embeddings": True, "pad_token_id": 58100},
    "m2m_100": _COMMON
    | {"vocab_size": 128112, "activation_function": "relu", "scale_embedding": True},
}

_OFFSET = 2  # rows of BART's and mBART's tables of positions that stand for nothing


def _positions(spec: Spec) -> View:
    if spec.sinusoid is not None:
        return View()
    return View(start=_OFFSET, stride=spec.max_positions + _OFFSET)


def _stack(name: str) -> dict[str, str]:
    layer = name + ".layers.{i}."
    return {
        "position": f"{name}.embed_positions",
        "embedding_norm": f"{name}.layernorm_embedding",
        "attn_norm": f"{layer}self_attn_layer_norm",
        "attn_out_norm": f"{layer}self_attn_layer_norm",
        "q": f"{layer}self_attn.q_proj",
        "k": f"{layer}self_attn.k_proj",
        "v": f"{layer}self_attn.v_proj",
        "o": f"{layer}self_attn.out_proj",
        "mlp_norm": f"{layer}final_layer_norm",
        "mlp_out_norm": f"{layer}final_layer_norm",
        "up": f"{layer}fc1",
        "down": f"{layer}fc2",
        "final_norm": f"{name}.layer_norm",
    }


def _embedding(spec: Spec) -> str:
    return "decoder.embed_tokens" if spec.encoder_vocab_size else "shared"


_CROSS = {
    "cross_norm": "decoder.layers.{i}.encoder_attn_layer_norm",
    "cross_out_norm": "decoder.layers.{i}.encoder_attn_layer_norm",
    "cross_q": "decoder.layers.{i}.encoder_attn.q_proj",
    "cross_k": "decoder.layers.{i}.encoder_attn.k_proj",
    "cross_v": "decoder.layers.{i}.encoder_attn.v_proj",
    "cross_o": "decoder.layers.{i}.encoder_attn.out_proj",
}

SLOTS = (
    *pair_table(
        {"embedding": _embedding, **_stack("decoder"), **_CROSS},
        {"embedding": "encoder.embed_tokens", **_stack("encoder")},
        hf_views={"position": _positions},
    ),
    Slot("head.weight", ("V", "d"), "lm_head.weight", "head.weight", when="untied"),
    Slot(
        "head.bias",
        ("V",),
        "final_logits_bias",
        "head.bias",
        lambda spec: View(split=spec.vocab_size),
        when="head_bias",
    ),
)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a BART, mBART, Marian or M2M-100.

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
    model_type = config["model_type"]
    fields = Fields(config, where, DEFAULTS[model_type])
    fields.neutral("is_encoder_decoder", (True,), "a half of the model")
    fields.neutral("is_decoder", (False,), "a half of the model")
    width, heads = fields.integer("d_model"), _same(fields, "attention_heads")
    if width % heads:
        raise fields.error("d_model", f"a multiple of decoder_attention_heads ({heads})")
    positions = fields.integer("max_position_embeddings", high=MAX_POSITIONS)
    norm_after = model_type in ("bart", "marian")
    own_embedding = model_type == "marian" and not fields.flag("share_encoder_decoder_embeddings")
    vocab_size = fields.integer("vocab_size")
    target_size = fields.optional_integer("decoder_vocab_size") if own_embedding else None
    spec = Spec(
        vocab_size=target_size or vocab_size,
        encoder_vocab_size=vocab_size if own_embedding else 0,
        hidden_size=width,
        num_layers=fields.integer("decoder_layers", high=MAX_LAYERS),
        num_encoder_layers=fields.integer("encoder_layers", high=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=_same(fields, "ffn_dim"),
        max_positions=positions,
        norm="layer",
        norm_eps=1e-5,
        positions="learned",
        sinusoid=_sinusoid(fields, model_type),
        stored_positions=model_type == "marian",
        rotary_dim=0,
        rope_interleaved=False,
        activation=fields.choice("activation_function", ACTIVATIONS),
        gated=False,
        attention_scale=(width // heads) ** -0.5,
        embedding_scale=width**0.5 if fields.flag("scale_embedding") else 1.0,
        family=model_type,
        norm_place="post" if norm_after else "pre",
        embedding_norm=model_type in ("bart", "mbart"),
        final_norm=not norm_after,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=model_type != "m2m_100",
        norm_bias=True,
    )
    return check_spec(spec, where)


def _same(fields: Fields, what: str) -> int:
    """Read a size that encoder and decoder have in common."""
    size = fields.integer(f"decoder_{what}")
    if fields.integer(f"encoder_{what}") != size:
        raise fields.error(
            f"encoder_{what}",
            f"decoder_{what} ({size}): softprompt computes an encoder of the decoder's sizes",
        )
    return size


def _sinusoid(fields: Fields, model_type: str) -> Sinusoid | None:
    if model_type == "marian":
        return Sinusoid()
    if model_type != "m2m_100":
        return None
    if fields.integer("d_model") < 4:
        raise fields.error("d_model", "at least 4")
    return Sinusoid(first=fields.integer("pad_token_id", low=0) + 1, tensor2tensor=True)


def _aliases(spec: Spec) -> dict[str, str]:
    """Names of the one embedding, where there is one."""
    if spec.encoder_vocab_size:
        return {}
    return {f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")}


def _family(
    *model_types: str, optional: Mapping[str, str], ignored: tuple[str, ...] = ()
) -> Family:
    return Family(
        model_types=model_types,
        slots=SLOTS,
        read_config=read_config,
        hf_prefixes=("model.", ""),
        hf_aliases=_aliases,
        hf_optional=optional,
        hf_ignored=(r"(encoder|decoder)\.version", *ignored),
    )


_NO_BIAS = {"final_logits_bias": "head_bias"}
BART = _family("bart", "mbart", optional=_NO_BIAS)
MARIAN = _family(
    "marian", optional=_NO_BIAS | {"decoder.embed_positions.weight": "stored_positions"}
)
M2M100 = _family("m2m_100", optional={}, ignored=(r"(encoder|decoder)\.embed_positions\.weights",))
