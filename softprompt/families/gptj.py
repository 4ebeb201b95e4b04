"""GPT-J (Wang, Komatsuzaki, 2021): parallel residuals after one LayerNorm, neighbouring channels of
a part of every head rotated, an output head with a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.families.fields import Fields
from softprompt.families.readers import ACTIVATIONS, read_sizes
from softprompt.families.rope import Rope
from softprompt.families.spec import Family, Spec, check_spec
from softprompt.families.tables import table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50400,
    "n_positions": 2048,
    "n_embd": 4096,
    "n_layer": 28,
    "n_head": 16,
    "rotary_dim": 64,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
}
"""What transformers assumes for keys that ``config.json`` leaves out."""

# transformers reads these names too (GPTJConfig.attribute_map).
_OTHER_NAMES = {
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read the ``config.json`` of a GPT-J.

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
    sizes = read_sizes(
        fields,
        hidden="n_embd",
        layers="n_layer",
        heads="n_head",
        kv_heads=None,
        head_dim=None,
        positions="n_positions",
    )
    spec = Spec(
        **sizes,
        intermediate_size=fields.optional_integer("n_inner") or 4 * sizes["hidden_size"],
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon"),
        positions="rotary",
        rotary_dim=fields.integer("rotary_dim", high=sizes["head_dim"]),
        rope_interleaved=True,
        activation=fields.choice("activation_function", ACTIVATIONS),
        gated=False,
        attention_scale=sizes["head_dim"] ** -0.5,
        embedding_scale=1.0,
        family="gptj",
        parallel_residual=True,
        rope=Rope(10000.0),
        tied=fields.flag("tie_word_embeddings"),
        mlp_bias=True,
        head_bias=True,
        norm_bias=True,
    )
    return check_spec(spec, where)


FAMILY = Family(
    model_types=("gptj",),
    slots=table(
        {
            "embedding": "wte",
            "attn_norm": "h.{i}.ln_1",
            "q": "h.{i}.attn.q_proj",
            "k": "h.{i}.attn.k_proj",
            "v": "h.{i}.attn.v_proj",
            "o": "h.{i}.attn.out_proj",
            "mlp_norm": "h.{i}.ln_1",
            "up": "h.{i}.mlp.fc_in",
            "down": "h.{i}.mlp.fc_out",
            "final_norm": "ln_f",
            "head": "lm_head",
        }
    ),
    read_config=read_config,
    hf_prefixes=("transformer.", ""),
    hf_ignored=(r"h\.\d+\.attn\.(bias|masked_bias|embed_positions)",),
)
