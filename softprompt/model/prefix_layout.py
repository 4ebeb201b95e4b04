"""Keys and values between `Prefix`, which has transformers' order, and the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softprompt.families import Spec
from softprompt.families.rope import split_half_order
from softprompt.prompt import Prefix

__all__ = ["from_engine", "gradient_from_engine", "stack_prefixes", "to_engine"]

_INTERLEAVED_THERE = ("cohere", "cohere2", "gptj")
"""Families whose keys transformers itself keeps in interleaved order."""


def _channels(spec: Spec) -> np.ndarray | None:
    """Where each of transformers' channels of a key's head is in the engine's; None: there too."""
    if not spec.rope_interleaved or spec.family in _INTERLEAVED_THERE:
        return None
    return split_half_order(spec.head_dim, spec.rotary_dim)


def to_engine(prefix: Prefix, spec: Spec) -> np.ndarray:
    """Return a prefix as the engine reads it.

    Parameters
    ----------
    prefix : Prefix
        Of the model's sizes.
    spec : Spec

    Returns
    -------
    ndarray of float32, shape (num_layers, 2, num_virtual_tokens, kv_width)
    """
    keys, channels = prefix.keys, _channels(spec)
    if channels is not None:
        keys = keys[..., np.argsort(channels)]
    both = np.stack([keys, prefix.values], axis=1)
    return np.ascontiguousarray(both.reshape(*both.shape[:3], -1))


def from_engine(keys: np.ndarray, values: np.ndarray, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and values of the engine as `Prefix` takes them.

    Parameters
    ----------
    keys, values : ndarray of shape (num_layers, rows, kv_width)
    spec : Spec

    Returns
    -------
    keys, values : ndarray of shape (num_layers, rows, num_kv_heads, head_dim)
    """
    shape = (*keys.shape[:2], spec.num_kv_heads, spec.head_dim)
    keys, channels = keys.reshape(shape), _channels(spec)
    if channels is not None:
        keys = keys[..., channels]
    return keys, values.reshape(shape)


def gradient_from_engine(grad: np.ndarray, spec: Spec) -> np.ndarray:
    """Return the gradient of a prefix in the order of `Prefix.flattened`.

    Parameters
    ----------
    grad : ndarray of float32, shape (num_layers, 2, rows, kv_width)
    spec : Spec

    Returns
    -------
    ndarray of float32, shape (rows, num_layers * 2 * kv_width)
    """
    both = np.stack(from_engine(grad[:, 0], grad[:, 1], spec), axis=1)
    return np.ascontiguousarray(np.moveaxis(both, 2, 0).reshape(grad.shape[2], -1))


def stack_prefixes(prefixes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return several prefixes as the engine takes them, one below the other.

    Parameters
    ----------
    prefixes : sequence of ndarray of shape (num_layers, 2, rows_i, kv_width)
        At least one.

    Returns
    -------
    prefix : ndarray of float32, shape (num_layers, 2, rows, kv_width)
    starts : ndarray of int32, shape (len(prefixes) + 1,)
    """
    starts = np.cumsum([0] + [prefix.shape[2] for prefix in prefixes]).astype(np.int32)
    whole = prefixes[0] if len(prefixes) == 1 else np.concatenate(prefixes, axis=2)
    return np.ascontiguousarray(whole), starts
