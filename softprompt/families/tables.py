"""The rows that the tables of all families have in common: slots, shapes, biases, GGUF names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from softprompt.families.spec import WHOLE, Slot, Spec, View

Name = str | Callable[[Spec], str]
Views = View | Callable[[Spec], View]

_ROWS: tuple[tuple[str, tuple[str, ...], str, str | None], ...] = (
    # slot, shape of the weight, when it has one, when it has a bias
    ("embedding", ("V", "d"), "", None),
    ("position", ("P", "d"), "learned", None),
    ("relative", ("buckets", "heads"), "relative", None),
    ("embedding_norm", ("d",), "embedding_norm", "embedding_norm"),
    ("layers.{i}.attn_norm", ("d",), "norm_before", "norm_before_bias"),
    ("layers.{i}.q", ("q", "d"), "", "qkv_bias"),
    ("layers.{i}.k", ("kv", "d"), "", "qkv_bias"),
    ("layers.{i}.v", ("kv", "d"), "", "qkv_bias"),
    ("layers.{i}.q_norm", ("qn",), "qk_norm", "qk_norm_bias"),
    ("layers.{i}.k_norm", ("kn",), "qk_norm", "qk_norm_bias"),
    ("layers.{i}.o", ("d", "q"), "", "output_bias"),
    ("layers.{i}.attn_out_norm", ("d",), "norm_after", "norm_after_bias"),
    ("layers.{i}.cross_norm", ("d",), "norm_before", "norm_before_bias"),
    ("layers.{i}.cross_q", ("q", "d"), "", "qkv_bias"),
    ("layers.{i}.cross_k", ("kv", "d"), "", "qkv_bias"),
    ("layers.{i}.cross_v", ("kv", "d"), "", "qkv_bias"),
    ("layers.{i}.cross_o", ("d", "q"), "", "output_bias"),
    ("layers.{i}.cross_out_norm", ("d",), "norm_after", "norm_after_bias"),
    ("layers.{i}.mlp_norm", ("d",), "norm_before", "norm_before_bias"),
    ("layers.{i}.gate", ("f", "d"), "gated", "mlp_bias"),
    ("layers.{i}.up", ("f", "d"), "", "mlp_bias"),
    ("layers.{i}.down", ("d", "f"), "", "mlp_bias"),
    ("layers.{i}.mlp_out_norm", ("d",), "norm_after", "norm_after_bias"),
    ("final_norm", ("d",), "final_norm", "final_norm_bias"),
    ("head", ("V", "d"), "untied", "head_bias"),
)

GGUF_NAMES: dict[str, Name] = {
    "embedding": "token_embd",
    "position": "position_embd",
    "embedding_norm": "token_embd_norm",
    "attn_norm": "blk.{i}.attn_norm",
    "q": "blk.{i}.attn_q",
    "k": "blk.{i}.attn_k",
    "v": "blk.{i}.attn_v",
    "q_norm": "blk.{i}.attn_q_norm",
    "k_norm": "blk.{i}.attn_k_norm",
    "o": "blk.{i}.attn_output",
    "attn_out_norm": "blk.{i}.post_attention_norm",
    "mlp_norm": "blk.{i}.ffn_norm",
    "gate": "blk.{i}.ffn_gate",
    "up": "blk.{i}.ffn_up",
    "down": "blk.{i}.ffn_down",
    "mlp_out_norm": "blk.{i}.post_ffw_norm",
    "final_norm": "output_norm",
    "head": "output",
}
"""llama.cpp's names (its ``llama-arch.cpp``)."""

LLAMA_NAMES: dict[str, Name] = {
    "embedding": "embed_tokens",
    "attn_norm": "layers.{i}.input_layernorm",
    "q": "layers.{i}.self_attn.q_proj",
    "k": "layers.{i}.self_attn.k_proj",
    "v": "layers.{i}.self_attn.v_proj",
    "q_norm": "layers.{i}.self_attn.q_norm",
    "k_norm": "layers.{i}.self_attn.k_norm",
    "o": "layers.{i}.self_attn.o_proj",
    "mlp_norm": "layers.{i}.post_attention_layernorm",
    "gate": "layers.{i}.mlp.gate_proj",
    "up": "layers.{i}.mlp.up_proj",
    "down": "layers.{i}.mlp.down_proj",
    "final_norm": "norm",
    "head": "lm_head",
}
"""transformers' names in Llama and all models that are written after it."""


def table(
    hf: Mapping[str, Name],
    *,
    gguf: Mapping[str, Name] | None = None,
    hf_views: Mapping[str, Views] | None = None,
    gguf_views: Mapping[str, Views] | None = None,
) -> tuple[Slot, ...]:
    """Build a family's table of slots.

    Parameters
    ----------
    hf : mapping
        For every slot (without ``layers.{i}.``) the name of the module that holds its weight and
        bias in a Hugging Face folder. A slot that is not named does not exist in the family.
    gguf : mapping, optional
        Names that differ from `GGUF_NAMES`.
    hf_views, gguf_views : mapping, optional
        Views of slots whose stored tensor is not the slot itself. Those of a weight ``[in, out]``
        are not transposed for the bias.

    Returns
    -------
    tuple of Slot
    """
    return _slots(_ROWS, hf, GGUF_NAMES | dict(gguf or {}), hf_views, gguf_views)


def pair_table(
    decoder: Mapping[str, Name],
    encoder: Mapping[str, Name],
    *,
    hf_views: Mapping[str, Views] | None = None,
) -> tuple[Slot, ...]:
    """Build the table of an encoder and a decoder, which no GGUF file holds.

    Parameters
    ----------
    decoder, encoder : mapping
        See `table`; of the encoder without "encoder.".
    hf_views : mapping, optional
        Views of the slots of both.

    Returns
    -------
    tuple of Slot
    """
    own = {"embedding": ("encoder.embedding", ("E", "d"), "own_embedding", None)}
    rows = tuple(own.get(row[0], (f"encoder.{row[0]}", *row[1:])) for row in _ROWS)
    return _slots(_ROWS, decoder, {}, hf_views, None) + _slots(rows, encoder, {}, hf_views, None)


def _slots(
    rows: tuple[tuple[str, tuple[str, ...], str, str | None], ...],
    hf: Mapping[str, Name],
    names: Mapping[str, Name],
    hf_views: Mapping[str, Views] | None,
    gguf_views: Mapping[str, Views] | None,
) -> tuple[Slot, ...]:
    slots = []
    for name, axes, when, bias_when in rows:
        short = name.rsplit(".", 1)[-1]
        if short not in hf:
            continue
        for kind, shape, feature in (("weight", axes, when), ("bias", axes[:1], bias_when)):
            if feature is None:
                continue
            slots.append(
                Slot(
                    f"{name}.{kind}",
                    shape,
                    _suffixed(hf[short], kind),
                    _suffixed(names.get(short, name), kind),
                    _view_of(hf_views, short, kind),
                    _view_of(gguf_views, short, kind),
                    when=feature,
                )
            )
    return tuple(slots)


def _suffixed(name: Name, kind: str) -> Name:
    if callable(name):
        return lambda spec: f"{name(spec)}.{kind}"
    return f"{name}.{kind}"


def _view_of(views: Mapping[str, Views] | None, slot: str, kind: str) -> Views:
    view = (views or {}).get(slot, WHOLE)
    if kind == "weight":
        return view
    if callable(view):
        return lambda spec: _without_transposition(view(spec))
    return _without_transposition(view)


def _without_transposition(view: View) -> View:
    return View(start=view.start, stride=view.stride, blocks=view.blocks, split=view.split)


def stacked(*axes: str) -> tuple[Callable[[Spec], View], ...]:
    """Return the views of slots with these axes that stand one below the other."""

    def view(number: int) -> Callable[[Spec], View]:
        def of(spec: Spec) -> View:
            sizes = [spec.size(axis) for axis in axes]
            return View(start=sum(sizes[:number]), stride=sum(sizes))

        return of

    return tuple(view(number) for number in range(len(axes)))


def by_group(number: int) -> Callable[[Spec], View]:
    """Return the view of queries (0), keys (1) or values (2) that stand group by group: the queries
    of a key/value head, its keys, its values.
    """

    def of(spec: Spec) -> View:
        group = spec.num_heads // spec.num_kv_heads
        start = (0, group, group + 1)[number]
        return View(
            start=start * spec.head_dim,
            stride=(group + 2) * spec.head_dim,
            blocks=spec.num_kv_heads,
        )

    return of
