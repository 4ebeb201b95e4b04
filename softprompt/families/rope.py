"""Rotary positions: the inverse frequencies, computed as transformers computes them.

Method: RoFormer (Su et al., 2021, section 3.4.2); the scalings are those of transformers'
``modeling_rope_utils``: "linear" (positions divided by a factor), "dynamic" (NTK-aware: a base that
grows with the length), "llama3" (the wavelength-dependent factor of Llama 3.1), "yarn" (Peng et
al., 2023, section 3) and "longrope" (Ding et al., 2024: given divisors, other ones for long texts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from softprompt.families.fields import MAX_POSITIONS, MAX_SIZE, Fields

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")

_KNOWN_KEYS = frozenset(
    {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"}
    | {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    | {"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"}
    | {"short_factor", "long_factor"}
)
"""What transformers reads in ``rope_parameters`` of a model of text alone."""


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
        One of `SCALINGS`.
    factor : float
        Scaling factor; 1.0 for "default" and "longrope".
    low_freq_factor, high_freq_factor : float
        "llama3" only: wavelengths above ``original_context / low_freq_factor`` are divided by
        `factor`, those below ``original_context / high_freq_factor`` are kept, those between are
        interpolated.
    original_context : int
        Context length of the pretraining ("llama3", "yarn", "dynamic", "longrope").
    scale : float
        Factor of the rotated heads ("yarn", "longrope"; transformers' attention factor).
    beta_fast, beta_slow : float
        "yarn" only: channels that turn more than `beta_fast` times in the original context are
        kept, those that turn less than `beta_slow` times are divided by `factor`.
    truncate : bool
        "yarn" only: the bounds between them are rounded to whole channels.
    short_factor, long_factor : tuple of float
        "longrope" only: divisors of the frequencies, for texts up to the original context and for
        longer ones.
    """

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    scale: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def length_class(self, length: int) -> int:
        """Tell which texts have equal frequencies.

        Parameters
        ----------
        length : int
            Rows of a whole text, virtual tokens included.

        Returns
        -------
        int
            0 for a text up to the original context, and for all texts where the frequencies do not
            depend on the length. Texts of different classes can share no rows.
        """
        if self.scaling not in ("dynamic", "longrope") or length <= self.original_context:
            return 0
        return length if self.scaling == "dynamic" else 1

    def inverse_frequencies(self, rotary_dim: int, length_class: int = 0) -> np.ndarray:
        """Compute the inverse frequencies.

        Parameters
        ----------
        rotary_dim : int
            Number of rotated channels of a head (even).
        length_class : int, default 0
            See `length_class`.

        Returns
        -------
        ndarray of float32, shape [rotary_dim / 2]
        """
        exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
        powers = _powers(self.theta, exponents)
        if self.scaling == "longrope":
            factors = self.long_factor if length_class else self.short_factor
            inverse = np.float32(1.0) / (np.array(factors, dtype=np.float32) * powers)
        elif self.scaling == "dynamic" and length_class:
            inverse = np.float32(1.0) / _powers(self._dynamic(rotary_dim, length_class), exponents)
        elif self.scaling == "yarn":
            inverse = self._yarn(powers, rotary_dim)
        else:
            inverse = np.float32(1.0) / powers
            if self.scaling == "linear":
                inverse = inverse / np.float32(self.factor)
            elif self.scaling == "llama3":
                inverse = self._llama3(inverse)
        return np.ascontiguousarray(inverse, dtype=np.float32)

    def _dynamic(self, rotary_dim: int, length: int) -> float:
        """The base for a text of this length; torch computes it in single precision."""
        ratio = np.float32(self.factor * length) / np.float32(self.original_context)
        grown = np.float32(ratio - np.float32(self.factor - 1))
        power = np.float32(np.float64(grown) ** (rotary_dim / (rotary_dim - 2)))
        return float(np.float32(self.theta) * power)

    def _yarn(self, powers: np.ndarray, rotary_dim: int) -> np.ndarray:
        def channel(turns: float) -> float:
            """The channel that turns so many times in the original context."""
            turned = math.log(self.original_context / (turns * 2 * math.pi))
            return rotary_dim * turned / (2 * math.log(self.theta))

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotary_dim - 1)
        if low == high:
            high += 0.001
        half = np.arange(rotary_dim // 2, dtype=np.float32)
        ramp = np.clip((half - np.float32(low)) / np.float32(high - low), 0, 1)
        kept = np.float32(1) - ramp.astype(np.float32)
        one, factor = np.float32(1), np.float32(self.factor)
        return one / (factor * powers) * (one - kept) + one / powers * kept

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


def _powers(base: float, exponents: np.ndarray) -> np.ndarray:
    # The power is taken in double precision and rounded: that is what torch's float32 power gives,
    # to the bit for nearly every base, while numpy's own float32 power is off by one unit in many
    # places.
    return np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class RopeReader:
    """How a family writes its rotary parameters beside ``rope_parameters``.

    Attributes
    ----------
    theta : float
        Base of an absent "rope_theta".
    theta_key, partial_key : str or None
        Keys of the base and of the rotated part of a head; None: every head is rotated whole.
    partial : float
        Rotated part of a head where no key says another.
    scalings : tuple of str
        Scalings that the family has in transformers.
    renamed : mapping of str
        Names of scalings that mean another in this family.
    """

    theta: float = 10000.0
    theta_key: str = "rope_theta"
    partial_key: str | None = None
    partial: float = 1.0
    scalings: tuple[str, ...] = SCALINGS
    renamed: tuple[tuple[str, str], ...] = ()

    def read(self, fields: Fields, max_positions: int, head_dim: int) -> tuple[Rope, int, int]:
        """Read the rotary parameters of a ``config.json`` as transformers 4 or 5 writes them.

        transformers 4: ``rope_theta`` beside ``rope_scaling`` (an object with "rope_type" or
        "type", or null). transformers 5: one object ``rope_parameters`` with "rope_theta" and
        "rope_type". As there, ``rope_scaling`` goes before ``rope_parameters`` if both are present,
        and what stands inside the object before what stands beside it.

        Parameters
        ----------
        fields : Fields
            The configuration.
        max_positions : int
            Context length; stands in for an absent "original_max_position_embeddings".
        head_dim : int
            Channels of a head.

        Returns
        -------
        rope : Rope
        rotary_dim : int
            Rotated channels of a head.
        context : int
            Context length that the scaling is for: `max_positions` or more.

        Raises
        ------
        ValueError
            A scaling type or a switch that is not computed here, or a value out of range.
        """
        key = "rope_scaling" if fields.mapping("rope_scaling") else "rope_parameters"
        given = fields.mapping(key) or {}
        if any(isinstance(value, dict) for value in given.values()):
            raise ValueError(
                f"{fields.where}: {key} differs by layer type ({', '.join(map(str, given))}), "
                "which softprompt does not compute for this family"
            )
        return self.read_object(
            fields,
            Fields(given, f"{fields.where}: {key}", {"rope_theta": fields.get(self.theta_key)}),
            max_positions,
            head_dim,
        )

    def read_object(
        self, fields: Fields, inner: Fields, max_positions: int, head_dim: int
    ) -> tuple[Rope, int, int]:
        """Read one object of rotary parameters; see `read`."""
        unknown = sorted(str(name) for name in inner.values if name not in _KNOWN_KEYS)
        if unknown:
            raise ValueError(f"{inner.where}: {unknown[0]} is not known")
        theta = self.theta if inner.get("rope_theta") is None else inner.number("rope_theta")
        rotary_dim = self._rotary_dim(fields, inner, head_dim)
        kind = inner.get("rope_type") or inner.get("type") or "default"
        kind = dict(self.renamed).get(kind, kind) if isinstance(kind, str) else kind
        if kind not in self.scalings:
            raise ValueError(
                f"{inner.where} has rope_type {kind!r}, expected one of {', '.join(self.scalings)}"
            )
        if kind == "default":
            return Rope(theta), rotary_dim, max_positions
        if kind == "longrope":
            rope = _longrope(fields, inner, theta, max_positions, rotary_dim)
            return rope, rotary_dim, max_positions
        factor = inner.number("factor")
        if kind == "linear":
            return Rope(theta, "linear", factor), rotary_dim, max_positions
        if kind == "dynamic":
            if rotary_dim < 4:
                raise inner.error("rope_type", "another scaling for heads with 2 rotated channels")
            rope = Rope(theta, "dynamic", factor, original_context=max_positions)
            return rope, rotary_dim, _grown(max_positions, factor)
        context = _original_context(inner, max_positions)
        if kind == "yarn":
            rope = _yarn(inner, theta, factor, context)
            return rope, rotary_dim, max(max_positions, _grown(context, factor))
        low, high = inner.number("low_freq_factor"), inner.number("high_freq_factor")
        if low >= high:
            raise inner.error("high_freq_factor", f"a number above low_freq_factor ({low})")
        return Rope(theta, "llama3", factor, low, high, context), rotary_dim, max_positions

    def _rotary_dim(self, fields: Fields, inner: Fields, head_dim: int) -> int:
        if self.partial_key is None:
            for where in (fields, inner):
                where.neutral("partial_rotary_factor", (1, 1.0), "rotates a part of every head")
            return head_dim
        where, key = (inner, "partial_rotary_factor")
        if inner.get(key) is None:
            where, key = (fields, self.partial_key)
        part = self.partial if where.get(key) is None else where.number(key)
        rotary_dim = int(head_dim * part)
        if rotary_dim % 2 or not 2 <= rotary_dim <= head_dim:
            raise where.error(key, f"a part of a head ({head_dim}) that is an even number")
        return rotary_dim


def _grown(context: int, factor: float) -> int:
    return int(min(max(context, context * factor), MAX_POSITIONS))


def _original_context(inner: Fields, max_positions: int) -> int:
    return inner.optional_integer("original_max_position_embeddings") or max_positions


def _yarn(inner: Fields, theta: float, factor: float, context: int) -> Rope:
    def number(key: str, default: float) -> float:
        return inner.number(key, positive=False) if inner.get(key) else default

    if theta <= 1:
        raise inner.error("rope_theta", "a number above 1")
    mscale, mscale_all = number("mscale", 0.0), number("mscale_all_dim", 0.0)
    if inner.get("attention_factor") is not None:
        scale = inner.number("attention_factor")
    elif mscale and mscale_all:
        scale = _yarn_scale(factor, mscale) / _yarn_scale(factor, mscale_all)
    else:
        scale = _yarn_scale(factor, 1.0)
    fast, slow = number("beta_fast", 32.0), number("beta_slow", 1.0)
    if slow <= 0 or fast < slow:
        raise inner.error("beta_fast", f"a number not below beta_slow ({slow}), which is above 0")
    truncate = True if inner.get("truncate") is None else inner.flag("truncate")
    return Rope(
        theta,
        "yarn",
        factor,
        original_context=context,
        scale=scale,
        beta_fast=fast,
        beta_slow=slow,
        truncate=truncate,
    )


def _yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(
    fields: Fields, inner: Fields, theta: float, max_positions: int, rotary_dim: int
) -> Rope:
    # Phi 3 has the original context beside the object, where it goes before the one inside.
    context = fields.optional_integer("original_max_position_embeddings") or _original_context(
        inner, max_positions
    )
    lists = []
    for key in ("short_factor", "long_factor"):
        value = inner.get(key)
        good = isinstance(value, list) and len(value) == rotary_dim // 2
        if not good or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in value):
            raise inner.error(key, f"a list of {rotary_dim // 2} numbers")
        if not all(0 < x < 1e30 for x in value):
            raise inner.error(key, "numbers above 0")
        lists.append(tuple(float(x) for x in value))
    factor = max_positions / context if inner.get("factor") is None else inner.number("factor")
    if inner.get("attention_factor") is not None:
        scale = inner.number("attention_factor")
    else:
        scale = longrope_scale(factor, context)
    return Rope(
        theta,
        "longrope",
        original_context=context,
        scale=scale,
        short_factor=lists[0],
        long_factor=lists[1],
    )


def longrope_scale(factor: float, context: int) -> float:
    """Return the factor of rotated heads that LongRoPE recommends for a longer context."""
    if factor <= 1 or context <= 1:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(context))


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
        names = {"none": "none", "linear": "linear", "yarn": "yarn", "longrope": "longrope"}
        kind = fields.choice("rope.scaling.type", names)
    # Older files have the factor under rope.scale_linear and no type (llama.cpp reads it as
    # linear).
    if fields.get("rope.scaling.factor") is not None:
        factor = fields.number("rope.scaling.factor", positive=False)
    elif fields.get("rope.scale_linear") is not None:
        factor = fields.number("rope.scale_linear", positive=False)
    else:
        factor = 0.0
    if kind in ("none", "longrope") or factor in (0.0, 1.0):
        return Rope(theta)  # llama.cpp: a factor of 0 means that there is none
    if factor < 0:
        raise fields.error("rope.scaling.factor", "a number not below 0")
    if kind != "yarn":
        return Rope(theta, "linear", factor)
    key = "rope.scaling.original_context_length"
    context = fields.integer("context_length" if fields.get(key) is None else key, high=MAX_SIZE)
    attention = fields.get("rope.scaling.attn_factor")
    scale = 1.0 if attention is None else fields.number("rope.scaling.attn_factor")
    inner = Fields({}, fields.where)
    return replace(_yarn(inner, theta, factor, context), scale=scale * _yarn_scale(factor, 1.0))
