"""Model families as tables: a model's switches, and which tensor of a file is which weight."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from softprompt.families import (
    bart,
    bloom,
    cohere,
    falcon,
    gemma,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    llama,
    olmo,
    opt,
    phi,
    stablelm,
    t5,
)
from softprompt.families.computed import computed_weights, inverse_frequencies, length_class
from softprompt.families.spec import ENGINE_FIELDS, BoundSlot, Family, Slot, Spec, View, of_spec

__all__ = [
    "ENGINE_FIELDS",
    "FAMILIES",
    "BoundSlot",
    "Family",
    "Slot",
    "Spec",
    "View",
    "computed_weights",
    "family_of",
    "from_gguf",
    "inverse_frequencies",
    "length_class",
    "of_spec",
    "read_config",
]

FAMILIES: tuple[Family, ...] = (
    llama.FAMILY,
    gemma.FAMILY_1,
    gemma.FAMILY,
    phi.PHI,
    phi.PHI3,
    olmo.FAMILY,
    cohere.FAMILY,
    stablelm.FAMILY,
    gpt2.FAMILY,
    gpt_neo.FAMILY,
    gptj.FAMILY,
    gpt_neox.FAMILY,
    opt.FAMILY,
    bloom.FAMILY,
    falcon.FAMILY,
    bart.BART,
    bart.MARIAN,
    bart.M2M100,
    t5.FAMILY,
)


def read_config(config: Mapping[str, Any], where: str) -> Spec:
    """Read a ``config.json``.

    Parameters
    ----------
    config : mapping
        The parsed file, as transformers 4 or 5 writes it.
    where : str
        The file's name, for messages.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        No ``model_type``, one that no family serves, a value out of range, or a switch that
        changes the function and is not computed here.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: expected a JSON object, found {type(config).__name__}")
    model_type = config.get("model_type")
    served = {name: family for family in FAMILIES for name in family.model_types}
    if not isinstance(model_type, str) or model_type not in served:
        raise ValueError(
            f"{where}: model_type is {model_type!r}, expected one of {', '.join(sorted(served))}"
        )
    if config.get("quantization_config") is not None:
        raise ValueError(
            f"{where}: quantization_config is present: the tensors are packed by another library. "
            "Use the unquantised model, or a GGUF file of it"
        )
    return served[model_type].read_config(config, where)


def from_gguf(metadata: Mapping[str, Any], where: str, tensors: Container[str] = ()) -> Spec:
    """Read GGUF metadata.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    where : str
        The file's name, for messages.
    tensors : container of str
        Names of the file's tensors: they say which biases exist and whether the output head is the
        embedding.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        As `read_config`, for ``general.architecture``.
    """
    architecture = metadata.get("general.architecture")
    served = {name: family for family in FAMILIES for name in family.architectures}
    if not isinstance(architecture, str) or architecture not in served:
        raise ValueError(
            f"{where}: general.architecture is {architecture!r}, "
            f"expected one of {', '.join(sorted(served))}"
        )
    read = served[architecture].read_gguf
    assert read is not None
    return read(metadata, where, tensors)


def family_of(spec: Spec) -> Family:
    """Return the table that `spec` was read by."""
    return next(
        family
        for family in FAMILIES
        if spec.family in family.model_types or spec.family in family.architectures
    )
