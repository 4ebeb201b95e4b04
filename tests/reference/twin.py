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

USUAL = {
    "norm_place": "pre",
    "qk_norm": "none",
    "parallel_residual": False,
    "embedding_norm": False,
    "final_norm": True,
    "attention_soft_cap": 0.0,
    "qkv_clip": 0.0,
    "embedding_scale": 1.0,
    "input_scale": 1.0,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
    "logit_soft_cap": 0.0,
    "num_ropes": 1,
    "num_encoder_layers": 0,
    "encoder_vocab_size": 0,
    "relative_reach": 0,
    "windows": (),
    "ropes": (),
}
"""Switches that a spec may leave out."""


class Twin:
    """A decoder from a spec (mapping of switches) and weights (mapping of slot name to array).

    In float32 the same program shows how far rounding alone takes a model: the yardstick for what
    may be asked of the engine. An encoder is the same run of layers, not `causal` (see
    `reference.pair`).
    """

    causal = True

    def __init__(
        self, spec: Mapping, weights: Mapping[str, np.ndarray], dtype: type = np.float64
    ) -> None:
        self.spec = USUAL | dict(spec)
        self.dtype = dtype
        self.weights = {name: np.asarray(w, dtype=dtype) for name, w in weights.items()}

    def in_float32(self) -> Twin:
        """The same model, computed in float32."""
        return type(self)(self.spec, self.weights, np.float32)

    # --- the decoder ------------------------------------------------------------------------------

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Rows `[len(ids), d]` of the tokens, in the space where a prompt's rows stand."""
        table = self.weights["embedding.weight"]
        return table[np.asarray(ids, dtype=np.int64)] * self.spec["embedding_scale"]

    def forward(
        self, x: np.ndarray, length: int = 0, prefix: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict]:
        """Logits `[T, V]` of one sequence of input rows x `[T, d]`, and what the backward pass
        needs.

        `length` is that of the whole text, where the rows are only its beginning. `prefix`
        `[L, 2, P, K, h]` are the keys (as they are compared) and values of P positions before x.
        """
        first = 0 if prefix is None else prefix.shape[2]
        saved: dict = {"length": length or first + len(x)}
        return self.logits_of(self.body(x, saved, prefix=prefix), saved), saved

    def logits_of(self, x: np.ndarray, saved: dict) -> np.ndarray:
        """Logits of rows before the head."""
        logits = layers.linear(x, self._head(), self.weights.get("head.bias"))
        logits = logits * self.spec["logit_scale"]
        cap = self.spec["logit_soft_cap"]
        if cap:
            saved["logit_slopes"] = 1.0 / np.cosh(logits / cap) ** 2
            logits = cap * np.tanh(logits / cap)
        return logits

    def body(
        self,
        x: np.ndarray,
        saved: dict,
        memory: np.ndarray | None = None,
        prefix: np.ndarray | None = None,
    ) -> np.ndarray:
        """Rows `[T, d]` before the head from input rows; a decoder may read `memory` `[S, d]`."""
        spec = self.spec
        first = saved["first"] = 0 if prefix is None else prefix.shape[2]
        x = x * spec["input_scale"]
        if spec["positions"] == "learned":
            x = x + self.weights["position.weight"][first : first + len(x)]
        if spec["embedding_norm"]:
            x, saved["embedding_norm"] = self._norm("embedding_norm", x)
        for i in range(spec["num_layers"]):
            saved[i] = {"length": saved["length"], "first": first}
            if prefix is not None:
                saved[i]["prefix"] = np.asarray(prefix[i], dtype=self.dtype)
            if spec["parallel_residual"]:
                halves = self._attention(i, x, saved[i]), self._mlp(i, x, saved[i])
                x = x + spec["residual_scale"] * (halves[0] + halves[1])
                continue
            x = self._add("attn", i, x, self._attention(i, x, saved[i]), saved[i])
            if memory is not None:
                x = self._add("cross", i, x, self._cross(i, x, memory, saved[i]), saved[i])
            x = self._add("mlp", i, x, self._mlp(i, x, saved[i]), saved[i])
        if spec["final_norm"]:
            x, saved["final"] = self._norm("final_norm", x)
        return x

    def backward(self, dlogits: np.ndarray, saved: dict) -> np.ndarray:
        """Gradient `[T, d]` of the input rows from that of the logits `[T, V]`."""
        spec = self.spec
        if spec["logit_soft_cap"]:
            dlogits = dlogits * saved["logit_slopes"]
        dx = layers.linear_backward(dlogits * spec["logit_scale"], self._head())
        return self.body_backward(dx, saved)

    def body_backward(self, dx: np.ndarray, saved: dict) -> np.ndarray:
        """Gradient of the input rows from that of the rows before the head; that of a memory is
        left in ``saved["dmemory"]``."""
        spec = self.spec
        if spec["final_norm"]:
            dx = self._norm_backward("final_norm", dx, saved["final"])
        for i in reversed(range(spec["num_layers"])):
            if spec["parallel_residual"]:
                dy = spec["residual_scale"] * dx
                dx = dx + self._attention_backward(i, dy, saved[i])
                dx = dx + self._mlp_backward(i, dy, saved[i])
                continue
            dx, dy = self._add_backward("mlp", i, dx, saved[i])
            dx = dx + self._mlp_backward(i, dy, saved[i])
            if "cross" in saved[i]:
                dx, dy = self._add_backward("cross", i, dx, saved[i])
                drows, dmemory = self._cross_backward(i, dy, saved[i])
                dx = dx + drows
                saved["dmemory"] = saved.get("dmemory", 0.0) + dmemory
            dx, dy = self._add_backward("attn", i, dx, saved[i])
            dx = dx + self._attention_backward(i, dy, saved[i])
        if spec["embedding_norm"]:
            dx = self._norm_backward("embedding_norm", dx, saved["embedding_norm"])
        return dx * spec["input_scale"]

    def prefix_gradient(self, saved: dict) -> np.ndarray:
        """Gradient `[L, 2, P, K, h]` of the prefix, after `backward`."""
        return np.stack([saved[i]["dprefix"] for i in range(self.spec["num_layers"])])

    def _add(self, half: str, i: int, x: np.ndarray, y: np.ndarray, saved: dict) -> np.ndarray:
        """The residual x and what a half of layer i adds to it."""
        x = x + self.spec["residual_scale"] * y
        if self.spec["norm_place"] == "post":
            x, saved[half + "_post"] = self._norm(f"layers.{i}.{half}_out_norm", x)
        return x

    def _add_backward(self, half: str, i: int, dx: np.ndarray, saved: dict) -> tuple:
        if self.spec["norm_place"] == "post":
            dx = self._norm_backward(f"layers.{i}.{half}_out_norm", dx, saved[half + "_post"])
        return dx, self.spec["residual_scale"] * dx

    def _begin(self, half: str, i: int, x: np.ndarray, saved: dict) -> np.ndarray:
        """The input of a half."""
        if self.spec["norm_place"] in ("pre", "sandwich"):
            x, saved[half + "_norm"] = self._norm(f"layers.{i}.{half}_norm", x)
        return x

    def _begin_backward(self, half: str, i: int, dx: np.ndarray, saved: dict) -> np.ndarray:
        if self.spec["norm_place"] in ("pre", "sandwich"):
            dx = self._norm_backward(f"layers.{i}.{half}_norm", dx, saved[half + "_norm"])
        return dx

    def _end(self, half: str, i: int, y: np.ndarray, saved: dict) -> np.ndarray:
        """The output of a half."""
        if self.spec["norm_place"] in ("output", "sandwich"):
            y, saved[half + "_out_norm"] = self._norm(f"layers.{i}.{half}_out_norm", y)
        return y

    def _end_backward(self, half: str, i: int, dy: np.ndarray, saved: dict) -> np.ndarray:
        if self.spec["norm_place"] in ("output", "sandwich"):
            dy = self._norm_backward(f"layers.{i}.{half}_out_norm", dy, saved[half + "_out_norm"])
        return dy

    def _attention(self, i: int, x: np.ndarray, saved: dict) -> np.ndarray:
        spec, slot = self.spec, f"layers.{i}."
        x = self._begin("attn", i, x, saved)
        q = self._heads(i, "q", x, spec["num_heads"], saved)
        k = self._heads(i, "k", x, spec["num_kv_heads"], saved)
        v = self._clip("v", self._linear(slot + "v", x), saved)
        v = v.reshape(len(x), spec["num_kv_heads"], -1)
        if "prefix" in saved:
            k, v = (np.concatenate(both) for both in zip(saved["prefix"], (k, v), strict=True))
        bias = None
        if spec["positions"] == "alibi":
            bias = self.weights["alibi.bias"][:, None, : len(k)]
        if spec["positions"] == "relative":
            reach, places = spec["relative_reach"], np.arange(len(k))
            distances = np.clip(places[None, :] - places[-len(x) :, None], -reach, reach)
            bias = self.weights["relative.bias"][:, distances + reach]
        window = spec["windows"][i] if len(spec["windows"]) else 0
        out, attention = layers.attention(
            q, k, v, spec["attention_scale"], cap=spec["attention_soft_cap"],
            window=window, bias=bias, causal=self.causal,
        )  # fmt: skip
        saved["attention"] = (q, k, v, attention)
        return self._end("attn", i, self._linear(slot + "o", out.reshape(len(x), -1)), saved)

    def _attention_backward(self, i: int, dy: np.ndarray, saved: dict) -> np.ndarray:
        slot, (q, k, v, attention) = f"layers.{i}.", saved["attention"]
        dy = self._end_backward("attn", i, dy, saved)
        dout = self._linear_backward(slot + "o", dy).reshape(q.shape)
        dq, dk, dv = layers.attention_backward(
            dout, q, k, v, attention, self.spec["attention_scale"]
        )
        first = saved["first"]
        saved["dprefix"] = np.stack([dk[:first], dv[:first]])
        dk, dv = dk[first:], dv[first:]
        dx = (
            self._linear_backward(slot + "q", self._heads_backward(i, "q", dq, saved))
            + self._linear_backward(slot + "k", self._heads_backward(i, "k", dk, saved))
            + self._linear_backward(slot + "v", dv.reshape(len(dy), -1) * saved["v_clip"])
        )
        return self._begin_backward("attn", i, dx, saved)

    def _cross(self, i: int, x: np.ndarray, memory: np.ndarray, saved: dict) -> np.ndarray:
        """Attention of the rows x to all rows of `memory`."""
        spec, slot = self.spec, f"layers.{i}.cross_"
        x = self._begin("cross", i, x, saved)
        q = self._linear(slot + "q", x).reshape(len(x), spec["num_heads"], -1)
        k, v = (
            self._linear(slot + part, memory).reshape(len(memory), spec["num_kv_heads"], -1)
            for part in "kv"
        )
        out, attention = layers.attention(
            q, k, v, spec["attention_scale"], cap=spec["attention_soft_cap"], causal=False
        )
        saved["cross"] = (q, k, v, attention)
        return self._end("cross", i, self._linear(slot + "o", out.reshape(len(x), -1)), saved)

    def _cross_backward(self, i: int, dy: np.ndarray, saved: dict) -> tuple:
        """Gradients of the rows and of the memory."""
        slot, (q, k, v, attention) = f"layers.{i}.cross_", saved["cross"]
        dy = self._end_backward("cross", i, dy, saved)
        dout = self._linear_backward(slot + "o", dy).reshape(q.shape)
        dq, dk, dv = layers.attention_backward(
            dout, q, k, v, attention, self.spec["attention_scale"]
        )
        dx = self._linear_backward(slot + "q", dq.reshape(len(q), -1))
        dmemory = self._linear_backward(slot + "k", dk.reshape(len(k), -1))
        dmemory = dmemory + self._linear_backward(slot + "v", dv.reshape(len(v), -1))
        return self._begin_backward("cross", i, dx, saved), dmemory

    def _heads(self, i: int, part: str, x: np.ndarray, heads: int, saved: dict) -> np.ndarray:
        """Queries or keys `[T, heads, h]`: clamped, normalised, rotated."""
        spec, slot = self.spec, f"layers.{i}.{part}_norm"
        x = self._clip(part, self._linear(f"layers.{i}.{part}", x), saved)
        if spec["qk_norm"] == "whole":
            x, saved[part + "_norm"] = self._norm(slot, x)
        x = x.reshape(len(x), heads, -1)
        if spec["qk_norm"] in ("head", "heads"):
            shape = (heads if spec["qk_norm"] == "heads" else 1, -1)
            weight, bias = self.weights[slot + ".weight"], self.weights.get(slot + ".bias")
            x, saved[part + "_norm"] = layers.norm(
                spec["norm"], x, weight.reshape(shape),
                None if bias is None else bias.reshape(shape), spec["norm_eps"],
            )  # fmt: skip
        return self._rotate(i, x, saved)

    def _heads_backward(self, i: int, part: str, dx: np.ndarray, saved: dict) -> np.ndarray:
        spec, slot = self.spec, f"layers.{i}.{part}_norm"
        dx = self._rotate(i, dx, saved, back=True)
        if spec["qk_norm"] in ("head", "heads"):
            shape = (dx.shape[1] if spec["qk_norm"] == "heads" else 1, -1)
            weight = self.weights[slot + ".weight"].reshape(shape)
            dx = layers.norm_backward(spec["norm"], dx, weight, saved[part + "_norm"])
        dx = dx.reshape(len(dx), -1)
        if spec["qk_norm"] == "whole":
            dx = self._norm_backward(slot, dx, saved[part + "_norm"])
        return dx * saved[part + "_clip"]

    def _clip(self, part: str, x: np.ndarray, saved: dict) -> np.ndarray:
        clip = self.spec["qkv_clip"] or np.inf
        saved[part + "_clip"] = (np.abs(x) < clip).astype(x.dtype)
        return np.clip(x, -clip, clip)

    def _mlp(self, i: int, x: np.ndarray, saved: dict) -> np.ndarray:
        slot = f"layers.{i}."
        x = self._begin("mlp", i, x, saved)
        up = self._linear(slot + "up", x)
        if self.spec["gated"]:
            gate, slope = layers.activation(self.spec["activation"], self._linear(slot + "gate", x))
            saved["mlp"] = (gate, slope, up)
            hidden = gate * up
        else:
            hidden, saved["mlp"] = layers.activation(self.spec["activation"], up)
        return self._end("mlp", i, self._linear(slot + "down", hidden), saved)

    def _mlp_backward(self, i: int, dy: np.ndarray, saved: dict) -> np.ndarray:
        slot = f"layers.{i}."
        dhidden = self._linear_backward(slot + "down", self._end_backward("mlp", i, dy, saved))
        if self.spec["gated"]:
            gate, slope, up = saved["mlp"]
            dx = self._linear_backward(slot + "up", dhidden * gate)
            dx = dx + self._linear_backward(slot + "gate", dhidden * up * slope)
        else:
            dx = self._linear_backward(slot + "up", dhidden * saved["mlp"])
        return self._begin_backward("mlp", i, dx, saved)

    def _linear(self, slot: str, x: np.ndarray) -> np.ndarray:
        return layers.linear(x, self.weights[slot + ".weight"], self.weights.get(slot + ".bias"))

    def _linear_backward(self, slot: str, dy: np.ndarray) -> np.ndarray:
        return layers.linear_backward(dy, self.weights[slot + ".weight"])

    def _norm(self, slot: str, x: np.ndarray) -> tuple[np.ndarray, tuple]:
        weight, bias = self.weights[slot + ".weight"], self.weights.get(slot + ".bias")
        return layers.norm(self.spec["norm"], x, weight, bias, self.spec["norm_eps"])

    def _norm_backward(self, slot: str, dy: np.ndarray, saved: tuple) -> np.ndarray:
        return layers.norm_backward(self.spec["norm"], dy, self.weights[slot + ".weight"], saved)

    def _rotate(self, i: int, x: np.ndarray, saved: dict, *, back: bool = False) -> np.ndarray:
        spec = self.spec
        which = spec["ropes"][i] if len(spec["ropes"]) else 0
        if spec["positions"] != "rotary" or which < 0:
            return x
        frequencies = self.frequencies(saved["length"])[which]
        scale = self.weights["rope.scale"][which] if "rope.scale" in self.weights else 1.0
        positions = saved["first"] + np.arange(len(x), dtype=self.dtype)
        angles = positions[:, None] * frequencies
        turned = layers.rotate(x, angles, spec["rope_interleaved"], back=back)
        rotated = 2 * len(frequencies)
        turned[..., :rotated] *= scale
        return turned

    def frequencies(self, length: int) -> np.ndarray:
        """Rotary frequencies `[num_ropes, r/2]` of a text of this length."""
        del length  # they depend on it only where a model says so
        return self.weights["rope.inv_freq"].reshape(self.spec["num_ropes"], -1)

    def _head(self) -> np.ndarray:
        return self.weights.get("head.weight", self.weights["embedding.weight"])

    # --- sequences with a prompt ------------------------------------------------------------------
    #
    # Wherever a prompt `[P, d]` stands, a prefix `[L, 2, P, K, h]` may stand in its place, and its
    # gradient then has its shape.

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
        """Logits `[P + len(ids), V]` of every row, the prompt's rows among them; a prefix has
        none."""
        return self._run(ids, prompt, at)[0]

    def _run(
        self, ids: Sequence[int], prompt: np.ndarray | None, at: int
    ) -> tuple[np.ndarray, dict]:
        if np.ndim(prompt) == 5:
            return self.forward(self.embed(ids), prefix=prompt)
        return self.forward(self.rows(ids, prompt, at))

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

    def key_values(self, x: np.ndarray, length: int = 0) -> np.ndarray:
        """Keys and values `[L, 2, T, K, h]` that input rows x leave behind: their prefix."""
        _, saved = self.forward(x, length)
        layers_of = (saved[i]["attention"][1:3] for i in range(self.spec["num_layers"]))
        return np.stack([np.stack(both) for both in layers_of])

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
        logits, saved = self._run([*input_ids, *target_ids[:-1]], prompt, at)
        logp = layers.log_softmax(logits[-count:])
        picked = np.arange(count), np.asarray(target_ids)
        dlogits = np.zeros_like(logits)
        weights = weights.astype(self.dtype)
        dlogits[-count:] = -np.exp(logp) * weights[:, None]
        dlogits[-count:][picked] += weights
        drows = self.backward(dlogits, saved)
        grad = self.prefix_gradient(saved) if np.ndim(prompt) == 5 else drows[at : at + len(prompt)]
        return float((weights * logp[picked]).sum()), grad

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
