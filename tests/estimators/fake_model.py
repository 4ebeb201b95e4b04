"""A model in a few lines of NumPy with the interface of `softprompt.Model`, as a fast test double.

Logits after a text are ``out @ (mean of the text's embeddings * mean of the prompt's rows)``: the
prompt weighs the features of a bag of embeddings, so that it can learn a task, and its gradient is
exact. A prefix does so by its values; its keys do nothing. Texts are encoded by their characters.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np

from softprompt import Prefix
from softprompt.model.beams import BeamOptions, BeamSearch

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
BOS, EOS = len(CHARACTERS), len(CHARACTERS) + 1


class CharacterTokenizer:
    """One id per character; unknown characters are '?'."""

    vocab_size = len(CHARACTERS) + 2

    def __init__(self, *, adds_bos: bool = False, adds_eos: bool = False) -> None:
        self._adds_bos, self._adds_eos = adds_bos, adds_eos

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [
            max(CHARACTERS.find(c), 0) if c in CHARACTERS else CHARACTERS.find("?") for c in text
        ]
        if add_special_tokens:
            ids = [BOS] * self._adds_bos + ids + [EOS] * self._adds_eos
        return ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(CHARACTERS[i] for i in ids if i < len(CHARACTERS))

    def id_to_token(self, token: int) -> str:
        return CHARACTERS[token] if token < len(CHARACTERS) else "<special>"


class FakeModel:
    """See the module."""

    made = 0

    def __init__(
        self,
        *,
        hidden_size: int = 8,
        max_positions: int | None = 400,
        seed: int = 0,
        adds_bos: bool = False,
        adds_eos: bool = False,
    ) -> None:
        FakeModel.made += 1
        self._options = {
            "hidden_size": hidden_size,
            "max_positions": max_positions,
            "seed": seed,
            "adds_bos": adds_bos,
            "adds_eos": adds_eos,
        }
        rng = np.random.default_rng(seed)
        vocab = CharacterTokenizer.vocab_size
        self.tokenizer = CharacterTokenizer(adds_bos=adds_bos, adds_eos=adds_eos)
        self.embeddings = rng.normal(size=(vocab, hidden_size)).astype(np.float32)
        self._out = rng.normal(size=(vocab, hidden_size))
        self.fingerprint = hashlib.sha256(self.embeddings.tobytes()).hexdigest()
        self.num_threads = 1
        self.calls = 0
        self.before_pass = lambda: None
        self.config = SimpleNamespace(
            family="fake",
            name_or_path="fake",
            vocab_size=vocab,
            hidden_size=hidden_size,
            num_layers=1,
            num_attention_heads=1,
            num_kv_heads=1,
            head_dim=hidden_size,
            max_positions=max_positions,
            bos_token_id=BOS,
            eos_token_ids=(EOS,),
            pad_token_id=None,
            adds_bos=adds_bos,
            adds_eos=adds_eos,
        )

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return _rebuild, (self._options,)

    # ---- one text ----

    def _features(self, prompt, ids):
        ids = np.asarray(ids, np.int64)
        if prompt is None and not len(ids):
            raise ValueError("an empty input without a prompt")
        rows = 0 if prompt is None else len(prompt)
        if self.config.max_positions is not None and rows + len(ids) > self.config.max_positions:
            raise ValueError(f"{rows + len(ids)} rows, the context has {self.config.max_positions}")
        ones = np.ones(self.config.hidden_size)
        text = self.embeddings[ids].astype(np.float64).mean(axis=0) if len(ids) else ones
        return text, ones if prompt is None else prompt.mean(axis=0)

    def _log_probs(self, prompt, ids):
        text, gate = self._features(prompt, ids)
        logits = self._out @ (text * gate)
        logits -= logits.max()
        return text, logits - np.log(np.exp(logits).sum())

    def _answer(self, prompt, ids, target):
        """Log-probability of each target token, and its gradient in the mean prompt row."""
        values, grads = [], []
        for at, token in enumerate(target):
            text, log_probs = self._log_probs(prompt, [*ids, *target[:at]])
            error = -np.exp(log_probs)
            error[token] += 1
            values.append(log_probs[token])
            grads.append(text * (self._out.T @ error))
        return np.array(values), np.array(grads)

    # ---- the interface ----

    def loss_and_grad(self, prompt, examples):
        if isinstance(prompt, list):
            return [self.loss_and_grad(p, e) for p, e in zip(prompt, examples, strict=True)]
        self.calls += 1
        self.before_pass()
        given, prompt = prompt, _rows(prompt)
        loss, grad, total = 0.0, 0.0, 0.0
        for ids, target, *weights in examples:
            weight = np.array(weights[0] if weights else [1.0] * len(target))
            values, grads = self._answer(prompt, ids, target)
            loss -= weight @ values
            grad = grad - weight @ grads
            total += weight.sum()
        return loss / total, self._spread(grad / total, given)

    def loss(self, prompt, examples):
        loss, _ = self.loss_and_grad(prompt, examples)
        return loss

    def ranking_loss_and_grad(
        self, prompt, inputs, choices, targets, *, sample_weight=None, length_normalize=False
    ):
        self.calls += 1
        self.before_pass()
        given, prompt = prompt, _rows(prompt)
        weight = np.ones(len(inputs)) if sample_weight is None else np.asarray(sample_weight)
        loss, grad = 0.0, 0.0
        for ids, target, w in zip(inputs, targets, weight, strict=True):
            parts = [self._answer(prompt, ids, choice) for choice in choices]
            scale = [1 / len(c) if length_normalize else 1.0 for c in choices]
            sums = np.array([s * v.sum() for s, (v, _) in zip(scale, parts, strict=True)])
            grads = np.array([s * g.sum(axis=0) for s, (_, g) in zip(scale, parts, strict=True)])
            log_shares = sums - sums.max()
            log_shares -= np.log(np.exp(log_shares).sum())
            loss -= w * log_shares[target]
            grad = grad - w * (grads[target] - np.exp(log_shares) @ grads)
        return loss / weight.sum(), self._spread(grad / weight.sum(), given)

    def rank(self, inputs, choices, prompt=None, *, length_normalize=False):
        self.before_pass()
        prompts = prompt if isinstance(prompt, list) else [prompt] * len(inputs)
        sums = np.empty((len(inputs), len(choices)))
        for i, (ids, p) in enumerate(zip(inputs, prompts, strict=True)):
            p = _rows(p)
            for j, choice in enumerate(choices):
                values, _ = self._answer(p, ids, choice)
                sums[i, j] = values.sum() / (len(choice) if length_normalize else 1)
        sums -= sums.max(axis=1, keepdims=True)
        return sums - np.log(np.exp(sums).sum(axis=1, keepdims=True))

    def generate(self, inputs, prompt=None, *, max_new_tokens=50, stop=None, **beams):
        p = _rows(prompt)
        texts = []
        for ids in inputs:
            new: list[int] = []
            while len(new) < max_new_tokens and beams.get("num_beams", 1) == 1:
                _, log_probs = self._log_probs(p, [*ids, *new])
                token = int(log_probs.argmax())
                if token == EOS:
                    break
                new.append(token)
            if beams.get("num_beams", 1) > 1:
                search = BeamSearch(BeamOptions(**beams), limit=max_new_tokens, end_ids=[EOS])
                while not search.done:
                    rows = [self._log_probs(p, [*ids, *new])[1] for new in search.sequences]
                    search.step(np.array(rows, np.float32))
                new = search.best(1)[0]
            text = self.tokenizer.decode(new)
            for end in stop or []:
                text = text.split(end)[0]
            texts.append(text)
        return texts

    def prefix(self, prompt):
        rows = _rows(prompt)[None, :, None]
        return Prefix(np.zeros_like(rows), rows)

    @staticmethod
    def _spread(grad, prompt):
        rows = np.tile(grad / len(prompt), (len(prompt), 1)).astype(np.float32)
        if isinstance(prompt, Prefix):
            rows = np.concatenate([np.zeros_like(rows), rows], axis=1)
        return rows


def _rows(prompt):
    if prompt is None:
        return None
    return np.asarray(prompt.values[0, :, 0] if isinstance(prompt, Prefix) else prompt, np.float64)


def _rebuild(options):
    return FakeModel(**options)
