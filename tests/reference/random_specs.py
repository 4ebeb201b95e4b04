"""Hypothesis strategy of small decoders: every switch of the spec, in every combination, with
random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import hypothesis.strategies as st
import numpy as np
from reference.pair import PairTwin
from reference.twin import USUAL, Twin

MAX_POSITIONS = 64
ACTIVATIONS = ["silu", "gelu_tanh", "gelu_erf", "gelu_quick", "relu", "relu_squared"]


@st.composite
def twins(draw: st.DrawFn, **fixed: object) -> Twin:
    """A random small decoder with float32 weights; keywords fix entries of its spec."""
    kv_heads = draw(st.integers(1, 3))
    rotary_pairs = draw(st.integers(1, 3))
    head_dim = 2 * rotary_pairs + draw(st.sampled_from([0, 1, 2, 3]))
    norm = draw(st.sampled_from(["rms", "layer"]))
    positions = draw(st.sampled_from(["rotary", "rotary", "learned", "alibi", "none"]))
    num_layers = draw(st.integers(1, 3))
    num_ropes = draw(st.sampled_from([1, 1, 2])) if positions == "rotary" else 1
    one_of_ropes = st.integers(-1, num_ropes - 1)
    parallel = draw(st.booleans())
    final_norm = draw(st.sampled_from([True, True, False]))
    places = ["pre", "pre", "output", "sandwich", "post"][: 4 if parallel else 5]

    def seldom(*values: object) -> object:
        """Mostly the first, which is a switch's usual value."""
        return draw(st.sampled_from([values[0]] * 2 + list(values[1:])))

    def by_layer(numbers: st.SearchStrategy) -> tuple:
        lists = st.lists(numbers, min_size=num_layers, max_size=num_layers).map(tuple)
        return draw(st.just(()) | lists)

    spec = {
        "vocab_size": draw(st.integers(12, 40)),
        "hidden_size": draw(st.integers(3, 19)),
        "num_layers": num_layers,
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": draw(st.integers(1, 23)),
        "max_positions": MAX_POSITIONS,
        "norm": norm,
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "positions": positions,
        "rotary_dim": 2 * rotary_pairs if positions == "rotary" else 0,
        "rope_interleaved": positions == "rotary" and draw(st.booleans()),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "gated": draw(st.booleans()),
        "attention_scale": draw(st.sampled_from([1.0 / math.sqrt(head_dim), 0.3])),
        "embedding_scale": seldom(1.0, 1.7),
        "norm_place": draw(st.sampled_from(places)),
        "qk_norm": seldom("none", "head", "heads", "whole"),
        "parallel_residual": parallel,
        "embedding_norm": seldom(False, True),
        "final_norm": final_norm,
        "attention_soft_cap": seldom(0.0, 1.3, 20.0),
        "qkv_clip": seldom(0.0, 0.9),
        "input_scale": seldom(1.0, 0.6),
        "residual_scale": seldom(1.0, 0.4),
        # Without a final norm logits are large, and a probability near 1 cancels in the gradient.
        "logit_scale": seldom(1.0, 0.3) if final_norm else 0.1,
        "logit_soft_cap": seldom(0.0, 2.0),
        "num_ropes": num_ropes,
        "windows": by_layer(st.sampled_from([0, 1, 3, 8])),
        "ropes": by_layer(one_of_ropes) if positions == "rotary" else (),
    } | fixed
    return Twin(
        spec,
        random_weights(
            spec,
            seed=draw(st.integers(0, 2**32 - 1)),
            attention_bias=draw(st.booleans()),
            mlp_bias=draw(st.booleans()),
            separate_head=draw(st.booleans()),
            head_bias=draw(st.booleans()),
            rope_scale=draw(st.booleans()),
        ),
    )


@st.composite
def pair_twins(draw: st.DrawFn, **fixed: object) -> PairTwin:
    """A random small encoder-decoder with float32 weights; keywords fix entries of its spec."""
    kv_heads = draw(st.integers(1, 3))
    head_dim = draw(st.integers(2, 7))
    final_norm = draw(st.sampled_from([True, True, False]))
    positions = draw(st.sampled_from(["relative", "learned", "none"]))
    spec = {
        "vocab_size": draw(st.integers(12, 40)),
        "encoder_vocab_size": draw(st.sampled_from([0, 0, 11, 43])),
        "hidden_size": draw(st.integers(3, 19)),
        "num_layers": draw(st.integers(1, 3)),
        "num_encoder_layers": draw(st.integers(1, 3)),
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": draw(st.integers(1, 23)),
        "max_positions": MAX_POSITIONS,
        "norm": draw(st.sampled_from(["rms", "layer"])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "positions": positions,
        "relative_reach": draw(st.sampled_from([1, 3, 9])) if positions == "relative" else 0,
        "rotary_dim": 0,
        "rope_interleaved": False,
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "gated": draw(st.booleans()),
        "attention_scale": draw(st.sampled_from([1.0 / math.sqrt(head_dim), 0.3])),
        "embedding_scale": draw(st.sampled_from([1.0, 1.7])),
        "norm_place": draw(st.sampled_from(["pre", "post", "pre", "post", "output", "sandwich"])),
        "embedding_norm": draw(st.booleans()),
        "final_norm": final_norm,
        "attention_soft_cap": draw(st.sampled_from([0.0, 0.0, 1.3])),
        "input_scale": draw(st.sampled_from([1.0, 1.0, 0.6])),
        "residual_scale": draw(st.sampled_from([1.0, 1.0, 0.4])),
        "logit_scale": draw(st.sampled_from([1.0, 0.3])) if final_norm else 0.1,
        "logit_soft_cap": draw(st.sampled_from([0.0, 0.0, 2.0])),
    } | fixed
    weights = random_weights(
        spec,
        seed=draw(st.integers(0, 2**32 - 1)),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        separate_head=draw(st.booleans()),
        head_bias=draw(st.booleans()),
    )
    twin = PairTwin(spec, weights)
    twin.start = draw(st.integers(0, spec["vocab_size"] - 1))
    return twin


def random_weights(
    spec: dict,
    *,
    seed: int,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    separate_head: bool = False,
    head_bias: bool = False,
    rope_scale: bool = False,
) -> dict[str, np.ndarray]:
    """Float32 slots for a spec, scaled so that logits spread over a few units."""
    rng = np.random.default_rng(seed)
    spec = USUAL | spec
    d, f, vocab = spec["hidden_size"], spec["intermediate_size"], spec["vocab_size"]
    q_size = spec["num_heads"] * spec["head_dim"]
    kv_size = spec["num_kv_heads"] * spec["head_dim"]
    slots: dict[str, np.ndarray] = {}

    def put(name: str, *shape: int, scale: float, center: float = 0.0) -> None:
        slots[name] = (center + scale * rng.standard_normal(shape)).astype(np.float32)

    def put_norm(name: str, size: int = d) -> None:
        put(name + ".weight", size, scale=0.3, center=1.0)
        if spec["norm"] == "layer":
            put(name + ".bias", size, scale=0.3)

    def put_linears(prefix: str, linears: list[tuple[str, int, int, bool]]) -> None:
        for name, rows, columns, bias in linears:
            put(f"{prefix}{name}.weight", rows, columns, scale=1.2 / math.sqrt(columns))
            if bias:
                put(f"{prefix}{name}.bias", rows, scale=0.3)

    def put_halves(prefix: str, *halves: str) -> None:
        for half in halves:
            if spec["norm_place"] in ("pre", "sandwich"):
                put_norm(f"{prefix}{half}_norm")
            if spec["norm_place"] != "pre":
                put_norm(f"{prefix}{half}_out_norm")

    def put_stack(prefix: str, num_layers: int, *, reads: bool) -> None:
        if spec["positions"] == "learned":
            put(f"{prefix}position.weight", spec["max_positions"], d, scale=0.5)
        if spec["positions"] == "relative":
            distances = 2 * spec["relative_reach"] + 1
            put(f"{prefix}relative.bias", spec["num_heads"], distances, scale=0.7)
        if spec["embedding_norm"]:
            put_norm(f"{prefix}embedding_norm")
        for i in range(num_layers):
            layer = f"{prefix}layers.{i}."
            put_halves(layer, "attn", "mlp")
            if spec["qk_norm"] != "none":
                one = spec["qk_norm"] == "head"
                put_norm(f"{layer}q_norm", spec["head_dim"] if one else q_size)
                put_norm(f"{layer}k_norm", spec["head_dim"] if one else kv_size)
            attention = [
                ("q", q_size, d, attention_bias),
                ("k", kv_size, d, attention_bias),
                ("v", kv_size, d, attention_bias),
                ("o", d, q_size, attention_bias),
            ]
            mlp = [("up", f, d, mlp_bias), ("down", d, f, mlp_bias)]
            if spec["gated"]:
                mlp.append(("gate", f, d, mlp_bias))
            put_linears(layer, attention + mlp)
            if reads:
                put_halves(layer, "cross")
                put_linears(f"{layer}cross_", attention)
        if spec["final_norm"]:
            put_norm(f"{prefix}final_norm")

    put("embedding.weight", vocab, d, scale=1.0)
    if spec["positions"] == "rotary":
        exponents = np.arange(0, spec["rotary_dim"], 2) / spec["rotary_dim"]
        bases = np.array([300.0, 7.0][: spec["num_ropes"]])
        slots["rope.inv_freq"] = (1.0 / bases[:, None] ** exponents).astype(np.float32)
        if rope_scale:
            put("rope.scale", spec["num_ropes"], scale=0.2, center=1.1)
    if spec["positions"] == "alibi":
        slopes = 2.0 ** -rng.uniform(0, 6, spec["num_heads"])
        bias = slopes[:, None] * np.arange(spec["max_positions"])
        slots["alibi.bias"] = bias.astype(np.float32)
    put_stack("", spec["num_layers"], reads=spec["num_encoder_layers"] > 0)
    if spec["num_encoder_layers"]:
        if spec["encoder_vocab_size"]:
            put("encoder.embedding.weight", spec["encoder_vocab_size"], d, scale=1.0)
        put_stack("encoder.", spec["num_encoder_layers"], reads=False)
    if separate_head:
        put("head.weight", vocab, d, scale=2.0 / math.sqrt(d))
    if head_bias:
        put("head.bias", vocab, scale=0.5)
    return slots


@st.composite
def token_lists(
    draw: st.DrawFn, vocab_size: int, *, min_size: int = 0, max_size: int = 9
) -> list[int]:
    """A list of token ids, endpoints of the vocabulary included often."""
    ids = st.one_of(st.integers(0, vocab_size - 1), st.sampled_from([0, vocab_size - 1]))
    return draw(st.lists(ids, min_size=min_size, max_size=max_size))


@st.composite
def examples(
    draw: st.DrawFn, vocab_size: int, *, min_input: int = 0, max_examples: int = 5
) -> list[tuple]:
    """A batch of examples of uneven length, common beginnings likely, some with target weights."""
    start = draw(token_lists(vocab_size, max_size=5))
    batch = []
    for _ in range(draw(st.integers(1, max_examples))):
        shared = start[: draw(st.integers(0, len(start)))]
        rest = draw(token_lists(vocab_size, min_size=max(0, min_input - len(shared)), max_size=6))
        target = draw(token_lists(vocab_size, min_size=1, max_size=4))
        example: tuple = (shared + rest, target)
        if draw(st.booleans()):
            weights = st.floats(0.1, 3.0, allow_nan=False)
            example += (draw(st.lists(weights, min_size=len(target), max_size=len(target))),)
        batch.append(example)
    return batch


@st.composite
def prefixes(draw: st.DrawFn, spec: Mapping, *, max_rows: int = 7) -> np.ndarray:
    """A prefix `[L, 2, P, K, h]` float32 with one to `max_rows` positions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, max_rows))
    shape = (spec["num_layers"], 2, rows, spec["num_kv_heads"], spec["head_dim"])
    return rng.standard_normal(shape).astype(np.float32)


@st.composite
def prompts(draw: st.DrawFn, hidden_size: int, *, max_rows: int = 7) -> np.ndarray:
    """A prompt `[P, d]` float32 with one to `max_rows` rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.standard_normal((draw(st.integers(1, max_rows)), hidden_size)).astype(np.float32)
