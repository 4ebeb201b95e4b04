"""What a model is: the engine's switches (`Spec`), the weight slots and how a family names them.

A model family is a table. For every slot of the engine it says what the tensor is called in a
Hugging Face folder and in a GGUF file, and which view of that tensor the slot is (a transposition,
one of several stacked parts). See `softprompt.families.llama` for the simplest one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from softprompt.families.rope import Rope

ENGINE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "max_positions",
    "norm",
    "norm_eps",
    "positions",
    "rotary_dim",
    "rope_interleaved",
    "activation",
    "gated",
    "attention_scale",
    "embedding_scale",
)
"""The fields of `Spec` that the engine takes, in the order of `Spec`."""


@dataclass(frozen=True)
class Spec:
    """Everything the engine needs to know of a model, and which optional slots the model has.

    Attributes
    ----------
    vocab_size, hidden_size, num_layers, num_heads, num_kv_heads, head_dim, intermediate_size,
    max_positions : int
        Sizes. ``num_heads`` is a multiple of ``num_kv_heads``.
    norm : str
        "rms" or "layer".
    norm_eps : float
        Added to the variance.
    positions : str
        "rotary", "learned" or "none".
    rotary_dim : int
        Rotated channels of a head (even; 0 without rotary positions).
    rope_interleaved : bool
        True: channels (2i, 2i+1) are a pair (GGUF Llama files). False: (i, i + rotary_dim / 2), as
        transformers.
    activation : str
        "silu", "gelu_tanh", "gelu_erf" or "relu".
    gated : bool
        ``down(act(gate(x)) * up(x))`` instead of ``down(act(up(x)))``.
    attention_scale : float
        Factor of ``q . k``.
    embedding_scale : float
        Factor of a token's embedding.
    family : str
        Name of the family's table.
    rope : Rope or None
        Where the inverse frequencies come from.
    tied : bool
        The output head is the embedding table.
    qkv_bias, output_bias, mlp_bias, head_bias : bool
        Which projections have a bias.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    norm: str
    norm_eps: float
    positions: str
    rotary_dim: int
    rope_interleaved: bool
    activation: str
    gated: bool
    attention_scale: float
    embedding_scale: float
    family: str
    rope: Rope | None = None
    tied: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False

    def engine_dict(self) -> dict[str, Any]:
        """Return the fields that ``_core.Model`` takes, as a new dict."""
        return {name: getattr(self, name) for name in ENGINE_FIELDS}

    def has(self, feature: str) -> bool:
        """Say whether slots that exist only with `feature` exist in this model."""
        if feature == "":
            return True
        if feature == "untied":
            return not self.tied
        if feature == "learned":
            return self.positions == "learned"
        return bool(getattr(self, feature))

    def size(self, axis: str) -> int:
        """Return the length of a named axis of a slot: V, d, P, q, kv or f."""
        return {
            "V": self.vocab_size,
            "d": self.hidden_size,
            "P": self.max_positions,
            "q": self.num_heads * self.head_dim,
            "kv": self.num_kv_heads * self.head_dim,
            "f": self.intermediate_size,
        }[axis]


def check_spec(spec: Spec, where: str) -> Spec:
    """Check what ties the sizes to each other; returns `spec`.

    Raises
    ------
    ValueError
        Sizes that no transformer has, with the file's name.
    """
    if spec.num_heads % spec.num_kv_heads:
        raise ValueError(
            f"{where}: {spec.num_heads} attention heads do not divide into groups of "
            f"{spec.num_kv_heads} key/value heads"
        )
    if spec.positions == "rotary" and (
        spec.rotary_dim % 2 or not 2 <= spec.rotary_dim <= spec.head_dim
    ):
        raise ValueError(
            f"{where}: {spec.rotary_dim} rotated channels, expected an even number in "
            f"[2, {spec.head_dim}] (the size of a head)"
        )
    for axis, what in (("q", "query"), ("kv", "key/value")):
        if spec.size(axis) > 2**31 - 1:
            raise ValueError(f"{where}: {spec.size(axis)} {what} channels are too many")
    return spec


@dataclass(frozen=True)
class View:
    """Which part of a stored tensor a slot is.

    Attributes
    ----------
    transpose : bool
        The tensor is stored ``[in, out]`` and the slot is ``[out, in]``.
    part, parts : int
        The slot is the `part`-th of `parts` equal blocks of (output) rows.
    """

    transpose: bool = False
    part: int = 0
    parts: int = 1

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the stored tensor for a slot of `shape`."""
        full = (shape[0] * self.parts, *shape[1:])
        return full[::-1] if self.transpose else full


WHOLE = View()


@dataclass(frozen=True)
class Slot:
    """One row of a family's table: a weight of the engine and its names in files.

    Attributes
    ----------
    name : str
        The engine's name, with ``{i}`` for the layer.
    axes : tuple of str
        Shape in the letters of `Spec.size`.
    hf : str
        Name in a Hugging Face folder, without the prefix of the family; ``{i}`` is the layer.
    gguf : str
        Name in a GGUF file.
    hf_view, gguf_view : View
        Which part of the stored tensor it is.
    when : str
        Feature (see `Spec.has`) without which the slot does not exist; "" for always.
    """

    name: str
    axes: tuple[str, ...]
    hf: str
    gguf: str
    hf_view: View = WHOLE
    gguf_view: View = WHOLE
    when: str = ""


@dataclass(frozen=True)
class BoundSlot:
    """A slot of one model: name, shape, and the stored tensor that holds it."""

    name: str
    shape: tuple[int, ...]
    source: str
    view: View


@dataclass(frozen=True)
class Family:
    """A model family: names, readers and the table of slots.

    Attributes
    ----------
    name : str
        Name of the family, as in `Spec.family`.
    model_types : tuple of str
        Values of ``model_type`` in ``config.json`` that it serves.
    architectures : tuple of str
        Values of ``general.architecture`` in GGUF metadata that it serves.
    slots : tuple of Slot
        The table.
    hf_prefixes : tuple of str
        Prefixes that tensor names may carry in a Hugging Face folder.
    hf_ignored : tuple of str
        Regular expressions (of whole names, without prefix) of tensors that hold no weights.
    gguf_ignored : tuple of str
        The same for GGUF names.
    read_config : callable
        ``(config, where) -> Spec`` from ``config.json``.
    read_gguf : callable
        ``(metadata, where, tensor names) -> Spec`` from GGUF metadata.
    """

    name: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    slots: tuple[Slot, ...]
    read_config: Callable[[Mapping[str, Any], str], Spec]
    read_gguf: Callable[[Mapping[str, Any], str, Container[str]], Spec]
    hf_prefixes: tuple[str, ...] = ("",)
    hf_ignored: tuple[str, ...] = field(default=())
    gguf_ignored: tuple[str, ...] = field(default=())

    def bound_slots(self, spec: Spec, kind: str) -> list[BoundSlot]:
        """List the slots of a model in canonical order.

        Parameters
        ----------
        spec : Spec
            The model.
        kind : {"hf", "gguf"}
            Which names and views to use.

        Returns
        -------
        list of BoundSlot
            The table's rows in order, a run of rows with ``{i}`` repeated layer by layer.
        """
        rows = [slot for slot in self.slots if spec.has(slot.when)]
        first = next(n for n, slot in enumerate(rows) if "{i}" in slot.name)
        last = max(n for n, slot in enumerate(rows) if "{i}" in slot.name) + 1
        listed = [(slot, 0) for slot in rows[:first]]
        listed += [(slot, i) for i in range(spec.num_layers) for slot in rows[first:last]]
        listed += [(slot, 0) for slot in rows[last:]]
        return [
            BoundSlot(
                name=slot.name.format(i=i),
                shape=tuple(spec.size(axis) for axis in slot.axes),
                source=getattr(slot, kind).format(i=i),
                view=getattr(slot, kind + "_view"),
            )
            for slot, i in listed
        ]
