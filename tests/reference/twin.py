"""The frozen decoder once more: NumPy, float64, one sequence at a time, nothing shared and nothing
saved.

This is the oracle of the engine. It reads the same spec and the same weight slots
(`softprompt.families.spec`), and every function is written for being read, not for speed: each
sequence is the prompt's rows and its tokens' rows, run alone through the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from reference import layers


class Twin:
    """A decoder from a spec (mapping of switches) and weights (mapping of slot name to array).

    In float32 the same program shows how far rounding alone takes a model: the yardstick for what
    may be asked of the engine.
    """

    def __init__(
        self, spec: Mapping, weights: Mapping[str, np.ndarray], dtype: type = np.float64
    ) -> None:
        self.spec = dict(spec)
        self.dtype = dtype
        self.weights = {name: np.asarray(w, dtype=dtype) for name, w in weights.items()}

    def in_float32(self) -> Twin:
        """The same model, computed in float32."""
        return Twin(self.spec, self.weights, np.float32)

    # --- the decoder ------------------------------------------------------------------------------

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Rows `[len(ids), d]` of the tokens, in the space where a prompt's rows stand."""
        table = self.weights["embedding.weight"]
        return table[np.asarray(ids, dtype=np.int64)] * self.spec.get("embedding_scale", 1.0)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, dict]:
        """Logits `[T, V]` of one sequence of input rows x `[T, d]`, and what the backward pass
        needs."""
        spec, saved = self.spec, {}
        if spec["positions"] == "learned":
            x = x + self.weights["position.weight"][: len(x)]
        for i in range(spec["num_layers"]):
            saved[i] = {}
            x = x + self._attention(i, x, saved[i])
            x = x + self._mlp(i, x, saved[i])
        x, saved["final"] = self._norm("final_norm", x)
        return layers.linear(x, self._head(), self.weights.get("head.bias")), saved

    def backward(self, dlogits: np.ndarray, saved: dict) -> np.ndarray:
        """Gradient `[T, d]` of the input rows from that of the logits `[T, V]`."""
        dx = layers.linear_backward(dlogits, self._head())
        dx = self._norm_backward("final_norm", dx, saved["final"])
        for i in reversed(range(self.spec["num_layers"])):
            dx = dx + self._mlp_backward(i, dx, saved[i])
            dx = dx + self._attention_backward(i, dx, saved[i])
        return dx

    def _attention(self, i: int, x: np.ndarray, saved: dict) -> np.ndarray:
        spec, slot = self.spec, f"layers.{i}."
        x, saved["attn_norm"] = self._norm(slot + "attn_norm", x)
        q = self._linear(slot + "q", x).reshape(len(x), spec["num_heads"], -1)
        k = self._linear(slot + "k", x).reshape(len(x), spec["num_kv_heads"], -1)
        v = self._linear(slot + "v", x).reshape(len(x), spec["num_kv_heads"], -1)
        q, k = self._rotate(q), self._rotate(k)
        out, probabilities = layers.attention(q, k, v, spec["attention_scale"])
        saved["attention"] = (q, k, v, probabilities)
        return self._linear(slot + "o", out.reshape(len(x), -1))

    def _attention_backward(self, i: int, dy: np.ndarray, saved: dict) -> np.ndarray:
        slot, (q, k, v, probabilities) = f"layers.{i}.", saved["attention"]
        dout = self._linear_backward(slot + "o", dy).reshape(q.shape)
        dq, dk, dv = layers.attention_backward(
            dout, q, k, v, probabilities, self.spec["attention_scale"]
        )
        dq, dk = self._rotate(dq, back=True), self._rotate(dk, back=True)
        dx = (
            self._linear_backward(slot + "q", dq.reshape(len(dy), -1))
            + self._linear_backward(slot + "k", dk.reshape(len(dy), -1))
            + self._linear_backward(slot + "v", dv.reshape(len(dy), -1))
        )
        return self._norm_backward(slot + "attn_norm", dx, saved["attn_norm"])

    def _mlp(self, i: int, x: np.ndarray, saved: dict) -> np.ndarray:
        slot = f"layers.{i}."
        x, saved["mlp_norm"] = self._norm(slot + "mlp_norm", x)
        up = self._linear(slot + "up", x)
        if self.spec["gated"]:
            gate, slope = layers.activation(self.spec["activation"], self._linear(slot + "gate", x))
            saved["mlp"] = (gate, slope, up)
            return self._linear(slot + "down", gate * up)
        hidden, saved["mlp"] = layers.activation(self.spec["activation"], up)
        return self._linear(slot + "down", hidden)

    def _mlp_backward(self, i: int, dy: np.ndarray, saved: dict) -> np.ndarray:
        slot = f"layers.{i}."
        dhidden = self._linear_backward(slot + "down", dy)
        if self.spec["gated"]:
            gate, slope, up = saved["mlp"]
            dx = self._linear_backward(slot + "up", dhidden * gate)
            dx = dx + self._linear_backward(slot + "gate", dhidden * up * slope)
        else:
            dx = self._linear_backward(slot + "up", dhidden * saved["mlp"])
        return self._norm_backward(slot + "mlp_norm", dx, saved["mlp_norm"])

    def _linear(self, slot: str, x: np.ndarray) -> np.ndarray:
        return layers.linear(x, self.weights[slot + ".weight"], self.weights.get(slot + ".bias"))

    def _linear_backward(self, slot: str, dy: np.ndarray) -> np.ndarray:
        return layers.linear_backward(dy, self.weights[slot + ".weight"])

    def _norm(self, slot: str, x: np.ndarray) -> tuple[np.ndarray, tuple]:
        weight, bias = self.weights[slot + ".weight"], self.weights.get(slot + ".bias")
        return layers.norm(self.spec["norm"], x, weight, bias, self.spec["norm_eps"])

    def _norm_backward(self, slot: str, dy: np.ndarray, saved: tuple) -> np.ndarray:
        return layers.norm_backward(self.spec["norm"], dy, self.weights[slot + ".weight"], saved)

    def _rotate(self, x: np.ndarray, *, back: bool = False) -> np.ndarray:
        if self.spec["positions"] != "rotary":
            return x
        positions = np.arange(len(x), dtype=self.dtype)
        angles = positions[:, None] * self.weights["rope.inv_freq"]
        return layers.rotate(x, angles, self.spec["rope_interleaved"], back=back)

    def _head(self) -> np.ndarray:
        return self.weights.get("head.weight", self.weights["embedding.weight"])

    # --- sequences with a prompt ------------------------------------------------------------------

    def rows(self, ids: Sequence[int], prompt: np.ndarray | None, at: int = 0) -> np.ndarray:
        """Input rows of a sequence: `prompt` `[P, d]` (or None) stands before the token with index
        `at`."""
        tokens = self.embed(ids)
        if prompt is None:
            return tokens
        return np.concatenate([tokens[:at], np.asarray(prompt, dtype=self.dtype), tokens[at:]])

    def logits(
        self, ids: Sequence[int], prompt: np.ndarray | None = None, at: int = 0
    ) -> np.ndarray:
        """Logits `[P + len(ids), V]` of every row, the prompt's rows among them."""
        return self.forward(self.rows(ids, prompt, at))[0]

    def log_likelihood(
        self,
        input_ids: Sequence[int],
        target_ids: Sequence[int],
        prompt: np.ndarray | None = None,
        at: int = 0,
    ) -> np.ndarray:
        """Logarithms of the probabilities `[len(target_ids)]` of the target's tokens after the
        input."""
        logits = self.logits([*input_ids, *target_ids[:-1]], prompt, at)
        logp = layers.log_softmax(logits[-len(target_ids) :])
        return logp[np.arange(len(target_ids)), np.asarray(target_ids)]

    def _target_gradient(
        self,
        input_ids: Sequence[int],
        target_ids: Sequence[int],
        weights: np.ndarray,
        prompt: np.ndarray,
        at: int,
    ) -> tuple[float, np.ndarray]:
        """``sum_j weights[j] * log p(target_ids[j])`` and its gradient to the prompt's rows."""
        count = len(target_ids)
        logits, saved = self.forward(self.rows([*input_ids, *target_ids[:-1]], prompt, at))
        logp = layers.log_softmax(logits[-count:])
        picked = np.arange(count), np.asarray(target_ids)
        dlogits = np.zeros_like(logits)
        weights = weights.astype(self.dtype)
        dlogits[-count:] = -np.exp(logp) * weights[:, None]
        dlogits[-count:][picked] += weights
        drows = self.backward(dlogits, saved)
        return float((weights * logp[picked]).sum()), drows[at : at + len(prompt)]

    def loss_and_grad(
        self, prompt: np.ndarray, examples: Sequence[tuple], at: int = 0
    ) -> tuple[float, np.ndarray]:
        """Weighted mean of the target tokens' negative log-likelihoods, and its gradient `[P,
        d]`."""
        triples = [
            (e[0], e[1], np.asarray(e[2] if len(e) > 2 else np.ones(len(e[1])), dtype=np.float64))
            for e in examples
        ]
        total = sum(w.sum() for _, _, w in triples)
        parts = [self._target_gradient(i, t, -w / total, prompt, at) for i, t, w in triples]
        return sum(loss for loss, _ in parts), sum(grad for _, grad in parts)

    # --- ranking of choices -----------------------------------------------------------------------

    def rank(
        self,
        inputs: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
        prompt: np.ndarray | None = None,
        *,
        length_normalize: bool = False,
        at: int = 0,
    ) -> np.ndarray:
        """Log of the softmax `[n, choices]` over the choices' summed (or mean) log-likelihoods."""
        reduce = np.mean if length_normalize else np.sum
        scores = [[reduce(self.log_likelihood(i, c, prompt, at)) for c in choices] for i in inputs]
        return layers.log_softmax(np.array(scores))

    def ranking_loss_and_grad(
        self,
        prompt: np.ndarray,
        inputs: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
        targets: Sequence[int],
        *,
        sample_weight: Sequence[float] | None = None,
        length_normalize: bool = False,
        at: int = 0,
    ) -> tuple[float, np.ndarray]:
        """Weighted mean of ``-log softmax(scores)[target]`` over the rows, and its gradient `[P,
        d]`."""
        row_weights = np.ones(len(inputs)) if sample_weight is None else np.asarray(sample_weight)
        row_weights = row_weights / row_weights.sum()
        logp = self.rank(inputs, choices, prompt, length_normalize=length_normalize, at=at)
        loss = -float((row_weights * logp[np.arange(len(inputs)), np.asarray(targets)]).sum())
        grad = np.zeros(np.shape(prompt))
        for i, input_ids in enumerate(inputs):
            dscores = row_weights[i] * np.exp(logp[i])
            dscores[targets[i]] -= row_weights[i]
            for j, choice in enumerate(choices):
                each = dscores[j] / (len(choice) if length_normalize else 1)
                weights = np.full(len(choice), each)
                grad += self._target_gradient(input_ids, choice, weights, prompt, at)[1]
        return loss, grad

    # --- generation -------------------------------------------------------------------------------

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
            last = self.logits([*input_ids, *new], prompt, at)[-1]
            second, best = np.sort(last)[-2:]
            margin = min(margin, float(best - second))
            token = int(last.argmax())
            if token in eos_token_ids:
                break
            new.append(token)
        return new, margin
