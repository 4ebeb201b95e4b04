"""Falcon, old and new (Almazrouei et al., 2023, section 4): parallel residuals, keys and values
shared by all heads or by groups of them. The first RefinedWeb models have ALiBi positions and
residuals one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from softprompt.families.alibi import Alibi
from softprompt.families.fields import Fields
from softprompt.families.readers import (
    ACTIVATIONS,
    read_gguf_sizes,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import RopeReader, read_gguf_rope
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import GGUF_NAMES, by_group, stacked, table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "layer_norm_epsilon": 1e-5,
    "alibi": False,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "max_position_embeddings": 2048,
    "activation": "gelu",
    "tie_word_embeddings": True,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

_ROPE = RopeReader()
_Q, _K, _V = stacked("q", "kv", "kv")
TWO_NORMS = "two norms"
"""The layout of models with a norm for each of the parallel halves."""


def _norm(name: str, of_two: str, shared: str | None = None) -> Callable[[Spec], str]:
    """The name of a norm by itself, beside its twin, and where one norm serves both halves."""

    def of(spec: Spec) -> str:
        if TWO_NORMS in spec.layout:
            return of_two
        return shared if shared is not None and spec.parallel_residual else name

    return of


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a Falcon.

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
    renamed = {"hidden_size": config["n_embed"]} if "n_embed" in config else {}
    fields = Fields({**config, **renamed}, where, DEFAULTS)
    sizes = read_sizes(fields, kv_heads="num_kv_heads", head_dim=None)
    is_new, parallel = fields.flag("new_decoder_architecture"), fields.flag("parallel_attn")
    if not is_new and fields.flag("multi_query"):
        sizes["num_kv_heads"] = 1
    elif not is_new and sizes["num_kv_heads"] != sizes["num_heads"]:
        raise fields.error("num_kv_heads", f"as many as heads ({sizes['num_heads']})")
    if is_new and not parallel:
        raise fields.error("parallel_attn", "true in the new architecture")
    norms = fields.optional_integer("num_ln_in_parallel_attn", high=2) or (2 if is_new else 1)
    if norms == 2 and not is_new:
        raise fields.error("num_ln_in_parallel_attn", "1 in the old architecture")
    if fields.flag("alibi"):
        positions: dict[str, Any] = {
            "positions": "alibi",
            "rotary_dim": 0,
            "alibi": Alibi(scale=sizes["head_dim"] ** -0.5, rounded=True),
        }
    else:
        rope, rotary_dim, context = _ROPE.read(fields, sizes["max_positions"], sizes["head_dim"])
        sizes["max_positions"] = context
        positions = {"positions": "rotary", "rotary_dim": rotary_dim, "rope": rope}
    bias = fields.flag("bias")
    return _spec(
        where,
        sizes,
        **positions,
        intermediate_size=fields.optional_integer("ffn_hidden_size") or 4 * sizes["hidden_size"],
        norm_eps=fields.number("layer_norm_epsilon"),
        activation=fields.choice("activation", ACTIVATIONS),
        parallel_residual=parallel,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        layout=(TWO_NORMS,) if norms == 2 else (),
    )


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architecture ``falcon``.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.
    tensors : container of str
        Names of the file's tensors.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        As `read_config`.
    """
    fields = Fields(metadata, where, prefix="falcon.")
    refuse_gguf_switches(fields)
    sizes = read_gguf_sizes(fields)
    return _spec(
        where,
        sizes,
        positions="rotary",
        rotary_dim=sizes["head_dim"],
        rope=read_gguf_rope(fields),
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        activation="gelu_erf",
        parallel_residual=True,
        tied="output.weight" not in tensors,
        layout=(TWO_NORMS,) if "blk.0.attn_norm_2.weight" in tensors else (),
    )


def _spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="layer",
        rope_interleaved=False,
        gated=False,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="falcon",
        norm_bias=True,
        **given,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=("falcon",),
    architectures=("falcon",),
    slots=table(
        {
            "embedding": "word_embeddings",
            "attn_norm": _norm("h.{i}.input_layernorm", "h.{i}.ln_attn"),
            **dict.fromkeys("qkv", "h.{i}.self_attention.query_key_value"),
            "o": "h.{i}.self_attention.dense",
            "mlp_norm": _norm(
                "h.{i}.post_attention_layernorm", "h.{i}.ln_mlp", "h.{i}.input_layernorm"
            ),
            "up": "h.{i}.mlp.dense_h_to_4h",
            "down": "h.{i}.mlp.dense_4h_to_h",
            "final_norm": "ln_f",
            "head": "lm_head",
        },
        gguf={
            "attn_norm": _norm("blk.{i}.attn_norm", "blk.{i}.attn_norm_2"),
            "mlp_norm": GGUF_NAMES["attn_norm"],
            **dict.fromkeys("qkv", "blk.{i}.attn_qkv"),
        },
        hf_views={part: by_group(number) for number, part in enumerate("qkv")},
        gguf_views={"q": _Q, "k": _K, "v": _V},
    ),
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("transformer.", ""),
    hf_ignored=(r"h\.\d+\.self_attention\.rotary_emb\.inv_freq",),
)
