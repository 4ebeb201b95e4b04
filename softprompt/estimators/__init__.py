"""Estimators with scikit-learn's interface: train a soft prompt, use it, score it."""

from softprompt.estimators.classifier import SoftPromptClassifier

__all__ = ["SoftPromptClassifier"]
