"""A prefix: keys and values before a text in every layer, trained or left there by a prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .mismatch import check_prefix_model
from .soft_prompt import json_record, validate_prompt_array

NO_ROWS = (
    "a prefix has keys and values of every layer, no rows in the space of the vocabulary's "
    "embeddings; expected a soft prompt"
)


class Prefix:
    """Keys and values of virtual tokens, for one model: what attention reads of a prompt.

    A causal model's text attends to a prompt through these alone, so a prefix does what its prompt
    does, in systems that know caches but no soft prompts: `softprompt.Model.prefix` computes one.
    Trained themselves (``method="prefix"``), they are more parameters than a prompt's rows, and
    reach every layer directly. A prefix stands wherever a `SoftPrompt` does.

    Parameters
    ----------
    keys, values : array-like
        `[num_layers, num_virtual_tokens, num_kv_heads, head_dim]`, floating, finite. Keys are as
        transformers caches them: rotated to the positions 0, 1, ... where the model rotates them,
        rotated halves one after the other. Copied as float32.
    base_model : dict, optional
        The model that they belong to, as of `SoftPrompt`.
    task, training : dict, optional
        What it, or its prompt, does and how it was trained, as of `SoftPrompt`.

    Raises
    ------
    TypeError
        If an array is not of a floating type, or a record holds something that JSON cannot.
    ValueError
        If the arrays have another rank than 4, different shapes, nothing in them, NaN or infinity.

    Notes
    -----
    Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021
    (arXiv:2101.00190), without their reparametrisation; PEFT's PREFIX_TUNING without projection and
    its CARTRIDGE hold these numbers.
    """

    def __init__(
        self,
        keys: object,
        values: object,
        *,
        base_model: Mapping[str, object] | None = None,
        task: Mapping[str, object] | None = None,
        training: Mapping[str, object] | None = None,
    ) -> None:
        self._keys, self._values = _checked(keys, "keys"), _checked(values, "values")
        if self._keys.shape != self._values.shape:
            raise ValueError(
                f"keys of shape {self._keys.shape} and values of shape {self._values.shape}, "
                "expected the same"
            )
        self._base_model = json_record(base_model, "base_model")
        self._task = json_record(task, "task")
        self._training = json_record(training, "training")

    @classmethod
    def from_flattened(
        cls, array: object, *, num_layers: int, num_kv_heads: int, **records: Any
    ) -> Prefix:
        """Make a prefix of what `flattened` returns.

        Parameters
        ----------
        array : array-like
            Floating `[num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim]`.
        num_layers, num_kv_heads : int
            Sizes of the model.
        **records
            `base_model`, `task`, `training`.

        Returns
        -------
        Prefix

        Raises
        ------
        TypeError, ValueError
            As of the constructor, or if the width is no multiple of those sizes.
        """
        for name, count in (("num_layers", num_layers), ("num_kv_heads", num_kv_heads)):
            if count < 1:
                raise ValueError(f"{name}={count}: expected at least 1")
        values = validate_prompt_array(array, where="prefix")
        if values.shape[1] % (num_layers * 2 * num_kv_heads):
            raise ValueError(
                f"prefix: shape {values.shape}, expected rows of num_layers * 2 * num_kv_heads * "
                f"head_dim values, with {num_layers} layers and {num_kv_heads} heads"
            )
        both = values.reshape(len(values), num_layers, 2, num_kv_heads, -1)
        keys, values = np.moveaxis(both, (2, 1), (0, 1))
        return cls(keys, values, **records)

    @property
    def keys(self) -> np.ndarray:
        """float32 `[num_layers, num_virtual_tokens, num_kv_heads, head_dim]`, read-only."""
        return self._keys

    @property
    def values(self) -> np.ndarray:
        """float32, of the shape of `keys`, read-only."""
        return self._values

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self._keys.shape[0]

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that the prefix takes."""
        return self._keys.shape[1]

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values in a layer."""
        return self._keys.shape[2]

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self._keys.shape[3]

    @property
    def base_model(self) -> dict | None:
        """The model that it belongs to, as JSON values."""
        return self._base_model

    @property
    def task(self) -> dict | None:
        """What it does, as JSON values."""
        return self._task

    @property
    def training(self) -> dict | None:
        """How it was trained, as JSON values."""
        return self._training

    def past_key_values(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return what transformers' `past_key_values` holds.

        Returns
        -------
        list of (ndarray, ndarray)
            Key and value of every layer, float32 `[1, num_kv_heads, num_virtual_tokens, head_dim]`.
        """
        return [
            (np.ascontiguousarray(k.swapaxes(0, 1)[None]),
             np.ascontiguousarray(v.swapaxes(0, 1)[None]))
            for k, v in zip(self._keys, self._values, strict=True)
        ]  # fmt: skip

    def flattened(self) -> np.ndarray:
        """Return PEFT's `prompt_embeddings` of a prefix.

        Returns
        -------
        numpy.ndarray
            float32 `[num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim]`: of every layer
            the key's heads, then the value's.
        """
        both = np.stack([self._keys, self._values], axis=1)  # [layers, 2, tokens, heads, head_dim]
        return np.ascontiguousarray(np.moveaxis(both, 2, 0).reshape(self.num_virtual_tokens, -1))

    def save(self, folder: str | os.PathLike[str], *, peft_type: str = "PREFIX_TUNING") -> Path:
        """Save as a PEFT adapter directory with a `softprompt.json` beside it.

        Saving is atomic, as that of `SoftPrompt`.

        Parameters
        ----------
        folder : str or os.PathLike
            Created with its parents if missing.
        peft_type : {"PREFIX_TUNING", "CARTRIDGE"}
            As what PEFT loads it. CARTRIDGE needs PEFT 0.19.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        OSError
            If it cannot be written.
        ValueError
            If `peft_type` is another one.
        """
        from .prefix_files import save_prefix

        return save_prefix(self, folder, peft_type)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Prefix:
        """Load a saved prefix, or PEFT's PREFIX_TUNING (also with a projection) or CARTRIDGE.

        Parameters
        ----------
        path : str or os.PathLike
            An adapter's folder, with `adapter_model.safetensors` or `adapter_model.bin`; or a
            safetensors file of `past_key_values.<layer>.key` and `.value`.

        Returns
        -------
        Prefix

        Raises
        ------
        OSError
            If there is none or it cannot be read.
        ValueError
            If its files are damaged or disagree, or it is an adapter of another kind.
        """
        from .prefix_files import load_prefix

        return load_prefix(path, cls)

    def export(self, path: str | os.PathLike[str], to: str = "prefix") -> Path:
        """Write the prefix as another system reads it.

        Parameters
        ----------
        path : str or os.PathLike
            The file or folder to write; folders above it are created. Writing is atomic.
        to : str
            "prefix" or "peft": the folder of `save`. "cartridge": PEFT's CARTRIDGE.
            "past_key_values": a safetensors file, two tensors a layer.

        Returns
        -------
        pathlib.Path
            What was written.

        Raises
        ------
        OSError
            If it cannot be written; what was there stays.
        ValueError
            If `to` is unknown, or a form of prompts: keys and values are no rows of embeddings.
        """
        from .export import export_prefix

        return export_prefix(self, path, to)

    def check_model(self, model: object) -> None:
        """Check that the prefix fits a model.

        Parameters
        ----------
        model : softprompt.Model

        Raises
        ------
        ValueError
            If the model has another number of layers, or of heads of keys and values, or another
            width of a head.

        Warns
        -----
        PromptModelMismatchWarning
            If vocabulary size, family or fingerprint of the weights are not those in `base_model`.
        """
        check_prefix_model(self._keys.shape, self._base_model, model)

    def __len__(self) -> int:
        return self.num_virtual_tokens

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prefix):
            return NotImplemented
        return (
            self._records() == other._records()
            and np.array_equal(self._keys, other._keys)
            and np.array_equal(self._values, other._values)
        )

    __hash__ = None

    def __reduce__(self):
        # Through the constructor, so that a copy's arrays are read-only too.
        return _rebuild, (type(self), np.array(self._keys), np.array(self._values), self._records())

    def _records(self) -> dict[str, Any]:
        return {"base_model": self._base_model, "task": self._task, "training": self._training}

    def __repr__(self) -> str:
        name = (self._base_model or {}).get("name_or_path")
        of = f", of {name!r}" if name else ""
        return (
            f"Prefix({self.num_virtual_tokens} virtual tokens, {self.num_layers} layers, "
            f"{self.num_kv_heads} x {self.head_dim}{of})"
        )


def _rebuild(cls: type[Prefix], keys: np.ndarray, values: np.ndarray, records: dict) -> Prefix:
    return cls(keys, values, **records)


def _checked(array: object, where: str) -> np.ndarray:
    values = np.asarray(array)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"{where}: dtype {values.dtype}, expected a real floating type")
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(
            f"{where}: shape {values.shape}, expected [num_layers, num_virtual_tokens, "
            "num_kv_heads, head_dim]"
        )
    with np.errstate(over="ignore"):
        values = np.array(values, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        layer, token = np.argwhere(~np.isfinite(values))[0][:2]
        raise ValueError(f"{where}: layer {layer}, virtual token {token} is not finite in float32")
    values.flags.writeable = False
    return values
