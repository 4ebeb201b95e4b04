"""Clipping of a gradient by its norm."""

from __future__ import annotations

import numpy as np

from softprompt.optim.validation import check_finite, check_matrix, check_number


def clip_by_norm(grad: np.ndarray, max_norm: float) -> tuple[np.ndarray, float]:
    """Scale `grad` down so that its Euclidean norm is at most `max_norm`.

    The factor is max_norm / norm, up to rounding. (torch's ``clip_grad_norm_`` divides by
    norm + 1e-6.)

    Parameters
    ----------
    grad : ndarray of shape (num_virtual_tokens, hidden_size), floating
    max_norm : float > 0

    Returns
    -------
    grad : ndarray
        `grad` itself if its norm is at most `max_norm`, else a new array of the same type.
    norm : float
        The norm before clipping, summed in float64.

    Raises
    ------
    TypeError
        If `grad` is not a floating array or `max_norm` not a number.
    ValueError
        If `grad` has another rank, NaN or infinity, or `max_norm` is not finite and > 0.

    Examples
    --------
    >>> clip_by_norm(np.array([[3.0, 4.0]]), 1.0)
    (array([[0.6, 0.8]]), 5.0)
    """
    max_norm = check_number("max_norm", max_norm, open_minimum=True)
    check_finite("grad", check_matrix("grad", grad))
    norm = float(np.sqrt(np.sum(np.square(grad, dtype=np.float64))))
    if norm <= max_norm:
        return grad, norm
    return (grad * (max_norm / norm)).astype(grad.dtype, copy=False), norm
