"""What a model is: the engine's switches (`Spec`), the weight slots and how a family names them.

A model family is a table. For every slot of the engine it says what the tensor is called in a
Hugging Face folder and in a GGUF file, and which view of that tensor the slot is (a transposition,
one of several stacked parts). See `softprompt.families.llama` for the simplest one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from softprompt.families import alibi
from softprompt.families.alibi import Alibi
from softprompt.families.relative import Relative
from softprompt.families.rope import Rope
from softprompt.families.sinusoid import Sinusoid

MAX_COMPUTED = 2**28
"""Numbers of a table that no file holds: a configuration of some bytes may not ask for more."""

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
    "norm_place",
    "qk_norm",
    "parallel_residual",
    "embedding_norm",
    "final_norm",
    "attention_soft_cap",
    "qkv_clip",
    "input_scale",
    "residual_scale",
    "logit_scale",
    "logit_soft_cap",
    "num_ropes",
    "num_encoder_layers",
    "encoder_vocab_size",
    "relative_reach",
    "windows",
    "ropes",
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
        "rotary", "learned", "alibi", "relative" or "none".
    rotary_dim : int
        Rotated channels of a head (even; 0 without rotary positions).
    rope_interleaved : bool
        True: channels (2i, 2i+1) are a pair (GGUF Llama files). False: (i, i + rotary_dim / 2), as
        transformers.
    activation : str
        "silu", "gelu_tanh", "gelu_erf", "gelu_quick", "relu" or "relu_squared".
    gated : bool
        ``down(act(gate(x)) * up(x))`` instead of ``down(act(up(x)))``.
    attention_scale : float
        Factor of ``q . k``.
    embedding_scale : float
        Factor of a token's embedding.
    family : str
        What the model calls itself, e.g. "qwen2".
    norm_place : str
        Where the norms of a layer's halves f stand: "pre" ``x + f(norm(x))``, "output"
        ``x + norm(f(x))``, "sandwich" ``x + norm(f(norm(x)))``, "post" ``norm(x + f(x))``.
    qk_norm : str
        Norms of queries and keys before their rotation: "none", "head" (each head alone, all with
        the same weights), "heads" (each head with its own weights), "whole" (all heads of a row).
    parallel_residual : bool
        Attention and MLP both read the layer's input.
    embedding_norm, final_norm : bool
        A norm of all input rows; a norm before the head.
    attention_soft_cap, logit_soft_cap : float
        ``cap * tanh(x / cap)`` of scores, of logits (after `logit_scale`); 0 for none.
    qkv_clip : float
        Queries, keys and values are clamped to ``[-clip, clip]``; 0 for not.
    input_scale : float
        Factor of every input row, a virtual token's too.
    residual_scale, logit_scale : float
        Factor of what a half of a layer adds; of the logits.
    num_ropes : int
        Sets of rotary frequencies.
    num_encoder_layers : int
        Layers of the encoder that the decoder reads; 0 for a decoder alone. Its other sizes and
        switches are the decoder's.
    encoder_vocab_size : int
        Rows of the encoder's own embedding; 0 where it has the decoder's.
    relative_reach : int
        With "relative" positions: keys further away have the bias of this distance.
    windows : tuple of int
        For every layer, how many rows a row sees, itself among them (0: all); empty for all.
    ropes : tuple of int
        For every layer, its set of frequencies (-1: not rotated); empty for set 0 everywhere.
    rope, local_rope : Rope or None
        Where the inverse frequencies of set 0 and of set 1 come from.
    alibi : Alibi or None
        Where the biases of scores come from.
    relative : Relative or None
        How biases by distance follow from the stored ones.
    sinusoid : Sinusoid or None
        Where positions come from that no file holds.
    stored_positions : bool
        The files hold positions that could be computed.
    tied : bool
        The output head is the embedding table.
    qkv_bias, output_bias, mlp_bias, head_bias, norm_bias, qk_norm_bias : bool
        Which projections and norms have a bias.
    norm_weights : bool
        The norms have weights; otherwise ones stand for them.
    layout : tuple of str
        What is peculiar to the file and not to the model, e.g. "fused" for one matrix of queries,
        keys and values; the tables' functions of the spec look at it.
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
    norm_place: str = "pre"
    qk_norm: str = "none"
    parallel_residual: bool = False
    embedding_norm: bool = False
    final_norm: bool = True
    attention_soft_cap: float = 0.0
    qkv_clip: float = 0.0
    input_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_soft_cap: float = 0.0
    num_ropes: int = 1
    num_encoder_layers: int = 0
    encoder_vocab_size: int = 0
    relative_reach: int = 0
    windows: tuple[int, ...] = ()
    ropes: tuple[int, ...] = ()
    rope: Rope | None = None
    local_rope: Rope | None = None
    alibi: Alibi | None = None
    relative: Relative | None = None
    sinusoid: Sinusoid | None = None
    stored_positions: bool = False
    tied: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    norm_bias: bool = False
    qk_norm_bias: bool = False
    norm_weights: bool = True
    layout: tuple[str, ...] = ()

    def engine_dict(self) -> dict[str, Any]:
        """Return the fields that ``_core.Model`` takes, as a new dict."""
        values = {name: getattr(self, name) for name in ENGINE_FIELDS}
        for name in ("windows", "ropes"):
            values[name] = np.array(values[name], dtype=np.int32)
        return values

    def has(self, feature: str) -> bool:
        """Say whether slots that exist only with `feature` exist in this model."""
        before = self.norm_place in ("pre", "sandwich")
        known = {
            "": True,
            "untied": not self.tied,
            "learned": self.positions == "learned"
            and (self.sinusoid is None or self.stored_positions),
            "own_embedding": self.encoder_vocab_size > 0,
            "relative": self.relative is not None,
            "norm_before": before and self.norm_weights,
            "norm_before_bias": before and self.norm_bias,
            "norm_after": self.norm_place != "pre" and self.norm_weights,
            "norm_after_bias": self.norm_place != "pre" and self.norm_bias,
            "final_norm": self.final_norm and self.norm_weights,
            "final_norm_bias": self.final_norm and self.norm_bias,
            "qk_norm": self.qk_norm != "none",
        }
        return known[feature] if feature in known else bool(getattr(self, feature))

    def size(self, axis: str) -> int:
        """Return the length of a named axis of a slot: V, d, P, q, kv, f, E (an encoder's own
        embedding), heads, buckets, or of the norms of queries (qn) and keys (kn).
        """
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        one_head = self.qk_norm == "head"
        return {
            "V": self.vocab_size,
            "d": self.hidden_size,
            "P": self.max_positions,
            "q": q,
            "kv": kv,
            "f": self.intermediate_size,
            "qn": self.head_dim if one_head else q,
            "kn": self.head_dim if one_head else kv,
            "E": self.encoder_vocab_size,
            "heads": self.num_heads,
            "buckets": 0 if self.relative is None else self.relative.num_buckets,
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
    if spec.positions == "alibi" and spec.max_positions > alibi.MAX_POSITIONS:
        raise ValueError(
            f"{where}: a context of {spec.max_positions}, expected at most "
            f"{alibi.MAX_POSITIONS} with ALiBi positions"
        )
    tables = {
        "positions": 0 if spec.sinusoid is None else spec.max_positions * spec.hidden_size,
        "biases by distance": spec.num_heads * spec.relative_reach,
    }
    for what, numbers in tables.items():
        if numbers > MAX_COMPUTED:
            raise ValueError(
                f"{where}: {numbers} numbers of {what} would be computed, expected at most "
                f"{MAX_COMPUTED}"
            )
    for axis, what in (("q", "query"), ("kv", "key/value")):
        if spec.size(axis) > 2**31 - 1:
            raise ValueError(f"{where}: {spec.size(axis)} {what} channels are too many")
    return spec


@dataclass(frozen=True)
class View:
    """Which part of a stored tensor a slot is.

    The (output) rows of the stored tensor lie in `blocks` blocks of `stride` rows, and the slot has
    as many rows of each block, from row `start` of the block on. Queries, keys and values in one
    matrix are three such views, whether they stand one below the other or head by head.

    Attributes
    ----------
    transpose : bool
        The tensor is stored ``[in, out]`` and the slot is ``[out, in]``.
    start, stride, blocks : int
        See above; `stride` 0 stands for the rows of the slot alone.
    offset : float
        Added to every number (a norm whose weight is stored without the 1).
    split : int
        Not 0: the slot is a vector that is stored as a matrix with rows of so many numbers.
    """

    transpose: bool = False
    start: int = 0
    stride: int = 0
    blocks: int = 1
    offset: float = 0.0
    split: int = 0

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the stored tensor for a slot of `shape`."""
        if self.split:
            return (shape[0] // self.split, self.split)
        full = (self.blocks * self.stride if self.stride else shape[0], *shape[1:])
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
    hf : str, or a function of the `Spec` that gives one
        Name in a Hugging Face folder, without the prefix of the family; ``{i}`` is the layer. With
        ``{h}`` it stands for one tensor for each head, which follow one another in the slot.
    gguf : str, or a function of the `Spec` that gives one
        Name in a GGUF file.
    hf_view, gguf_view : View, or a function of the `Spec` that gives one
        Which part of the stored tensor it is.
    when : str
        Feature (see `Spec.has`) without which the slot does not exist; "" for always.
    """

    name: str
    axes: tuple[str, ...]
    hf: str | Callable[[Spec], str]
    gguf: str | Callable[[Spec], str]
    hf_view: View | Callable[[Spec], View] = WHOLE
    gguf_view: View | Callable[[Spec], View] = WHOLE
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
    model_types : tuple of str
        Values of ``model_type`` in ``config.json`` that it serves.
    slots : tuple of Slot
        The table.
    hf_prefixes : tuple of str
        Prefixes that tensor names may carry in a Hugging Face folder.
    hf_aliases : mapping of str to str, or a function of the `Spec` that gives one
        Further names of tensors in a Hugging Face folder, and those that they repeat.
    hf_optional : mapping of str to str
        Tensors that a Hugging Face folder may lack, and the switch of the `Spec` that is then off.
    hf_ignored : tuple of str
        Regular expressions (of whole names, without prefix) of tensors that hold no weights.
    gguf_ignored : tuple of str
        The same for GGUF names.
    read_config : callable
        ``(config, where) -> Spec`` from ``config.json``.
    architectures : tuple of str
        Values of ``general.architecture`` in GGUF metadata that it serves; llama.cpp does not write
        every family.
    read_gguf : callable or None
        ``(metadata, where, tensor names) -> Spec`` from GGUF metadata; None without architectures.
    """

    model_types: tuple[str, ...]
    slots: tuple[Slot, ...]
    read_config: Callable[[Mapping[str, Any], str], Spec]
    architectures: tuple[str, ...] = ()
    read_gguf: Callable[[Mapping[str, Any], str, Container[str]], Spec] | None = None
    hf_prefixes: tuple[str, ...] = ("",)
    hf_aliases: Mapping[str, str] | Callable[[Spec], Mapping[str, str]] = field(
        default_factory=dict
    )
    hf_optional: Mapping[str, str] = field(default_factory=dict)
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
        listed: list[tuple[Slot, int]] = []
        for layers, run in groupby(
            (slot for slot in self.slots if spec.has(slot.when)), lambda slot: _layers(slot, spec)
        ):
            rows = list(run)
            listed += [(slot, i) for i in range(layers or 1) for slot in rows]
        return [
            BoundSlot(
                name=slot.name.format(i=i),
                shape=tuple(spec.size(axis) for axis in slot.axes),
                source=of_spec(getattr(slot, kind), spec).replace("{i}", str(i)),
                view=of_spec(getattr(slot, kind + "_view"), spec),
            )
            for slot, i in listed
        ]


def _layers(slot: Slot, spec: Spec) -> int:
    """Layers of a slot's stack, or 0 for a slot outside of layers."""
    if "{i}" not in slot.name:
        return 0
    return spec.num_encoder_layers if slot.name.startswith("encoder.") else spec.num_layers


def of_spec(entry: Any, spec: Spec) -> Any:
    """Return an entry of a table for a model: itself, or what the function gives.

    Parameters
    ----------
    entry : object or callable
    spec : Spec
    """
    return entry(spec) if callable(entry) else entry
