"""What a file of a prompt says: the prompt, and how it was stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..formats.stored_tensor import StoredTensor
from .stored_prompt import prompt_values

if TYPE_CHECKING:
    from .soft_prompt import SoftPrompt


@dataclass(frozen=True, eq=False)
class PromptFile:
    """A prompt that was read, and the tensor that it was.

    Attributes
    ----------
    kind : str
        Whose file it is: "softprompt", "peft", "npy", "npz", "safetensors", "torch", "t5x",
        "ruprompts", "adapters", "openprompt" or "tgis".
    path : str
        The file with the tensor.
    tensor : str
        The tensor's name there.
    dtype : str
        How numbers are stored: "F32", "F16", "BF16" or "F64".
    shape : tuple of int
        The tensor's shape. Of an encoder-decoder adapter it has more rows than the prompt.
    prompt : SoftPrompt
    """

    kind: str
    path: str
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    prompt: SoftPrompt = field(repr=False)


def prompt_file(
    kind: str,
    stored: StoredTensor,
    cls: type[SoftPrompt],
    *,
    num_virtual_tokens: int | None = None,
    **records: object,
) -> PromptFile:
    """Make a prompt of a stored tensor.

    Parameters
    ----------
    kind : str
        See `PromptFile`.
    stored : StoredTensor
        Checked by `stored_prompt.check_prompt_tensor`.
    cls : type
        `SoftPrompt` or a subclass.
    num_virtual_tokens : int, optional
        How many rows, from the first one, are the prompt; all without it.
    **records
        `position`, `task`, `training` and `base_model` of the prompt.

    Returns
    -------
    PromptFile

    Raises
    ------
    ValueError
        If a number is NaN, infinite or too large for float32.
    """
    prompt = cls(prompt_values(stored)[:num_virtual_tokens], **records)
    return PromptFile(kind, stored.source, stored.name, stored.dtype, stored.shape, prompt)
