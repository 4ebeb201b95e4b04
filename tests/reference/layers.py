"""The parts of a decoder layer in float64, each forward function beside its hand-written backward
function.

Shapes: `T` rows of one sequence, `d` hidden size, `H` heads, `K` key/value heads, `h` head width,
`r` rotated width. Backward functions take the gradient of the output and what the forward function
saved, and give the gradient of the input. Weights are frozen, so no function computes a gradient of
a weight.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """``y = x W^T + b`` with x `[T, in]`, weight `[out, in]`."""
    y = x @ weight.T
    return y if bias is None else y + bias


def linear_backward(dy: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``dx = dy W``."""
    return dy @ weight


def norm(
    kind: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """RMSNorm (``kind="rms"``) or LayerNorm (``"layer"``) of the rows of x; saves the normalised x
    and 1/deviation."""
    if kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    inverse = 1.0 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    normalised = x * inverse
    y = normalised * weight
    return (y if bias is None else y + bias), (normalised, inverse)


def norm_backward(
    kind: str, dy: np.ndarray, weight: np.ndarray, saved: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    normalised, inverse = saved
    g = dy * weight
    dx = g - normalised * (g * normalised).mean(axis=-1, keepdims=True)
    if kind == "layer":
        dx = dx - g.mean(axis=-1, keepdims=True)
    return dx * inverse


def rotate(
    x: np.ndarray, angles: np.ndarray, interleaved: bool, *, back: bool = False
) -> np.ndarray:
    """Rotary positions on x `[T, heads, h]` with angles `[T, r/2]`; `back` turns the other way.

    Pairs are `(2i, 2i+1)` if interleaved, else `(i, i + r/2)`. Elements from `r` on stay as they
    are. A rotation is orthogonal, so its backward function is the rotation back.
    """
    half = angles.shape[1]
    cos = np.cos(angles)[:, None, :]
    sin = np.sin(angles)[:, None, :] * (-1.0 if back else 1.0)
    first = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    second = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    a, b = x[:, :, first], x[:, :, second]
    out = x.copy()
    out[:, :, first] = a * cos - b * sin
    out[:, :, second] = b * cos + a * sin
    return out


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    *,
    cap: float = 0.0,
    window: int = 0,
    bias: np.ndarray | None = None,
    causal: bool = True,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Attention: q `[T, H, h]`, k and v `[S, K, h]` -> output `[T, H, h]`; saves the
    probabilities `[H, T, S]` and the soft cap's slopes.

    Query head `i` reads key/value head ``i // (H // K)``. Causal: the T rows are the last ones of
    S, and row `t` of S sees the rows up to `t`, with a window ``t - window + 1 .. t``; otherwise
    it sees all `S`. `bias` `[H, 1 or T, S]` is added to the scores.
    """
    heads = q.shape[1]
    group = heads // k.shape[1]
    scores = scale * np.einsum("thx,shx->hts", q, np.repeat(k, group, axis=1))
    slopes = np.ones_like(scores)
    if cap:
        slopes = 1.0 / np.cosh(scores / cap) ** 2
        scores = cap * np.tanh(scores / cap)
    if bias is not None:
        scores = scores + bias
    t, s = np.arange(len(k) - len(q), len(k))[:, None], np.arange(len(k))[None, :]
    hidden = (s > t) | (s <= t - window if window else False)
    scores[:, hidden & causal] = -np.inf
    scores -= scores.max(axis=2, keepdims=True)
    weights = np.exp(scores)
    weights /= weights.sum(axis=2, keepdims=True)
    out = np.einsum("hts,shx->thx", weights, np.repeat(v, group, axis=1))
    return out, (weights, slopes)


def attention_backward(
    dout: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    saved: tuple[np.ndarray, np.ndarray],
    scale: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, slopes = saved
    group = q.shape[1] // k.shape[1]
    dweights = np.einsum("thx,shx->hts", dout, np.repeat(v, group, axis=1))
    dscores = weights * (dweights - (weights * dweights).sum(axis=2, keepdims=True)) * slopes
    dq = scale * np.einsum("hts,shx->thx", dscores, np.repeat(k, group, axis=1))
    dk = scale * np.einsum("hts,thx->shx", dscores, q)
    dv = np.einsum("hts,thx->shx", weights, dout)

    def sum_groups(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[0], k.shape[1], group, x.shape[2]).sum(axis=2)

    return dq, sum_groups(dk), sum_groups(dv)


def activation(kind: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The activation of x and its derivative there."""
    if kind == "relu":
        return np.maximum(x, 0.0), (x > 0.0).astype(x.dtype)
    if kind == "relu_squared":
        return np.maximum(x, 0.0) ** 2, 2.0 * np.maximum(x, 0.0)
    if kind == "gelu_quick":
        sigmoid = 1.0 / (1.0 + np.exp(-1.702 * x))
        return x * sigmoid, sigmoid * (1.0 + 1.702 * x * (1.0 - sigmoid))
    if kind == "silu":
        sigmoid = 1.0 / (1.0 + np.exp(-x))
        return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))
    if kind == "gelu_erf":
        cumulative = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
        return x * cumulative, cumulative + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    if kind == "gelu_tanh":
        c = math.sqrt(2.0 / math.pi)
        tanh = np.tanh(c * (x + 0.044715 * x**3))
        slope = 0.5 * x * (1.0 - tanh * tanh) * c * (1.0 + 3 * 0.044715 * x * x)
        return 0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + slope
    raise ValueError(f"unknown activation {kind!r}")


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
