"""StableLM: LayerNorms, a quarter of every head rotated, a gated MLP; some with a parallel residual
and norms of every head with weights of its own (Bellagente et al., 2024, section 3).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import (
    ACTIVATIONS,
    gguf_rotary_dim,
    read_gguf_sizes,
    read_sizes,
    refuse_gguf_switches,
)
from softprompt.families.rope import RopeReader, read_gguf_rope
from softprompt.families.spec import Family, Spec, View, check_spec
from softprompt.families.tables import GGUF_NAMES, LLAMA_NAMES, table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50304,
    "intermediate_size": 6912,
    "hidden_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_qkv_bias": False,
    "qk_layernorm": False,
    "use_parallel_residual": False,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

_ROPE = RopeReader(partial_key="partial_rotary_factor", partial=0.25)


def _mlp_norm(sequential: str, parallel: Any) -> Any:
    return lambda spec: parallel if spec.parallel_residual else sequential


def _heads(spec: Spec) -> View:
    return View(split=spec.head_dim)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a StableLM.

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
    sizes = read_sizes(fields, head_dim=None)
    rope, rotary_dim, context = _ROPE.read(fields, sizes["max_positions"], sizes["head_dim"])
    sizes["max_positions"] = context
    return _spec(
        where,
        sizes,
        intermediate_size=fields.integer("intermediate_size"),
        norm_eps=fields.number("layer_norm_eps"),
        rotary_dim=rotary_dim,
        activation=fields.choice("hidden_act", ACTIVATIONS),
        rope=rope,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=fields.flag("use_qkv_bias"),
        qk_norm="heads" if fields.flag("qk_layernorm") else "none",
        parallel_residual=fields.flag("use_parallel_residual"),
    )


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architecture ``stablelm``.

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
    fields = Fields(metadata, where, prefix="stablelm.")
    refuse_gguf_switches(fields, "use_parallel_residual")
    sizes = read_gguf_sizes(fields)
    return _spec(
        where,
        sizes,
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        rotary_dim=gguf_rotary_dim(fields, sizes["head_dim"]),
        activation="silu",
        rope=read_gguf_rope(fields),
        tied="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        qk_norm="heads" if "blk.0.attn_q_norm.weight" in tensors else "none",
        # llama.cpp looks for the tensor, not at the key.
        parallel_residual="blk.0.ffn_norm.weight" not in tensors,
    )


def _spec(where: str, sizes: Mapping[str, Any], **given: Any) -> Spec:
    spec = Spec(
        **sizes,
        norm="layer",
        positions="rotary",
        rope_interleaved=False,
        gated=True,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="stablelm",
        norm_bias=True,
        **given,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=("stablelm",),
    architectures=("stablelm",),
    slots=table(
        LLAMA_NAMES
        | {
            "mlp_norm": _mlp_norm("layers.{i}.post_attention_layernorm", LLAMA_NAMES["attn_norm"]),
            "q_norm": "layers.{i}.self_attn.q_layernorm.norms.{h}",
            "k_norm": "layers.{i}.self_attn.k_layernorm.norms.{h}",
        },
        gguf={"mlp_norm": _mlp_norm("blk.{i}.ffn_norm", GGUF_NAMES["attn_norm"])},
        hf_views={"q_norm": _heads, "k_norm": _heads},
        gguf_views={"q_norm": _heads, "k_norm": _heads},
    ),
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("model.", ""),
    hf_ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)
