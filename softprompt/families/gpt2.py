"""GPT-2: LayerNorm, learned positions, biases everywhere, a plain MLP (Radford et al., 2019,
section 2.3).

transformers stores its projections as ``Conv1D``, ``[in, out]``, with query, key and value side by
side; GGUF files hold them as ``[out, in]`` with query, key and value one below the other. Both are
views in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import ACTIVATIONS, read_gguf_sizes, read_sizes
from softprompt.families.spec import Family, Spec, View, check_spec
from softprompt.families.tables import stacked, table

_Q, _K, _V = stacked("q", "kv", "kv")


def _conv1d(view: Callable[[Spec], View]) -> Callable[[Spec], View]:
    """A view of a matrix ``[in, out]``."""
    return lambda spec: replace(view(spec), transpose=True)


SLOTS = table(
    {
        "embedding": "wte",
        "position": "wpe",
        "attn_norm": "h.{i}.ln_1",
        "q": "h.{i}.attn.c_attn",
        "k": "h.{i}.attn.c_attn",
        "v": "h.{i}.attn.c_attn",
        "o": "h.{i}.attn.c_proj",
        "mlp_norm": "h.{i}.ln_2",
        "up": "h.{i}.mlp.c_fc",
        "down": "h.{i}.mlp.c_proj",
        "final_norm": "ln_f",
        "head": "lm_head",
    },
    gguf=dict.fromkeys("qkv", "blk.{i}.attn_qkv"),
    hf_views={
        "q": _conv1d(_Q),
        "k": _conv1d(_K),
        "v": _conv1d(_V),
        **dict.fromkeys(("o", "up", "down"), View(transpose=True)),
    },
    gguf_views={"q": _Q, "k": _K, "v": _V},
)

DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

# transformers reads these names too (GPT2Config.attribute_map).
_OTHER_NAMES = {
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a GPT-2.

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
    fields.neutral("scale_attn_by_inverse_layer_idx", (False,), "another scale in every layer")
    fields.neutral("reorder_and_upcast_attn", (False,), "attention in another order")
    fields.neutral("add_cross_attention", (False,), "attention to an encoder")
    sizes = read_sizes(
        fields,
        hidden="n_embd",
        layers="n_layer",
        heads="n_head",
        kv_heads=None,
        head_dim=None,
        positions="n_positions",
    )
    scaled = fields.flag("scale_attn_weights")
    return _spec(
        where,
        sizes,
        intermediate_size=fields.optional_integer("n_inner") or 4 * sizes["hidden_size"],
        norm_eps=fields.number("layer_norm_epsilon"),
        activation=fields.choice("activation_function", ACTIVATIONS),
        attention_scale=sizes["head_dim"] ** -0.5 if scaled else 1.0,
        tied=fields.flag("tie_word_embeddings"),
    )


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architecture ``gpt2``.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.
    tensors : container of str
        Names of the file's tensors; says whether the head is tied.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        A value out of range.
    """
    fields = Fields(metadata, where, prefix="gpt2.")
    sizes = read_gguf_sizes(fields)
    return _spec(
        where,
        sizes,
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        activation="gelu_tanh",
        attention_scale=sizes["head_dim"] ** -0.5,
        tied="output.weight" not in tensors,
    )


def _spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="layer",
        positions="learned",
        rotary_dim=0,
        rope_interleaved=False,
        gated=False,
        embedding_scale=1.0,
        family="gpt2",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        **given,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=("gpt2",),
    architectures=("gpt2",),
    slots=SLOTS,
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("transformer.", ""),
    hf_ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
)
