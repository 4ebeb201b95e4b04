"""Soft prompts: the value, everybody's files of it, its fit to a model, neighbours, similarity."""

from .describe import describe
from .load import is_prompt, load_prompt
from .mismatch import PromptModelMismatchWarning
from .neighbors import NeighborTable, neighbors
from .prefix import Prefix
from .prefix_files import is_prefix
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
    "is_prefix",
    "is_prompt",
    "load_prompt",
    "neighbors",
    "similarity",
    "validate_prompt_array",
]
