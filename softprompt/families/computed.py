"""Weights that no file holds: they follow from the configuration."""

from __future__ import annotations

from collections.abc import MutableMapping

import numpy as np

from softprompt.families.spec import Spec

__all__ = ["computed_weights", "inverse_frequencies", "length_class"]


def length_class(spec: Spec, length: int) -> int:
    """Tell which texts have equal rotary frequencies.

    Parameters
    ----------
    spec : Spec
    length : int
        Rows of a whole text, virtual tokens included.

    Returns
    -------
    int
        See `softprompt.families.rope.Rope.length_class`.
    """
    return 0 if spec.rope is None else spec.rope.length_class(length)


def inverse_frequencies(spec: Spec, length_class: int = 0) -> np.ndarray:
    """Compute all sets of rotary frequencies.

    Parameters
    ----------
    spec : Spec
        With rotary positions.
    length_class : int, default 0

    Returns
    -------
    ndarray of float32, shape [num_ropes, rotary_dim / 2]
    """
    sets = [
        rope.inverse_frequencies(spec.rotary_dim, length_class)
        for rope in (spec.rope, spec.local_rope)
        if rope is not None
    ]
    return np.stack(sets)


def computed_weights(
    spec: Spec, stored: MutableMapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Compute the slots that no file holds.

    Parameters
    ----------
    spec : Spec
    stored : mutable mapping of str to ndarray of float32, optional
        The slots that files hold. Those that are none of the engine's, but what others are computed
        from, are taken out of it.

    Returns
    -------
    dict of str to ndarray of float32
        Rotary frequencies and their scales, ALiBi's biases, biases by distance, sines and cosines
        of positions, ones for norms without weights.
    """
    arrays: dict[str, np.ndarray] = {}
    if spec.rope is not None:
        frequencies = inverse_frequencies(spec)
        arrays["rope.inv_freq"] = frequencies if spec.num_ropes > 1 else frequencies[0]
        scales = [rope.scale for rope in (spec.rope, spec.local_rope) if rope is not None]
        if any(scale != 1.0 for scale in scales):
            arrays["rope.scale"] = np.array(scales, dtype=np.float32)
    if spec.alibi is not None:
        arrays["alibi.bias"] = spec.alibi.bias(spec.num_heads, spec.max_positions)
    stacks = ("", "encoder.") if spec.num_encoder_layers else ("",)
    for stack in stacks:
        if spec.sinusoid is not None and not spec.stored_positions:
            table = spec.sinusoid.table(spec.max_positions, spec.hidden_size)
            arrays[f"{stack}position.weight"] = table
        if spec.relative is not None and stored is not None:
            table = stored.pop(f"{stack}relative.weight")
            bias = spec.relative.bias(table, bidirectional=bool(stack))
            arrays[f"{stack}relative.bias"] = bias
    if not spec.norm_weights:
        ones = np.ones(spec.hidden_size, dtype=np.float32)
        norms = ["attn_norm", "mlp_norm"]
        if spec.norm_place == "post":
            norms = ["attn_out_norm", "mlp_out_norm"]
        for norm in norms:
            arrays |= {f"layers.{i}.{norm}.weight": ones for i in range(spec.num_layers)}
        if spec.final_norm:
            arrays["final_norm.weight"] = ones
    for array in arrays.values():
        array.flags.writeable = False
    return arrays
