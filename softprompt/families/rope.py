"""Rotary positions: the inverse frequencies, computed as transformers computes them.

Method: RoFormer (Su et al., 2021, section 3.4.2); the scalings are those of transformers'
``modeling_rope_utils`` ("linear": positions divided by a factor; "llama3": the
wavelength-dependent factor of Llama 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softprompt.families.fields import Fields

SCALINGS = ("default", "linear", "llama3")


def split_half_order(head_dim: int, rotary_dim: int) -> np.ndarray:
    """Find the channels of an interleaved head in the order of split halves.

    Parameters
    ----------
    head_dim : int
        Channels of a head.
    rotary_dim : int
        How many of them, from the first, are rotated (even).

    Returns
    -------
    ndarray of int, shape [head_dim]
        Channel i of the first half stands at 2i, that of the second half at 2i + 1; channels that
        are not rotated stay.
    """
    half = rotary_dim // 2
    order = np.arange(head_dim)
    order[:half] = 2 * np.arange(half)
    order[half : 2 * half] = 2 * np.arange(half) + 1
    return order


@dataclass(frozen=True)
class Rope:
    """Parameters of a rotary position embedding.

    Attributes
    ----------
    theta : float
        Base of the frequencies.
    scaling : str
        "default", "linear" or "llama3".
    factor : float
        Scaling factor; 1.0 for "default".
    low_freq_factor, high_freq_factor : float
        "llama3" only: wavelengths above ``original_context / low_freq_factor`` are divided by
        `factor`, those below ``original_context / high_freq_factor`` are kept, those between are
        interpolated.
    original_context : int
        "llama3" only: context length of the pretraining.
    """

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0

    def inverse_frequencies(self, rotary_dim: int) -> np.ndarray:
        """Compute the inverse frequencies.

        Parameters
        ----------
        rotary_dim : int
            Number of rotated channels of a head (even).

        Returns
        -------
        ndarray of float32, shape [rotary_dim / 2]
        """
        # The power is taken in double precision and rounded: that is what torch's float32 power
        # gives, to the bit for nearly every base, while numpy's own float32 power is off by one
        # unit in many places.
        exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
        powers = np.power(np.float64(self.theta), exponents.astype(np.float64)).astype(np.float32)
        inverse = np.float32(1.0) / powers
        if self.scaling == "linear":
            inverse = inverse / np.float32(self.factor)
        elif self.scaling == "llama3":
            inverse = self._llama3(inverse)
        return np.ascontiguousarray(inverse, dtype=np.float32)

    def _llama3(self, inverse: np.ndarray) -> np.ndarray:
        low, factor = np.float32(self.low_freq_factor), np.float32(self.factor)
        context = np.float32(self.original_context)
        wavelength = np.float32(2 * np.pi) / inverse
        scaled = np.where(
            wavelength > np.float32(self.original_context / self.low_freq_factor),
            inverse / factor,
            inverse,
        )
        smooth = (context / wavelength - low) / np.float32(
            self.high_freq_factor - self.low_freq_factor
        )
        smoothed = (np.float32(1.0) - smooth) * scaled / factor + smooth * scaled
        medium = ~(wavelength < np.float32(self.original_context / self.high_freq_factor)) & ~(
            wavelength > np.float32(self.original_context / self.low_freq_factor)
        )
        return np.where(medium, smoothed, scaled)


def read_rope(fields: Fields, max_positions: int) -> Rope:
    """Read the rotary parameters of a ``config.json`` as transformers 4 or 5 writes them.

    transformers 4: ``rope_theta`` beside ``rope_scaling`` (an object with "rope_type" or "type",
    or null). transformers 5: one object ``rope_parameters`` with "rope_theta" and "rope_type". As
    there, ``rope_scaling`` goes before ``rope_parameters`` if both are present, and "rope_theta"
    inside the object before the one beside it.

    Parameters
    ----------
    fields : Fields
        The configuration.
    max_positions : int
        Context length; stands in for an absent "original_max_position_embeddings".

    Returns
    -------
    Rope

    Raises
    ------
    ValueError
        A scaling type or a switch that is not computed here, or a value out of range.
    """
    fields.neutral("partial_rotary_factor", (1, 1.0), "rotates a part of every head")
    key = "rope_scaling" if fields.mapping("rope_scaling") else "rope_parameters"
    given = fields.mapping(key) or {}
    inner = Fields(given, f"{fields.where}: {key}", {"rope_theta": fields.get("rope_theta")})
    if any(isinstance(value, dict) for value in given.values()):
        raise ValueError(
            f"{fields.where}: {key} differs by layer type ({', '.join(map(str, given))}), "
            "which softprompt does not compute"
        )
    inner.neutral("partial_rotary_factor", (1, 1.0), "rotates a part of every head")
    theta = 10000.0 if inner.get("rope_theta") is None else inner.number("rope_theta")
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in SCALINGS:
        raise ValueError(
            f"{fields.where}: {key} has rope_type {kind!r}, expected one of {', '.join(SCALINGS)}"
        )
    if kind == "default":
        return Rope(theta)
    factor = inner.number("factor")
    if kind == "linear":
        return Rope(theta, "linear", factor)
    context = inner.optional_integer("original_max_position_embeddings") or max_positions
    low, high = inner.number("low_freq_factor"), inner.number("high_freq_factor")
    if low >= high:
        raise inner.error("high_freq_factor", f"a number above low_freq_factor ({low})")
    return Rope(theta, "llama3", factor, low, high, context)


def read_gguf_rope(fields: Fields) -> Rope:
    """Read the rotary parameters of GGUF metadata (keys ``<architecture>.rope.*``).

    Raises
    ------
    ValueError
        A scaling type that is not computed here. "llama3" scaling is not metadata in a GGUF: it is
        the tensor ``rope_freqs.weight``, whose factors divide the frequencies of this `Rope`.
    """
    theta = 10000.0 if fields.get("rope.freq_base") is None else fields.number("rope.freq_base")
    kind = None
    if fields.get("rope.scaling.type") is not None:
        kind = fields.choice("rope.scaling.type", {"none": "none", "linear": "linear"})
    # Older files have the factor under rope.scale_linear and no type (llama.cpp reads it as
    # linear).
    if fields.get("rope.scaling.factor") is not None:
        factor = fields.number("rope.scaling.factor", positive=False)
    elif fields.get("rope.scale_linear") is not None:
        factor = fields.number("rope.scale_linear", positive=False)
    else:
        factor = 0.0
    if kind == "none" or factor in (0.0, 1.0):  # llama.cpp: a factor of 0 means that there is none
        return Rope(theta)
    if factor < 0:
        raise fields.error("rope.scaling.factor", "a number not below 0")
    return Rope(theta, "linear", factor)
