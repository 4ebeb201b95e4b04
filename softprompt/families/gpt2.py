"""GPT-2: LayerNorm, learned positions, biases everywhere, a plain MLP (Radford et al., 2019,
section 2.3).

transformers stores its projections as ``Conv1D``, ``[in, out]``, with query, key and value side by
side; GGUF files hold them as ``[out, in]`` with query, key and value one below the other. Both are
views in the table.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.fields import MAX_LAYERS, MAX_POSITIONS, Fields
from softprompt.families.llama import ACTIVATIONS, gguf_vocab_size
from softprompt.families.spec import Family, Slot, Spec, View, check_spec

_CONV1D = View(transpose=True)

SLOTS = (
    Slot("embedding.weight", ("V", "d"), "wte.weight", "token_embd.weight"),
    Slot("position.weight", ("P", "d"), "wpe.weight", "position_embd.weight"),
    Slot("layers.{i}.attn_norm.weight", ("d",), "h.{i}.ln_1.weight", "blk.{i}.attn_norm.weight"),
    Slot("layers.{i}.attn_norm.bias", ("d",), "h.{i}.ln_1.bias", "blk.{i}.attn_norm.bias"),
    *(
        slot
        for part, name in enumerate("qkv")
        for slot in (
            Slot(
                f"layers.{{i}}.{name}.weight",
                ("d", "d"),
                "h.{i}.attn.c_attn.weight",
                "blk.{i}.attn_qkv.weight",
                View(transpose=True, part=part, parts=3),
                View(part=part, parts=3),
            ),
            Slot(
                f"layers.{{i}}.{name}.bias",
                ("d",),
                "h.{i}.attn.c_attn.bias",
                "blk.{i}.attn_qkv.bias",
                View(part=part, parts=3),
                View(part=part, parts=3),
            ),
        )
    ),
    Slot(
        "layers.{i}.o.weight",
        ("d", "d"),
        "h.{i}.attn.c_proj.weight",
        "blk.{i}.attn_output.weight",
        _CONV1D,
    ),
    Slot("layers.{i}.o.bias", ("d",), "h.{i}.attn.c_proj.bias", "blk.{i}.attn_output.bias"),
    Slot("layers.{i}.mlp_norm.weight", ("d",), "h.{i}.ln_2.weight", "blk.{i}.ffn_norm.weight"),
    Slot("layers.{i}.mlp_norm.bias", ("d",), "h.{i}.ln_2.bias", "blk.{i}.ffn_norm.bias"),
    Slot(
        "layers.{i}.up.weight",
        ("f", "d"),
        "h.{i}.mlp.c_fc.weight",
        "blk.{i}.ffn_up.weight",
        _CONV1D,
    ),
    Slot("layers.{i}.up.bias", ("f",), "h.{i}.mlp.c_fc.bias", "blk.{i}.ffn_up.bias"),
    Slot(
        "layers.{i}.down.weight",
        ("d", "f"),
        "h.{i}.mlp.c_proj.weight",
        "blk.{i}.ffn_down.weight",
        _CONV1D,
    ),
    Slot("layers.{i}.down.bias", ("d",), "h.{i}.mlp.c_proj.bias", "blk.{i}.ffn_down.bias"),
    Slot("final_norm.weight", ("d",), "ln_f.weight", "output_norm.weight"),
    Slot("final_norm.bias", ("d",), "ln_f.bias", "output_norm.bias"),
    Slot("head.weight", ("V", "d"), "lm_head.weight", "output.weight", when="untied"),
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
    hidden, heads = fields.integer("n_embd"), fields.integer("n_head")
    if hidden % heads:
        raise fields.error("n_embd", f"a multiple of n_head ({heads})")
    return _spec(
        where,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        num_layers=fields.integer("n_layer", high=MAX_LAYERS),
        num_heads=heads,
        intermediate_size=fields.optional_integer("n_inner") or 4 * hidden,
        max_positions=fields.integer("n_positions", high=MAX_POSITIONS),
        norm_eps=fields.number("layer_norm_epsilon"),
        activation=fields.choice("activation_function", ACTIVATIONS),
        scaled=fields.flag("scale_attn_weights"),
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
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    if hidden % heads:
        raise fields.error("embedding_length", f"a multiple of the number of heads ({heads})")
    return _spec(
        where,
        vocab_size=gguf_vocab_size(fields),
        hidden_size=hidden,
        num_layers=fields.integer("block_count", high=MAX_LAYERS),
        num_heads=heads,
        intermediate_size=fields.integer("feed_forward_length"),
        max_positions=fields.integer("context_length", high=MAX_POSITIONS),
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        activation="gelu_tanh",
        scaled=True,
        tied="output.weight" not in tensors,
    )


def _spec(where: str, *, num_heads: int, hidden_size: int, scaled: bool, **given: Any) -> Spec:
    head_dim = hidden_size // num_heads
    spec = Spec(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        norm="layer",
        positions="learned",
        rotary_dim=0,
        rope_interleaved=False,
        gated=False,
        attention_scale=head_dim**-0.5 if scaled else 1.0,
        embedding_scale=1.0,
        family="gpt2",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        **given,
    )
    return check_spec(spec, where)


FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    architectures=("gpt2",),
    slots=SLOTS,
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("transformer.", ""),
    hf_ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
)
