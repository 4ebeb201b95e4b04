"""Soft prompts: the value, its files, its fit to a model, and its nearest vocabulary tokens."""

from .mismatch import PromptModelMismatchWarning
from .neighbors import NeighborTable, neighbors
from .soft_prompt import SoftPrompt, validate_prompt_array

__all__ = [
    "NeighborTable",
    "PromptModelMismatchWarning",
    "SoftPrompt",
    "neighbors",
    "validate_prompt_array",
]
