"""Soft prompts: the value, its files, its fit to a model, and its nearest vocabulary tokens."""

from .mismatch import PromptModelMismatchWarning
from .neighbors import NeighborTable, neighbors
from .prefix import Prefix
from .soft_prompt import SoftPrompt, validate_prompt_array

__all__ = [
    "NeighborTable",
    "Prefix",
    "PromptModelMismatchWarning",
    "SoftPrompt",
    "neighbors",
    "validate_prompt_array",
]
