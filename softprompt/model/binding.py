"""Which stored tensor is which weight of a model: names, shapes, nothing missing, nothing over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from softprompt.families import BoundSlot, Family, Spec, family_of, of_spec
from softprompt.formats import StoredTensor

__all__ = ["Bound", "bind"]

Bound = list[tuple[BoundSlot, StoredTensor]]
_HEAD, _EMBEDDING = "head.weight", "embedding.weight"


def bind(spec: Spec, tensors: Mapping[str, StoredTensor], kind: str, where: str) -> tuple:
    """Find the stored tensor of every weight.

    Parameters
    ----------
    spec : Spec
        What the configuration says.
    tensors : mapping of str to StoredTensor
        The file's tensors (or those of all its shards).
    kind : {"hf", "gguf"}
        Whose names they have.
    where : str
        The file's or folder's name, for messages.

    Returns
    -------
    spec : Spec
        With the head as it is in the file: a head that repeats the embedding is tied, one that
        differs from it is not, whatever the configuration says (as transformers 5 does).
    bound : list of (BoundSlot, StoredTensor)
        In the family's order.

    Raises
    ------
    ValueError
        Tensors that are missing, unexpected, or of another shape, by name.
    """
    family = family_of(spec)
    prefixes = family.hf_prefixes if kind == "hf" else ("",)
    ignored = family.hf_ignored if kind == "hf" else family.gguf_ignored
    named = _without_prefix(tensors, prefixes, where)
    if kind == "hf":
        named = _without_aliases(named, of_spec(family.hf_aliases, spec))
        absent = {field for name, field in family.hf_optional.items() if name not in named}
        spec = replace(spec, **dict.fromkeys(absent, False))
    spec, named = _settle_head(spec, family, named, kind)
    slots = family.bound_slots(spec, kind)
    named = _with_joined_heads(named, slots)
    missing = [slot.source for slot in slots if slot.source not in named]
    if missing:
        raise ValueError(f"{where}: {_listed('tensor', missing)} missing for a {spec.family} model")
    used = {slot.source for slot in slots}
    unexpected = [
        stored.name
        for name, stored in named.items()
        if name not in used and not any(re.fullmatch(pattern, name) for pattern in ignored)
    ]
    if unexpected:
        raise ValueError(
            f"{where}: {_listed('tensor', unexpected)} unexpected in a {spec.family} model: "
            "what they would do is not computed by softprompt"
        )
    bound = [(slot, named[slot.source]) for slot in slots]
    for slot, stored in bound:
        expected = slot.view.stored_shape(slot.shape)
        if stored.shape != expected:
            raise ValueError(
                f"{stored.source}: tensor {stored.name!r} has shape {_shape(stored.shape)}, "
                f"expected {_shape(expected)} by the configuration"
            )
    return spec, bound


def _with_joined_heads(
    named: dict[str, StoredTensor], slots: Iterable[BoundSlot]
) -> dict[str, StoredTensor]:
    """Join tensors that a table names with ``{h}``: one for each head, rows of one matrix."""
    joined = dict(named)
    for slot in slots:
        if "{h}" not in slot.source:
            continue
        names = [
            slot.source.replace("{h}", str(h)) for h in range(slot.shape[0] // slot.view.split)
        ]
        parts = [joined.pop(name) for name in names if name in joined]
        if len(parts) == len(names) and len({(p.dtype, p.shape) for p in parts}) == 1:
            first, data = parts[0], np.concatenate([part.data for part in parts])
            shape = (len(parts), *first.shape)
            joined[slot.source] = StoredTensor(first.name, first.dtype, shape, data, first.source)
    return joined


def _without_prefix(
    tensors: Mapping[str, StoredTensor], prefixes: Iterable[str], where: str
) -> dict[str, StoredTensor]:
    named: dict[str, StoredTensor] = {}
    for full, stored in tensors.items():
        prefix = next(p for p in (*prefixes, "") if full.startswith(p))
        name = full[len(prefix) :]
        if name in named:
            raise ValueError(f"{where}: both {named[name].name!r} and {full!r} are present")
        named[name] = stored
    return named


def _without_aliases(
    named: dict[str, StoredTensor], aliases: Mapping[str, str]
) -> dict[str, StoredTensor]:
    """Drop tensors that repeat another one; one that stands alone gets the other one's name."""
    named = dict(named)
    for alias, name in aliases.items():
        if alias not in named:
            continue
        repeated = named.pop(alias)
        stored = named.setdefault(name, repeated)
        if not _are_equal(repeated, stored):
            raise ValueError(
                f"{repeated.source}: tensor {repeated.name!r} differs from {stored.name!r}, "
                "expected one embedding for encoder and decoder"
            )
    return named


def _are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and np.array_equal(one.data, other.data)
    )


def _settle_head(
    spec: Spec, family: Family, named: dict[str, StoredTensor], kind: str
) -> tuple[Spec, dict[str, StoredTensor]]:
    """Tie a head that repeats the embedding, untie one that does not."""
    names = {slot.name: of_spec(getattr(slot, kind), spec) for slot in family.slots}
    head, embedding = named.get(names[_HEAD]), named.get(names[_EMBEDDING])
    if head is None:
        return spec, named
    if embedding is None:
        if not spec.tied:
            return spec, named
        rest = {name: stored for name, stored in named.items() if name != names[_HEAD]}
        return spec, {**rest, names[_EMBEDDING]: head}
    same = _are_equal(head, embedding)
    if same:
        named = {name: stored for name, stored in named.items() if name != names[_HEAD]}
    return replace(spec, tied=same), named


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"{noun}{'s' if len(names) > 1 else ''} {shown}{more} {'are' if len(names) > 1 else 'is'}"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
