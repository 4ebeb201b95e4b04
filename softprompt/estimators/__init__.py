"""Estimators with scikit-learn's interface: train a soft prompt, use it, score it."""

from softprompt.estimators.classifier import SoftPromptClassifier
from softprompt.estimators.generator import SoftPromptGenerator

__all__ = ["SoftPromptClassifier", "SoftPromptGenerator"]
