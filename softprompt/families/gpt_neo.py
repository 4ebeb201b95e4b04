"""GPT-Neo (Black et al., 2021): GPT-2 with attention in windows in every second layer, and without
a scale of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import (
    ACTIVATIONS,
    FULL,
    SLIDING,
    layer_windows,
    read_sizes,
)
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257,
    "max_position_embeddings": 2048,
    "hidden_size": 2048,
    "num_layers": 24,
    "num_heads": 16,
    "window_size": 256,
    "attention_types": [[["global", "local"], 12]],
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

# transformers reads these names too (GPTNeoConfig.attribute_map).
_OTHER_NAMES = {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}
_KINDS = {"global": FULL, "local": SLIDING}


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a GPT-Neo.

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
    sizes = read_sizes(fields, layers="num_layers", heads="num_heads", kv_heads=None, head_dim=None)
    kinds = _layer_types(fields, sizes["num_layers"])
    width = fields.optional_integer("intermediate_size")
    spec = Spec(
        **sizes,
        intermediate_size=width or 4 * sizes["hidden_size"],
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon"),
        positions="learned",
        rotary_dim=0,
        rope_interleaved=False,
        activation=fields.choice("activation_function", ACTIVATIONS),
        gated=False,
        attention_scale=1.0,
        embedding_scale=1.0,
        family="gpt_neo",
        windows=layer_windows(fields, kinds, sizes["max_positions"], "window_size"),
        tied=fields.flag("tie_word_embeddings"),
        output_bias=True,
        mlp_bias=True,
        norm_bias=True,
    )
    return check_spec(spec, where)


def _layer_types(fields: Fields, num_layers: int) -> list[str]:
    """Write out ``[[["global", "local"], 12], ...]``."""
    expected = f"lists of kinds (global, local) with their repetitions, {num_layers} layers in all"
    kinds: list[str] = []
    given = fields.get("attention_types")
    for item in given if isinstance(given, list) else [None]:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], list):
            raise fields.error("attention_types", expected)
        times = Fields({"attention_types": item[1]}, fields.where).integer(
            "attention_types", high=num_layers
        )
        if any(kind not in ("global", "local") for kind in item[0]):
            raise fields.error("attention_types", expected)
        kinds += [_KINDS[kind] for kind in item[0]] * times
    if len(kinds) != num_layers:
        raise fields.error("attention_types", expected)
    return kinds


FAMILY = Family(
    model_types=("gpt_neo",),
    slots=table(
        {
            "embedding": "wte",
            "position": "wpe",
            "attn_norm": "h.{i}.ln_1",
            "q": "h.{i}.attn.attention.q_proj",
            "k": "h.{i}.attn.attention.k_proj",
            "v": "h.{i}.attn.attention.v_proj",
            "o": "h.{i}.attn.attention.out_proj",
            "mlp_norm": "h.{i}.ln_2",
            "up": "h.{i}.mlp.c_fc",
            "down": "h.{i}.mlp.c_proj",
            "final_norm": "ln_f",
            "head": "lm_head",
        }
    ),
    read_config=read_config,
    hf_prefixes=("transformer.", ""),
    hf_ignored=(r"h\.\d+\.attn\.attention\.(bias|masked_bias)",),
)
