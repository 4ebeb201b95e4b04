"""An encoder and a decoder as the twin has them: NumPy, float64, one example at a time.

The prompt stands in the encoder's rows. The decoder reads the start token and all targets but the
last, so that its rows are those that predict the targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from reference import layers
from reference.twin import Twin

_PREFIX = "encoder."


class _Encoder(Twin):
    causal = False


class PairTwin(Twin):
    """An encoder-decoder; its own questions are those of `Twin`, with input ids for the encoder and
    target ids for the decoder."""

    def __init__(
        self, spec: Mapping, weights: Mapping[str, np.ndarray], dtype: type = np.float64
    ) -> None:
        super().__init__(spec, weights, dtype)
        own = {n.removeprefix(_PREFIX): w for n, w in weights.items() if n.startswith(_PREFIX)}
        if "embedding.weight" not in own:
            own["embedding.weight"] = weights["embedding.weight"]
        layers_of_encoder = {"num_layers": self.spec["num_encoder_layers"]}
        self.encoder = _Encoder(self.spec | layers_of_encoder, own, dtype)
        self.start = 0

    def in_float32(self) -> PairTwin:
        """The same model, computed in float32."""
        single = super().in_float32()
        single.start = self.start
        return single

    def _encode(self, input_ids: Sequence[int], prompt: np.ndarray | None, at: int) -> tuple:
        saved: dict = {"length": len(input_ids)}
        return self.encoder.body(self.encoder.rows(input_ids, prompt, at), saved), saved

    def _decode(self, target_ids: Sequence[int], memory: np.ndarray) -> tuple:
        """Logits `[len(target_ids), V]` of the rows that predict the targets."""
        ids = [self.start, *target_ids[:-1]]
        saved: dict = {"length": len(ids)}
        return self.logits_of(self.body(self.embed(ids), saved, memory), saved), saved

    def pair_logits(
        self,
        input_ids: Sequence[int],
        target_ids: Sequence[int],
        prompt: np.ndarray | None = None,
        at: int = 0,
    ) -> np.ndarray:
        """Logits `[len(target_ids), V]`."""
        return self._decode(target_ids, self._encode(input_ids, prompt, at)[0])[0]

    def log_likelihood(
        self,
        input_ids: Sequence[int],
        target_ids: Sequence[int],
        prompt: np.ndarray | None = None,
        at: int = 0,
    ) -> np.ndarray:
        """Logarithms of the probabilities `[len(target_ids)]` of the target's tokens."""
        logp = layers.log_softmax(self.pair_logits(input_ids, target_ids, prompt, at))
        return logp[np.arange(len(target_ids)), np.asarray(target_ids)]

    def _target_gradient(
        self,
        input_ids: Sequence[int],
        target_ids: Sequence[int],
        weights: np.ndarray,
        prompt: np.ndarray,
        at: int,
    ) -> tuple[float, np.ndarray]:
        memory, read = self._encode(input_ids, prompt, at)
        logits, saved = self._decode(target_ids, memory)
        logp = layers.log_softmax(logits)
        picked = np.arange(len(target_ids)), np.asarray(target_ids)
        weights = weights.astype(self.dtype)
        dlogits = -np.exp(logp) * weights[:, None]
        dlogits[picked] += weights
        self.backward(dlogits, saved)
        drows = self.encoder.body_backward(saved["dmemory"], read)
        return float((weights * logp[picked]).sum()), drows[at : at + len(prompt)]

    def greedy(
        self,
        input_ids: Sequence[int],
        max_new_tokens: int,
        prompt: np.ndarray | None = None,
        *,
        eos_token_ids: Sequence[int] = (),
        at: int = 0,
    ) -> tuple[list[int], float]:
        """Greedy tokens up to (and without) an end token, and the smallest lead of a best over a
        second logit."""
        new: list[int] = []
        margin = np.inf
        while len(new) < max_new_tokens:
            last = self.pair_logits(input_ids, [*new, 0], prompt, at)[-1]
            second, best = np.sort(last)[-2:]
            margin = min(margin, float(best - second))
            token = int(last.argmax())
            if token in eos_token_ids:
                break
            new.append(token)
        return new, margin
