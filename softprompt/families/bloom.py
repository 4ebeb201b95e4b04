"""BLOOM (Le Scao et al., 2022, section 3.2): ALiBi positions, a LayerNorm of the embeddings;
queries, keys and values head by head in one matrix.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.alibi import Alibi
from softprompt.families.fields import Fields
from softprompt.families.readers import read_gguf_sizes, read_sizes, refuse_gguf_switches
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import by_group, stacked, table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 250880,
    "hidden_size": 64,
    "n_layer": 2,
    "n_head": 8,
    "layer_norm_epsilon": 1e-5,
    "seq_length": 2048,
    "tie_word_embeddings": True,
    "pretraining_tp": 1,
    "slow_but_exact": False,
}
"""What transformers assumes for keys that ``config.json`` leaves out. It has no limit of the
length; "seq_length" is that of the pretraining."""

# transformers reads these names too (BloomConfig).
_OTHER_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "hidden_size": "n_embed",
}
_Q, _K, _V = stacked("q", "kv", "kv")


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a BLOOM.

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
    renamed = {own: config[other] for own, other in _OTHER_NAMES.items() if other in config}
    fields = Fields({**config, **renamed}, where, DEFAULTS)
    fields.neutral(
        "apply_residual_connection_post_layernorm", (False,), "residuals of normalised rows"
    )
    if fields.flag("slow_but_exact") and fields.integer("pretraining_tp") > 1:
        fields.neutral("slow_but_exact", (False,), "outputs of attention without their bias")
    sizes = read_sizes(
        fields,
        layers="n_layer",
        heads="n_head",
        kv_heads=None,
        head_dim=None,
        positions="seq_length",
    )
    return _spec(
        where,
        sizes,
        intermediate_size=4 * sizes["hidden_size"],
        norm_eps=fields.number("layer_norm_epsilon"),
        tied=fields.flag("tie_word_embeddings"),
    )


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architecture ``bloom``.

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
    fields = Fields(metadata, where, prefix="bloom.")
    refuse_gguf_switches(fields, "attention.max_alibi_bias")
    fields.neutral("attention.max_alibi_bias", (8.0,), "steeper or flatter ALiBi positions")
    return _spec(
        where,
        read_gguf_sizes(fields),
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        tied="output.weight" not in tensors,
    )


def _spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="layer",
        positions="alibi",
        rotary_dim=0,
        rope_interleaved=False,
        activation="gelu_tanh",
        gated=False,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="bloom",
        embedding_norm=True,
        alibi=Alibi(),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        **given,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=("bloom",),
    architectures=("bloom",),
    slots=table(
        {
            "embedding": "word_embeddings",
            "embedding_norm": "word_embeddings_layernorm",
            "attn_norm": "h.{i}.input_layernorm",
            **dict.fromkeys("qkv", "h.{i}.self_attention.query_key_value"),
            "o": "h.{i}.self_attention.dense",
            "mlp_norm": "h.{i}.post_attention_layernorm",
            "up": "h.{i}.mlp.dense_h_to_4h",
            "down": "h.{i}.mlp.dense_4h_to_h",
            "final_norm": "ln_f",
            "head": "lm_head",
        },
        gguf=dict.fromkeys("qkv", "blk.{i}.attn_qkv"),
        hf_views={part: by_group(number) for number, part in enumerate("qkv")},
        gguf_views={"q": _Q, "k": _K, "v": _V},
    ),
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("transformer.", ""),
)
