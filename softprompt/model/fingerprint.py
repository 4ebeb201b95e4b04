"""A model's fingerprint: equal for equal weights, in whatever file and layout they were stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from softprompt.families import ENGINE_FIELDS, Spec
from softprompt.families.rope import split_half_order

__all__ = ["fingerprint"]

ROWS = 64
"""Rows of a weight that are hashed, evenly spaced from the first to the last."""

# What two files of one model may say differently: a limit, and the layout of q and k.
_LEFT_OUT = ("max_positions", "rope_interleaved")


def fingerprint(spec: Spec, weights: Mapping[str, np.ndarray]) -> str:
    """Hash a model's switches and a sample of its weights.

    Parameters
    ----------
    spec : Spec
        The model's switches.
    weights : mapping of str to ndarray of float32
        All weights by slot.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits. Rows of q and k that a file keeps in the order of
        interleaved rotations are hashed in the order of split halves, so that a GGUF of float16
        and a Hugging Face folder of float16 agree.
    """
    digest = hashlib.sha256(json.dumps(_essentials(spec), sort_keys=True).encode())
    for name in sorted(weights):
        if name in ("rope.inv_freq", "rope.scale", "alibi.bias"):
            continue  # computed from the spec; a unit in the last place differs between files
        if spec.sinusoid is not None and name.endswith("position.weight"):
            continue  # the same
        array = weights[name]
        digest.update(f"{name} {array.shape}".encode())
        rows = _row_order(spec, name, array.shape[0])
        if array.ndim > 1:
            count = min(ROWS, array.shape[0])
            chosen = np.arange(count) * (array.shape[0] - 1) // max(count - 1, 1)
            rows = chosen if rows is None else rows[chosen]
        sample = array if rows is None else array[rows]
        digest.update(np.ascontiguousarray(sample, dtype="<f4").tobytes())
    return digest.hexdigest()


def _essentials(spec: Spec) -> dict[str, object]:
    values: dict[str, object] = {}
    usual = {field.name: field.default for field in fields(Spec)}
    for name in ENGINE_FIELDS:
        value = getattr(spec, name)
        # A switch that a later version brought counts where it is on: older prompts stay valid.
        if name in _LEFT_OUT or value == usual[name]:
            continue
        # Files keep numbers in single or in double precision.
        values[name] = float(np.float32(value)).hex() if isinstance(value, float) else value
    for prefix, rope in (("rope", spec.rope), ("local_rope", spec.local_rope)):
        if rope is not None:
            values[f"{prefix}_theta"] = float(np.float32(rope.theta)).hex()
            if rope.scaling in ("linear", "dynamic", "yarn"):
                values[f"{prefix}_factor"] = float(np.float32(rope.factor)).hex()
    return values


def _row_order(spec: Spec, name: str, rows: int) -> np.ndarray | None:
    """Return the stored row of every row in the order of split halves; None for the same order."""
    if not spec.rope_interleaved or name.split(".")[-2] not in ("q", "k"):
        return None
    within = split_half_order(spec.head_dim, spec.rotary_dim)
    heads = np.arange(rows // spec.head_dim)[:, None] * spec.head_dim
    return (heads + within).reshape(-1)
