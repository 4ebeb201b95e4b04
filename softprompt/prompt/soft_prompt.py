"""The soft prompt: a few virtual tokens, and what they were trained for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .mismatch import check_prompt_model

POSITIONS = ("start", "after_bos")
_MAX_RECORD_DEPTH = 32


class SoftPrompt:
    """A trained (or hand-made) soft prompt.

    Parameters
    ----------
    embeddings : array-like
        `[num_virtual_tokens, hidden_size]`, floating, finite: rows in the space of the model's
        input embeddings (transformers' `inputs_embeds`). Copied as float32.
    position : {"start", "after_bos"}
        Where the virtual tokens stand: before everything, as in PEFT, or after the
        beginning-of-text token.
    task : dict, optional
        What the prompt does: template, labels, metric, ... JSON values only. Tuples become lists,
        NumPy scalars become Python's; NaN and infinity become None (JSON has neither).
    training : dict, optional
        How it was trained: seed, steps, learning rate, scores, ... As for `task`.
    base_model : dict, optional
        The model it was made for: `name_or_path`, `family`, `hidden_size`, `vocab_size`,
        `num_layers`, `num_attention_heads`, `fingerprint`. As for `task`.

    Raises
    ------
    TypeError
        If `embeddings` is not of a floating type, or a record holds something that JSON cannot.
    ValueError
        If `embeddings` has another rank than 2, no rows, no columns, NaN or infinity; or an unknown
        position.

    Notes
    -----
    Prompt tuning: Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt
    Tuning", EMNLP 2021, section 2.
    """

    def __init__(
        self,
        embeddings: object,
        *,
        position: str = "start",
        task: Mapping[str, object] | None = None,
        training: Mapping[str, object] | None = None,
        base_model: Mapping[str, object] | None = None,
    ):
        if position not in POSITIONS:
            raise ValueError(f"position={position!r}: expected one of {', '.join(POSITIONS)}")
        values = np.array(validate_prompt_array(embeddings), order="C")
        values.flags.writeable = False
        self._embeddings = values
        self._position = position
        self._task = json_record(task, "task")
        self._training = json_record(training, "training")
        self._base_model = json_record(base_model, "base_model")

    @property
    def embeddings(self) -> np.ndarray:
        """float32 `[num_virtual_tokens, hidden_size]`, C-contiguous, read-only."""
        return self._embeddings

    @property
    def num_virtual_tokens(self) -> int:
        """Rows of `embeddings`."""
        return self._embeddings.shape[0]

    @property
    def hidden_size(self) -> int:
        """Columns of `embeddings`: the width of the model."""
        return self._embeddings.shape[1]

    @property
    def position(self) -> str:
        """Where the virtual tokens stand: "start" or "after_bos"."""
        return self._position

    @property
    def task(self) -> dict | None:
        """What the prompt does, as JSON values."""
        return self._task

    @property
    def training(self) -> dict | None:
        """How it was trained, as JSON values."""
        return self._training

    @property
    def base_model(self) -> dict | None:
        """The model it was made for, as JSON values."""
        return self._base_model

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save as a PEFT adapter directory with a `softprompt.json` beside it.

        PEFT loads the folder unchanged. Saving is atomic: if it fails or is killed, `load` gives
        the earlier prompt or this one, never a mixture; see `softprompt.prompt.staged_folder`.

        Parameters
        ----------
        folder : str or os.PathLike
            Created with its parents if missing. Files of other names in it stay, and so does a
            README.md that softprompt did not write.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        from .adapter_files import save_adapter

        return save_adapter(self, folder)

    def export(
        self, path: str | os.PathLike[str], to: str = "npy", *, model: object = None
    ) -> Path:
        """Write the prompt as another system reads it.

        Parameters
        ----------
        path : str or os.PathLike
            The file or folder to write; folders above it are created. Writing is atomic.
        to : str
            "peft": the folder of `save`. "npy": NumPy's file, as T5X reads it. "prompt_embeds": a
            safetensors file with one tensor of that name, as vLLM's requests call it.
            "prefix", "cartridge": the prompt's keys and values as a folder of PEFT's PREFIX_TUNING
            or CARTRIDGE. "past_key_values": the same as a safetensors file, two tensors a layer.
        model : softprompt.Model, optional
            Needed for the last three, which hold for this model alone. The weights and the sizes
            are compared as `check_model` does.

        Returns
        -------
        pathlib.Path
            What was written.

        Raises
        ------
        OSError
            If it cannot be written; what was there stays.
        TypeError
            If a model is needed and there is none.
        ValueError
            If `to` is unknown, or the prompt does not fit the model.

        Warns
        -----
        UserWarning
            If the file cannot say that the prompt stands after the beginning-of-text token.
        PromptModelMismatchWarning
            If the model is another one than the prompt's.
        """
        from .export import export_prompt

        return export_prompt(self, path, to, model)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SoftPrompt:
        """Load a prompt from the files that this package, PEFT or another system wrote.

        Parameters
        ----------
        path : str or os.PathLike
            A folder: of `save`, or of PEFT's prompt tuning or P-tuning (`adapter_model.safetensors`
            or `adapter_model.bin`), T5X, ruPrompts, adapters or TGIS. Or a file: one of such a
            folder's, `.npy`, `.npz`, safetensors, or torch's (`.bin`, `.pt`, OpenPrompt's `.ckpt`),
            with one tensor alone or one named `prompt_embeddings`, `prompt_embeds`, `soft_embeds`
            or `prompt_embedding.weight`. Nothing is ever unpickled: see
            `softprompt.formats.tensor_pickle`. What a file does not say stays at its default:
            position "start", no records. Of an encoder-decoder adapter the encoder's rows are
            taken, the only ones that PEFT uses.

        Returns
        -------
        SoftPrompt

        Raises
        ------
        OSError
            If there is no such file or it cannot be read.
        ValueError
            If files are damaged or disagree, hold something else (or code, in a pickle), or it is
            an adapter of another kind; the message names the file, the tensor or value, and what
            was expected.

        Warns
        -----
        UserWarning
            If the last save was interrupted after its commit, so that PEFT would still see the
            prompt before.
        """
        from .load import load_prompt_file

        return load_prompt_file(path, cls).prompt

    def check_model(self, model: object) -> None:
        """Check that the prompt fits a model.

        Parameters
        ----------
        model : softprompt.Model

        Raises
        ------
        ValueError
            If the model has another hidden size.

        Warns
        -----
        PromptModelMismatchWarning
            If vocabulary size, family or fingerprint of the weights are not those in `base_model`.
            Another name or path alone is nothing.
        """
        check_prompt_model(self.num_virtual_tokens, self.hidden_size, self.base_model, model)

    def __len__(self) -> int:
        return self.num_virtual_tokens

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """Give `embeddings` to NumPy."""
        if dtype is None or np.dtype(dtype) == np.float32:
            return self._embeddings.copy() if copy else self._embeddings
        if copy is False:
            raise ValueError(f"a float32 prompt as {np.dtype(dtype)} needs a copy")
        return self._embeddings.astype(dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SoftPrompt):
            return NotImplemented
        return self._records() == other._records() and np.array_equal(
            self._embeddings, other._embeddings
        )

    __hash__ = None

    def __reduce__(self):
        # Through the constructor, so that a copy's array is read-only too.
        return _rebuild, (type(self), np.array(self._embeddings), self._records())

    def __repr__(self) -> str:
        facts = [f"{self.num_virtual_tokens} x {self.hidden_size}", f"position={self.position!r}"]
        for record, key in ((self._task, "kind"), (self._base_model, "name_or_path")):
            if record and record.get(key):
                facts.append(f"{key}={record[key]!r}")
        return f"SoftPrompt({', '.join(facts)})"

    def _records(self) -> dict[str, object]:
        return {
            "position": self._position,
            "task": self._task,
            "training": self._training,
            "base_model": self._base_model,
        }


def _rebuild(cls: type[SoftPrompt], embeddings: np.ndarray, records: dict) -> SoftPrompt:
    return cls(embeddings, **records)


def validate_prompt_array(
    x: object, *, hidden_size: int | None = None, where: str = "prompt"
) -> np.ndarray:
    """Check a matrix of virtual tokens and convert it to float32.

    Parameters
    ----------
    x : array-like or SoftPrompt
        `[num_virtual_tokens, hidden_size]` of a real floating type (float16, bfloat16, float32,
        float64, ...).
    hidden_size : int, optional
        The width that is needed.
    where : str
        What `x` is: the start of every message.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous. `x` itself where it is such an array already.

    Raises
    ------
    TypeError
        If `x` is not of a real floating type.
    ValueError
        If it has another rank than 2, no rows or columns, another width than `hidden_size`, or a
        value that is NaN, infinite or too large for float32; row and column are named.
    """
    if isinstance(x, SoftPrompt):
        values = x.embeddings
    else:
        try:
            values = np.asarray(x)
        except ValueError as err:  # Rows of different lengths.
            raise ValueError(
                f"{where}: expected an array [num_virtual_tokens, hidden_size]: {err}"
            ) from err
    # bfloat16 comes from a package that registers it with NumPy as a type of its own.
    if not np.issubdtype(values.dtype, np.floating) and values.dtype.name != "bfloat16":
        raise TypeError(
            f"{where}: dtype {values.dtype}, expected a real floating type (float32, float16, "
            "float64)"
        )
    if values.ndim != 2:
        raise ValueError(
            f"{where}: shape {values.shape}, expected two dimensions [num_virtual_tokens, "
            "hidden_size]"
        )
    if 0 in values.shape:
        raise ValueError(f"{where}: shape {values.shape}, expected at least one row and one column")
    if hidden_size is not None and values.shape[1] != hidden_size:
        raise ValueError(
            f"{where}: shape {values.shape}, expected rows of {hidden_size} values, "
            "the model's hidden_size"
        )
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values, dtype=np.float32)
    finite = np.isfinite(result)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{where}: row {row}, column {column} is {values[row, column]}, "
            "expected a finite value in the range of float32"
        )
    return result


def json_record(value: Mapping[str, object] | None, where: str) -> dict | None:
    """Copy a record as what JSON gives back.

    Parameters
    ----------
    value : mapping, optional
        JSON values; tuples become lists, NumPy scalars Python's, NaN and infinity None.
    where : str
        What it is, for messages.

    Returns
    -------
    dict or None

    Raises
    ------
    TypeError
        If it is no mapping, or holds something that JSON cannot.
    ValueError
        If it is nested too deeply.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"{where}: {type(value).__name__}, expected a dict or None")
    return _json_value(value, where, _MAX_RECORD_DEPTH)


def _json_value(value: object, where: str, depth: int) -> object:
    """Copy a value as what JSON gives back, or say where it cannot be."""
    if depth < 0:
        raise ValueError(f"{where}: nested more than {_MAX_RECORD_DEPTH} deep")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(
                    f"{where}: key {key!r} is {type(key).__name__}, JSON keys are str; "
                    "store a list of [key, value] pairs"
                )
        return {
            key: _json_value(item, f"{where}[{key!r}]", depth - 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple | np.ndarray):
        return [_json_value(item, f"{where}[{i}]", depth - 1) for i, item in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__}, expected a value that JSON can hold")
