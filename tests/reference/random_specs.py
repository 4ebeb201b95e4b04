"""Hypothesis strategy of small decoders: every switch of the spec, in every combination, with
random weights."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
from reference.twin import Twin

MAX_POSITIONS = 64


@st.composite
def twins(draw: st.DrawFn, **fixed: object) -> Twin:
    """A random small decoder with float32 weights; keywords fix entries of its spec."""
    kv_heads = draw(st.integers(1, 3))
    rotary_pairs = draw(st.integers(1, 3))
    head_dim = 2 * rotary_pairs + draw(st.sampled_from([0, 1, 2, 3]))
    norm = draw(st.sampled_from(["rms", "layer"]))
    positions = draw(st.sampled_from(["rotary", "learned", "none"]))
    spec = {
        "vocab_size": draw(st.integers(12, 40)),
        "hidden_size": draw(st.integers(3, 19)),
        "num_layers": draw(st.integers(1, 3)),
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
        "activation": draw(st.sampled_from(["silu", "gelu_tanh", "gelu_erf", "relu"])),
        "gated": draw(st.booleans()),
        "attention_scale": draw(st.sampled_from([1.0 / math.sqrt(head_dim), 0.3])),
        "embedding_scale": draw(st.sampled_from([1.0, 1.0, 1.7])),
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
        ),
    )


def random_weights(
    spec: dict,
    *,
    seed: int,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    separate_head: bool = False,
    head_bias: bool = False,
) -> dict[str, np.ndarray]:
    """Float32 slots for a spec, scaled so that logits spread over a few units."""
    rng = np.random.default_rng(seed)
    d, f, vocab = spec["hidden_size"], spec["intermediate_size"], spec["vocab_size"]
    q_size = spec["num_heads"] * spec["head_dim"]
    kv_size = spec["num_kv_heads"] * spec["head_dim"]
    slots: dict[str, np.ndarray] = {}

    def put(name: str, *shape: int, scale: float, center: float = 0.0) -> None:
        slots[name] = (center + scale * rng.standard_normal(shape)).astype(np.float32)

    def put_norm(name: str) -> None:
        put(name + ".weight", d, scale=0.3, center=1.0)
        if spec["norm"] == "layer":
            put(name + ".bias", d, scale=0.3)

    put("embedding.weight", vocab, d, scale=1.0)
    if spec["positions"] == "learned":
        put("position.weight", spec["max_positions"], d, scale=0.5)
    if spec["positions"] == "rotary":
        exponents = np.arange(0, spec["rotary_dim"], 2) / spec["rotary_dim"]
        slots["rope.inv_freq"] = (1.0 / 300.0**exponents).astype(np.float32)
    for i in range(spec["num_layers"]):
        put_norm(f"layers.{i}.attn_norm")
        put_norm(f"layers.{i}.mlp_norm")
        linears = [
            ("q", q_size, d, attention_bias),
            ("k", kv_size, d, attention_bias),
            ("v", kv_size, d, attention_bias),
            ("o", d, q_size, attention_bias),
            ("up", f, d, mlp_bias),
            ("down", d, f, mlp_bias),
        ]
        if spec["gated"]:
            linears.append(("gate", f, d, mlp_bias))
        for name, rows, columns, bias in linears:
            put(f"layers.{i}.{name}.weight", rows, columns, scale=1.2 / math.sqrt(columns))
            if bias:
                put(f"layers.{i}.{name}.bias", rows, scale=0.3)
    put_norm("final_norm")
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
def prompts(draw: st.DrawFn, hidden_size: int, *, max_rows: int = 7) -> np.ndarray:
    """A prompt `[P, d]` float32 with one to `max_rows` rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.standard_normal((draw(st.integers(1, max_rows)), hidden_size)).astype(np.float32)
