"""Llama-shaped models: Llama, SmolLM2, Mistral without a sliding window, Qwen2.

Pre-norm decoder with RMSNorm, rotary positions, grouped heads and a gated MLP (Touvron et al.,
2023, "LLaMA", section 2.2, and "Llama 2", section 2.2). What differs between them is a bias here
and a default there.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families.fields import MAX_LAYERS, MAX_POSITIONS, Fields
from softprompt.families.rope import read_gguf_rope, read_rope
from softprompt.families.spec import Family, Slot, Spec, check_spec

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}
"""transformers' activation names (``hidden_act``) and the engine's."""

SLOTS = (
    Slot("embedding.weight", ("V", "d"), "embed_tokens.weight", "token_embd.weight"),
    *(
        Slot("layers.{i}." + name, axes, "layers.{i}." + hf, "blk.{i}." + gguf, when=when)
        for name, axes, hf, gguf, when in (
            ("attn_norm.weight", ("d",), "input_layernorm.weight", "attn_norm.weight", ""),
            ("q.weight", ("q", "d"), "self_attn.q_proj.weight", "attn_q.weight", ""),
            ("q.bias", ("q",), "self_attn.q_proj.bias", "attn_q.bias", "qkv_bias"),
            ("k.weight", ("kv", "d"), "self_attn.k_proj.weight", "attn_k.weight", ""),
            ("k.bias", ("kv",), "self_attn.k_proj.bias", "attn_k.bias", "qkv_bias"),
            ("v.weight", ("kv", "d"), "self_attn.v_proj.weight", "attn_v.weight", ""),
            ("v.bias", ("kv",), "self_attn.v_proj.bias", "attn_v.bias", "qkv_bias"),
            ("o.weight", ("d", "q"), "self_attn.o_proj.weight", "attn_output.weight", ""),
            ("o.bias", ("d",), "self_attn.o_proj.bias", "attn_output.bias", "output_bias"),
            ("mlp_norm.weight", ("d",), "post_attention_layernorm.weight", "ffn_norm.weight", ""),
            ("gate.weight", ("f", "d"), "mlp.gate_proj.weight", "ffn_gate.weight", ""),
            ("gate.bias", ("f",), "mlp.gate_proj.bias", "ffn_gate.bias", "mlp_bias"),
            ("up.weight", ("f", "d"), "mlp.up_proj.weight", "ffn_up.weight", ""),
            ("up.bias", ("f",), "mlp.up_proj.bias", "ffn_up.bias", "mlp_bias"),
            ("down.weight", ("d", "f"), "mlp.down_proj.weight", "ffn_down.weight", ""),
            ("down.bias", ("d",), "mlp.down_proj.bias", "ffn_down.bias", "mlp_bias"),
        )
    ),
    Slot("final_norm.weight", ("d",), "norm.weight", "output_norm.weight"),
    Slot("head.weight", ("V", "d"), "lm_head.weight", "output.weight", when="untied"),
)

# What transformers assumes for keys that config.json leaves out, by model_type.
_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": 4096,
    },
    "qwen2": _LLAMA
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
}


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a Llama-shaped model.

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
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    context = fields.integer("max_position_embeddings", high=MAX_POSITIONS)
    head_dim = fields.optional_integer("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise fields.error("hidden_size", f"a multiple of num_attention_heads ({heads})")
        head_dim = hidden // heads
    _check_windows(fields, model_type, context)
    is_qwen = model_type == "qwen2"
    biased = model_type == "llama"  # the others have no such switch in transformers
    attention_bias = biased and fields.flag("attention_bias")
    return check_spec(
        Spec(
            vocab_size=fields.integer("vocab_size"),
            hidden_size=hidden,
            num_layers=fields.integer("num_hidden_layers", high=MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=fields.optional_integer("num_key_value_heads") or heads,
            head_dim=head_dim,
            intermediate_size=fields.integer("intermediate_size"),
            max_positions=context,
            norm="rms",
            norm_eps=fields.number("rms_norm_eps"),
            positions="rotary",
            rotary_dim=head_dim,
            rope_interleaved=False,
            activation=fields.choice("hidden_act", ACTIVATIONS),
            gated=True,
            attention_scale=head_dim**-0.5,
            embedding_scale=1.0,
            family="qwen2" if is_qwen else "llama",
            rope=read_rope(fields, context),
            tied=fields.flag("tie_word_embeddings"),
            qkv_bias=is_qwen or attention_bias,
            output_bias=attention_bias,
            mlp_bias=biased and fields.flag("mlp_bias"),
        ),
        where,
    )


def _check_windows(fields: Fields, model_type: str, context: int) -> None:
    """Refuse a sliding window that a text within the context could be longer than."""
    if model_type == "llama" or (model_type == "qwen2" and not fields.flag("use_sliding_window")):
        return
    window = fields.optional_integer("sliding_window")
    if window is None or window >= context:
        return
    if model_type == "qwen2":
        layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
        kinds = fields.get("layer_types")
        if kinds is None and fields.integer("max_window_layers", low=0) >= layers:
            return
        if isinstance(kinds, list) and set(kinds) <= {"full_attention"}:
            return
    raise ValueError(
        f"{fields.where}: sliding_window is {window}, shorter than the context of {context} "
        "(max_position_embeddings); attention in windows is not computed by softprompt. "
        f"A copy of the config with max_position_embeddings {window} is exact for shorter texts"
    )


# Keys of GGUF metadata that change the function: value without effect, what they do.
_GGUF_SWITCHES = {
    "expert_count": ((0,), "a mixture of experts"),
    "expert_used_count": ((0,), "a mixture of experts"),
    "attention.sliding_window": ((0,), "attention in windows"),
    "attention.causal": ((True,), "attention in both directions"),
    "attention.clamp_kqv": ((0.0,), "clamped queries, keys and values"),
    "attention.max_alibi_bias": ((0.0,), "ALiBi positions"),
    "attention.scale": ((0.0,), "another attention scale"),
    "attention.temperature_length": ((0,), "attention temperature"),
    "attn_logit_softcapping": ((0.0,), "capped attention logits"),
    "final_logit_softcapping": ((0.0,), "capped logits"),
    "logit_scale": ((0.0, 1.0), "scaled logits"),
    "embedding_scale": ((0.0, 1.0), "scaled embeddings"),
    "residual_scale": ((0.0, 1.0), "scaled residuals"),
    "use_parallel_residual": ((False,), "a parallel residual"),
    "rope.scaling.attn_factor": ((0.0, 1.0), "scaled rotations"),
    "rope.scaling.yarn_log_multiplier": ((0.0,), "YaRN"),
}


def read_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str]) -> Spec:
    """Read GGUF metadata of the architectures ``llama`` and ``qwen2``.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.
    tensors : container of str
        Names of the file's tensors; says which biases exist and whether the head is tied.

    Returns
    -------
    Spec
        With ``rope_interleaved=True`` for ``llama``: llama.cpp's converter permutes the rows of q
        and k so that a rotated pair lies side by side.

    Raises
    ------
    ValueError
        As `read_config`.
    """
    architecture = metadata["general.architecture"]
    fields = Fields(metadata, where, prefix=architecture + ".")
    for key, (accepted, effect) in _GGUF_SWITCHES.items():
        fields.neutral(key, accepted, effect)
    heads = one_per_layer(fields, "attention.head_count")
    hidden = fields.integer("embedding_length")
    head_dim = fields.optional_integer("attention.key_length")
    if head_dim is None:
        if hidden % heads:
            raise fields.error("embedding_length", f"a multiple of the number of heads ({heads})")
        head_dim = hidden // heads
    if (fields.optional_integer("attention.value_length") or head_dim) != head_dim:
        raise fields.error("attention.value_length", f"the size of a key ({head_dim})")
    rotary = fields.optional_integer("rope.dimension_count") or head_dim
    if rotary != head_dim:
        raise fields.error("rope.dimension_count", f"the size of a head ({head_dim})")
    kv_heads = heads
    if fields.get("attention.head_count_kv") is not None:
        kv_heads = one_per_layer(fields, "attention.head_count_kv")
    return check_spec(
        Spec(
            vocab_size=gguf_vocab_size(fields),
            hidden_size=hidden,
            num_layers=fields.integer("block_count", high=MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=one_per_layer(fields, "feed_forward_length"),
            max_positions=fields.integer("context_length", high=MAX_POSITIONS),
            norm="rms",
            norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            positions="rotary",
            rotary_dim=rotary,
            rope_interleaved=architecture == "llama",
            activation="silu",
            gated=True,
            attention_scale=head_dim**-0.5,
            embedding_scale=1.0,
            family=architecture,
            rope=read_gguf_rope(fields),
            tied="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_gate.bias" in tensors,
        ),
        where,
    )


def one_per_layer(fields: Fields, key: str) -> int:
    """Return a size that GGUF may store once or per layer; layers that differ are an error."""
    value = fields.get(key)
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        distinct = set(value)
        if len(distinct) != 1:
            raise fields.error(key, "the same number in every layer")
        return Fields({key: distinct.pop()}, fields.where).integer(key)
    return fields.integer(key)


def gguf_vocab_size(fields: Fields) -> int:
    """Return the number of tokens; llama.cpp takes the length of the vocabulary before the key."""
    tokens = fields.values.get("tokenizer.ggml.tokens")
    if hasattr(tokens, "__len__") and len(tokens):
        return len(tokens)
    return fields.integer("vocab_size")


FAMILY = Family(
    name="llama",
    model_types=tuple(DEFAULTS),
    architectures=("llama", "qwen2"),
    slots=SLOTS,
    read_config=read_config,
    read_gguf=read_gguf,
    hf_prefixes=("model.", ""),
    hf_ignored=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    gguf_ignored=(r"blk\.\d+\.attn_rot_embd", r"rope_freqs\.weight"),
)
