"""What a model's configuration demands of the tokens that it generates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softprompt.model.config import ModelConfig
from softprompt.model.resident import Text

__all__ = ["Demands"]


class Demands:
    """Tokens that are never generated, and the one that a text of the greatest length ends with.

    Parameters
    ----------
    config : ModelConfig

    References
    ----------
    transformers 5, src/transformers/generation/logits_process.py, `SuppressTokensLogitsProcessor`,
    `ForcedEOSTokenLogitsProcessor`.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._suppressed = list(getattr(config, "suppressed_token_ids", ()))
        self._forced_end = getattr(config, "forced_eos_token_id", None)

    def apply(self, scores: np.ndarray, texts: Sequence[Text]) -> None:
        """Change the scores of the next token of every text.

        Parameters
        ----------
        scores : ndarray of float32, shape (len(texts), vocab_size)
            Logits or log-probabilities, changed in place.
        texts : sequence of Text
        """
        scores[:, self._suppressed] = -np.inf
        if self._forced_end is None:
            return
        for row, text in enumerate(texts):
            if len(text.new) == text.limit - 1:
                scores[row] = -np.inf
                scores[row, self._forced_end] = 0.0
