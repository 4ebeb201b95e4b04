"""What several families read from a configuration in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softprompt.families.fields import MAX_LAYERS, MAX_POSITIONS, Fields

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "relu2": "relu_squared",
}
"""transformers' activation names (``hidden_act``) and the engine's."""

FULL, SLIDING = "full_attention", "sliding_attention"


def read_sizes(
    fields: Fields,
    *,
    hidden: str = "hidden_size",
    layers: str = "num_hidden_layers",
    heads: str = "num_attention_heads",
    kv_heads: str | None = "num_key_value_heads",
    head_dim: str | None = "head_dim",
    positions: str = "max_position_embeddings",
) -> dict[str, Any]:
    """Read the sizes of a decoder from a ``config.json``, all but the MLP's width.

    Parameters
    ----------
    fields : Fields
        The configuration.
    hidden, layers, heads, positions : str
        Their keys.
    kv_heads, head_dim : str or None
        The same; None where the family has no such key.

    Returns
    -------
    dict
        Arguments of `Spec`.

    Raises
    ------
    ValueError
        A size out of range, or a width that is not a multiple of the number of heads.
    """
    num_heads, width = fields.integer(heads), fields.integer(hidden)
    size = None if head_dim is None else fields.optional_integer(head_dim)
    if size is None:
        if width % num_heads:
            raise fields.error(hidden, f"a multiple of {heads} ({num_heads})")
        size = width // num_heads
    groups = None if kv_heads is None else fields.optional_integer(kv_heads)
    return {
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": width,
        "num_layers": fields.integer(layers, high=MAX_LAYERS),
        "num_heads": num_heads,
        "num_kv_heads": groups or num_heads,
        "head_dim": size,
        "max_positions": fields.integer(positions, high=MAX_POSITIONS),
    }


def read_layer_types(fields: Fields, num_layers: int, usual: Sequence[str]) -> list[str]:
    """Return the kind of attention of every layer: "full_attention" or "sliding_attention".

    Parameters
    ----------
    fields : Fields
        The configuration.
    num_layers : int
    usual : sequence of str
        What stands for an absent "layer_types".

    Raises
    ------
    ValueError
        A list of another length, or with another kind of attention.
    """
    kinds = fields.get("layer_types")
    if kinds is None:
        return list(usual)
    good = isinstance(kinds, list) and len(kinds) == num_layers
    if not good or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise fields.error("layer_types", f"a list of {num_layers} of {FULL!r} and {SLIDING!r}")
    return kinds


def layer_windows(
    fields: Fields, kinds: Sequence[str], max_positions: int, key: str = "sliding_window"
) -> tuple[int, ...]:
    """Return `Spec.windows` for kinds of attention; a window as long as the context is none."""
    if SLIDING not in kinds:
        return ()
    window = fields.integer(key)
    if window >= max_positions:
        return ()
    return tuple(window if kind == SLIDING else 0 for kind in kinds)


def per_layer(values: Sequence[int]) -> tuple[int, ...]:
    """Return numbers by layer as `Spec` has them: nothing where all are 0."""
    return tuple(values) if any(values) else ()


# ---- GGUF ----


def read_gguf_sizes(fields: Fields) -> dict[str, Any]:
    """Read the sizes of a decoder from GGUF metadata.

    Parameters
    ----------
    fields : Fields
        The metadata, with the architecture's prefix.

    Returns
    -------
    dict
        Arguments of `Spec`.

    Raises
    ------
    ValueError
        A size out of range, or keys and values of different sizes.
    """
    heads, hidden = (
        one_per_layer(fields, "attention.head_count"),
        fields.integer("embedding_length"),
    )
    head_dim = fields.optional_integer("attention.key_length")
    if head_dim is None:
        if hidden % heads:
            raise fields.error("embedding_length", f"a multiple of the number of heads ({heads})")
        head_dim = hidden // heads
    if (fields.optional_integer("attention.value_length") or head_dim) != head_dim:
        raise fields.error("attention.value_length", f"the size of a key ({head_dim})")
    kv_heads = heads
    if fields.get("attention.head_count_kv") is not None:
        kv_heads = one_per_layer(fields, "attention.head_count_kv")
    return {
        "vocab_size": gguf_vocab_size(fields),
        "hidden_size": hidden,
        "num_layers": fields.integer("block_count", high=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": one_per_layer(fields, "feed_forward_length"),
        "max_positions": fields.integer("context_length", high=MAX_POSITIONS),
    }


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


_SWITCHES = {
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
    "rope.scaling.yarn_log_multiplier": ((0.0,), "YaRN"),
}


def refuse_gguf_switches(fields: Fields, *computed: str) -> None:
    """Refuse keys of GGUF metadata that change the function, but those that the family computes."""
    for key, (accepted, effect) in _SWITCHES.items():
        if key not in computed:
            fields.neutral(key, accepted, effect)


def gguf_number(fields: Fields, key: str, default: float) -> float:
    """Return a number, or `default` where the key is absent or 0 (which means so in GGUF)."""
    value = 0.0 if fields.get(key) is None else fields.number(key, positive=False)
    return value or default


def gguf_rotary_dim(fields: Fields, head_dim: int) -> int:
    """Return the number of rotated channels of a head."""
    return fields.optional_integer("rope.dimension_count") or head_dim


def gguf_layer_types(fields: Fields, num_layers: int, pattern: int) -> list[str]:
    """Return the kind of attention of every layer: one in `pattern`, the last, sees all, unless the
    file has a pattern of its own.
    """
    key = "attention.sliding_window_pattern"
    given = fields.get(key)
    if hasattr(given, "__len__") and not isinstance(given, (str, bytes)):
        if len(given) != num_layers:
            raise fields.error(
                "attention.sliding_window_pattern", f"{num_layers} of true and false"
            )
        return [SLIDING if sliding else FULL for sliding in given]
    if given is not None:
        pattern = fields.integer(key)
    return [SLIDING if (i + 1) % pattern else FULL for i in range(num_layers)]
