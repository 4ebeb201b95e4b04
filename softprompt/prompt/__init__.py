"""Soft prompts: the value, everybody's files of it, its fit to a model, neighbours, similarity."""

from .describe import describe
from .load import is_prompt
from .mismatch import PromptModelMismatchWarning
from .neighbors import NeighborTable, neighbors
from .prefix import Prefix
from .similarity import similarity
from .similarity_table import SimilarityTable
from .soft_prompt import SoftPrompt, validate_prompt_array

__all__ = [
    "NeighborTable",
    "Prefix",
    "PromptModelMismatchWarning",
    "SimilarityTable",
    "SoftPrompt",
    "describe",
    "is_prompt",
    "neighbors",
    "similarity",
    "validate_prompt_array",
]
