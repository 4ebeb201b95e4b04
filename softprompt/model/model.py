"""`Model`: a frozen language model and everything that can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from softprompt.families import inverse_frequencies, length_class
from softprompt.model.embeddings import Embeddings
from softprompt.model.forest import Forest, pack
from softprompt.model.sequences import PromptTable, check_ids, check_weights, is_several
from softprompt.model.threads import check_num_threads
from softprompt.model.workers import Workers

__all__ = ["Model"]

ROWS_AT_A_TIME = 128
"""Inputs of one engine call where nothing but a number per input comes back."""

LOGITS_AT_A_TIME = 1 << 25
"""Logits of one engine call of `Model.logits` (128 MiB)."""


class Model:
    """A frozen language model. Made by `softprompt.load_model`.

    Copying gives the same object, pickling stores where the model came from and never its weights.

    Attributes
    ----------
    config : ModelConfig
    tokenizer : object or None
    embeddings : array-like of float32, shape (vocab_size, hidden_size)
        In the space of transformers' ``inputs_embeds``.
    weights : dict of ndarray of float32
        By slot; not to be changed.
    """

    def __init__(
        self,
        *,
        core: Any,
        weights: dict[str, np.ndarray],
        spec: Any,
        config: Any,
        tokenizer: Any,
        origin: Any,
        num_threads: int | None = None,
        memory_limit: int | None = None,
    ) -> None:
        self.spec = spec
        self.config = config
        self.tokenizer = tokenizer
        self.origin = origin
        self.embeddings = Embeddings(weights["embedding.weight"], spec.embedding_scale)
        self.num_threads = num_threads
        weight_bytes = sum(array.nbytes for array in weights.values())
        self._workers = Workers(core, weight_bytes, None)
        self.memory_limit = memory_limit
        self.weights = weights
        self._share = True
        self._fingerprint: str | None = None

    # ---- what it is ----

    @property
    def num_threads(self) -> int:
        """Threads of the engine; may be set. No result depends on it."""
        return self._num_threads

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._num_threads = check_num_threads(value)

    @property
    def memory_limit(self) -> int | None:
        """Bytes for weights and workspace, or None; may be set."""
        return self._workers.memory_limit

    @memory_limit.setter
    def memory_limit(self, value: int | None) -> None:
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"memory_limit = {value!r}: expected a number of bytes or None")
            if value < self._workers.weight_bytes:
                raise ValueError(
                    f"memory_limit = {value} bytes: the weights alone take "
                    f"{self._workers.weight_bytes}"
                )
        self._workers.memory_limit = value

    @property
    def fingerprint(self) -> str:
        """Hash of the model's switches and of a sample of its weights; equal for equal weights,
        wherever they come from.
        """
        if self._fingerprint is None:
            from softprompt.model.fingerprint import fingerprint

            self._fingerprint = fingerprint(self.spec, self.weights)
        return self._fingerprint

    def __copy__(self) -> Model:
        return self

    def __deepcopy__(self, memo: dict) -> Model:
        return self

    def __reduce__(self) -> tuple:
        from softprompt.model.load import reload_model

        return reload_model, (self.origin, self.fingerprint)

    def __repr__(self) -> str:
        c = self.config
        return (
            f"Model({c.name_or_path!r}, family={c.family!r}, hidden_size={c.hidden_size}, "
            f"num_layers={c.num_layers}, vocab_size={c.vocab_size})"
        )

    # ---- intake ----

    def encode(self, inputs: Sequence[object], *, where: str = "inputs") -> list[np.ndarray]:
        """Token ids of texts (with the model's own special tokens) or of id lists, checked.

        Parameters
        ----------
        inputs : sequence of str or of sequences of int
        where : str
            What messages call them.

        Returns
        -------
        list of ndarray of int32
        """
        if isinstance(inputs, (str, bytes)):
            raise TypeError(
                f"{where}: expected a list of texts or id lists, got one {type(inputs).__name__}"
            )
        try:
            items = list(inputs)
        except TypeError as err:
            raise TypeError(
                f"{where}: expected a list of texts or id lists, got {type(inputs).__name__}"
            ) from err
        encoded = []
        for i, item in enumerate(items):
            if isinstance(item, str):
                if self.tokenizer is None:
                    raise ValueError(
                        f"{where}[{i}]: this model has no tokenizer; give token ids, or "
                        "load_model(..., tokenizer=...)"
                    )
                item = self.tokenizer.encode(item)
            encoded.append(check_ids(item, vocab_size=self.spec.vocab_size, where=f"{where}[{i}]"))
        return encoded

    def _prompts(self, prompt: object, count: int) -> tuple[PromptTable, list[int]]:
        """The prompts' table, and which of them each of `count` inputs has."""
        if is_several(prompt):
            if len(prompt) != count:
                raise ValueError(
                    f"prompt: {len(prompt)} prompts for {count} inputs, expected one (or None) each"
                )
            table = self._table(prompt)
            return table, list(range(count))
        return self._table([prompt]), [0] * count

    def _table(self, prompts: Sequence[object]) -> PromptTable:
        return PromptTable(
            prompts,
            hidden_size=self.spec.hidden_size,
            bos_token_id=getattr(self.config, "bos_token_id", None),
        )

    def _check_length(self, rows: int, where: str) -> None:
        if rows > self.spec.max_positions:
            raise ValueError(
                f"{where}: {rows} rows (virtual and real tokens) are longer than the model's "
                f"context of {self.spec.max_positions}"
            )

    def _sequence(
        self, table: PromptTable, which: int, ids: np.ndarray, target: np.ndarray, where: str
    ) -> tuple[np.ndarray, int]:
        """Symbols of prompt, input and all but the last target; place of the row that predicts the
        first target.
        """
        if len(target) == 0:
            raise ValueError(f"{where}: the target has no tokens")
        symbols, _ = table.symbols(which, ids)
        if len(symbols) == 0:
            raise ValueError(
                f"{where}: an empty input without a prompt has no row that could predict the target"
            )
        before = len(symbols) - 1
        symbols = np.concatenate([symbols, target[:-1]])
        self._check_length(len(symbols), where)
        return symbols, before

    def _packed(
        self, sequences: list[np.ndarray], places: list[np.ndarray]
    ) -> tuple[Forest, np.ndarray]:
        """Forest of sequences that lack their last target, and its rows at their places, one
        sequence after the other.
        """
        forest = self._pack(sequences, [len(symbols) + 1 for symbols in sequences])
        rows = [own[at] for own, at in zip(forest.rows, places, strict=True)]
        return forest, np.concatenate(rows)

    def _pack(self, sequences: list[np.ndarray], lengths: list[int]) -> Forest:
        """Forest of the beginnings of texts of these lengths: each gets the rotary frequencies of a
        run of its own.
        """
        classes = [length_class(self.spec, length) for length in lengths]
        return pack(sequences, share=self._share, classes=classes if any(classes) else None)

    def _engine_forest(self, forest: Forest) -> tuple[np.ndarray, ...]:
        """A forest as the engine takes it."""
        arrays = (forest.parents, forest.starts, forest.symbols)
        if forest.classes is None:
            return arrays
        classes, frequency_of = np.unique(forest.classes, return_inverse=True)
        sets = np.concatenate([self._frequencies(int(number)) for number in classes])
        return (*arrays, sets, frequency_of.astype(np.int32))

    def _frequencies(self, number: int) -> np.ndarray:
        """Rotary frequencies of a class of lengths, shape (1, all of them)."""
        if number == 0:
            return np.ascontiguousarray(self.weights["rope.inv_freq"].reshape(1, -1))
        return inverse_frequencies(self.spec, number).reshape(1, -1)

    # ---- losses ----

    def loss_and_grad(self, prompt: object, examples: Sequence) -> Any:
        """Mean negative log-likelihood of the targets, and its gradient in the prompt.

        Parameters
        ----------
        prompt : SoftPrompt or array of shape (num_virtual_tokens, hidden_size)
            Or a list of them: several prompts in one pass over the weights.
        examples : list of (input_ids, target_ids) or (input_ids, target_ids, weights)
            Token ids (or texts); a third element gives one weight per target token. For a list of
            prompts: a list of such lists, one for each prompt.

        Returns
        -------
        loss : float
            sum(weight * -log p) / sum(weight) over all target tokens.
        grad : ndarray of float32, shape (num_virtual_tokens, hidden_size)
            For a list of prompts: a list of (loss, grad).

        Raises
        ------
        ValueError, TypeError
            A prompt, id, weight or length that cannot be; the message names it.
        """
        return self._loss(prompt, examples, want_grad=True)

    def loss(self, prompt: object, examples: Sequence) -> Any:
        """As `loss_and_grad`, but the loss alone; `prompt` may be None."""
        result = self._loss(prompt, examples, want_grad=False)
        return [loss for loss, _ in result] if isinstance(result, list) else result[0]

    def _loss(self, prompt: object, examples: Sequence, *, want_grad: bool) -> Any:
        several = is_several(prompt)
        prompts: Sequence[object] = prompt if several else [prompt]  # type: ignore[assignment]
        lists = examples if several else [examples]
        if len(prompts) != len(lists):
            raise ValueError(f"{len(prompts)} prompts and {len(lists)} lists of examples")
        if want_grad and any(p is None for p in prompts):
            raise TypeError("prompt: expected an array or a SoftPrompt, got None")
        table = self._table(prompts)
        sequences, places, targets, weights, owners = [], [], [], [], []
        for p, batch in enumerate(lists):
            prefix = f"examples[{p}]" if several else "examples"
            if isinstance(batch, (str, bytes, dict)) or not hasattr(batch, "__len__"):
                raise TypeError(
                    f"{prefix}: expected a list of examples, got {type(batch).__name__}"
                )
            if len(batch) == 0:
                raise ValueError(f"{prefix}: expected at least one example")
            own = []
            for i, example in enumerate(batch):
                where = f"{prefix}[{i}]"
                if not isinstance(example, (tuple, list)) or len(example) not in (2, 3):
                    raise TypeError(
                        f"{where}: expected (input_ids, target_ids) or (input_ids, target_ids, "
                        "weights)"
                    )
                ids, target = self._pair(example[0], example[1], where)
                symbols, before = self._sequence(table, p, ids, target, where)
                own.append(
                    np.ones(len(target))
                    if len(example) == 2 or example[2] is None
                    else check_weights(example[2], len(target), where=f"{where}: weights")
                )
                sequences.append(symbols)
                places.append(before + np.arange(len(target)))
                targets.append(target)
            total = float(sum(w.sum() for w in own))
            if total <= 0:
                raise ValueError(f"{prefix}: all weights are zero")
            weights += [w / total for w in own]
            owners += [np.full(len(w), p) for w in own]
        forest, rows = self._packed(sequences, places)
        weight = np.concatenate(weights)
        order, log_probs, grad = self._run_losses(
            forest, table, rows, np.concatenate(targets), weight, want_grad=want_grad
        )
        terms = -weight[order] * log_probs
        owner = np.concatenate(owners)[order]
        losses = [float(terms[owner == p].sum()) for p in range(len(prompts))]
        results = [
            (loss, grad[table.rows(p)] if want_grad else None) for p, loss in enumerate(losses)
        ]
        return results if several else results[0]

    def _pair(self, ids: object, target: object, where: str) -> tuple[np.ndarray, np.ndarray]:
        ids = self.encode([ids], where=f"{where}: input")[0]
        if isinstance(target, str):
            target = self._encode_target(target, where)
        return ids, check_ids(target, vocab_size=self.spec.vocab_size, where=f"{where}: target")

    def _encode_target(self, text: str, where: str) -> list[int]:
        if self.tokenizer is None:
            raise ValueError(f"{where}: this model has no tokenizer; give token ids")
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _run_losses(
        self,
        forest: Forest,
        table: PromptTable,
        rows: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        *,
        want_grad: bool,
        cut: np.ndarray | None = None,
        ranking: tuple | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give the engine loss entries in rows' order; returns that order with the results."""
        order = np.argsort(rows, kind="stable")
        rows, targets = rows[order], targets[order]
        cut_flags = np.zeros(len(rows), dtype=np.uint8)
        cut_tokens = np.zeros(0, dtype=np.int32)
        if cut is not None and cut.any():
            # a row is cut only if all its entries are
            first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
            all_cut = np.minimum.reduceat(cut[order].astype(np.uint8), first)
            cut_flags = np.repeat(all_cut, np.diff(np.r_[first, len(rows)]))
            chosen = cut_flags.astype(bool)
            cut_tokens, places = np.unique(targets[chosen], return_inverse=True)
            targets = targets.copy()
            targets[chosen] = places
        losses: tuple = (
            rows.astype(np.int32),
            targets.astype(np.int32),
            weights[order].astype(np.float32),
            cut_flags,
            cut_tokens.astype(np.int32),
        )
        if ranking is not None:
            choices, groups, group_targets, group_weights = ranking
            losses += (choices[order].astype(np.int32), groups, group_targets, group_weights)
        arguments = (self._engine_forest(forest), table.matrix, losses, want_grad)
        with self._workers.lend() as worker:
            context = worker.context
            pack_rows = self._workers.rows_within_limit(context, arguments, self.num_threads)
            log_probs, grad = context.loss(*arguments, self.num_threads, pack_rows)
        return order, log_probs, grad

    # ---- ranking ----

    def ranking_loss_and_grad(
        self,
        prompt: object,
        inputs: Sequence,
        choices: Sequence,
        targets: Sequence[int],
        *,
        sample_weight: object = None,
        length_normalize: bool = False,
    ) -> tuple[float, np.ndarray]:
        """Cross-entropy over choices: softmax of the choices' log-likelihoods, and its gradient.

        Parameters
        ----------
        prompt : SoftPrompt or array of shape (num_virtual_tokens, hidden_size)
        inputs : list of texts or id lists
        choices : list of texts or id lists
            The same for every input.
        targets : sequence of int
            The right choice of every input.
        sample_weight : array of shape (n,), optional
        length_normalize : bool
            Divide a choice's log-likelihood by its number of tokens.

        Returns
        -------
        loss : float
            sum(w * -log softmax(log-likelihoods)[target]) / sum(w)
        grad : ndarray of float32, shape (num_virtual_tokens, hidden_size)
        """
        table = self._table([prompt])
        if prompt is None:
            raise TypeError("prompt: expected an array or a SoftPrompt, got None")
        encoded = self.encode(inputs)
        ids_of_choices = self._choices(choices)
        num = len(encoded)
        if num == 0:
            raise ValueError("inputs: expected at least one")
        wanted = check_ids(targets, vocab_size=len(ids_of_choices), where="targets")
        if len(wanted) != num:
            raise ValueError(f"targets: {len(wanted)} for {num} inputs")
        weight = (
            np.ones(num)
            if sample_weight is None
            else check_weights(sample_weight, num, where="sample_weight")
        )
        if weight.sum() <= 0:
            raise ValueError("sample_weight: all weights are zero")
        weight = weight / weight.sum()
        log_probs, grad = self._rank(
            table, [0] * num, encoded, ids_of_choices, length_normalize, (wanted, weight)
        )
        return float(-(weight * log_probs[np.arange(num), wanted]).sum()), grad

    def rank(
        self,
        inputs: Sequence,
        choices: Sequence,
        prompt: object = None,
        *,
        length_normalize: bool = False,
    ) -> np.ndarray:
        """Log of the softmax over the choices' log-likelihoods.

        Parameters
        ----------
        inputs : list of texts or id lists
        choices : list of texts or id lists
            The same for every input.
        prompt : SoftPrompt, array, or a list of one (or None) per input, optional
        length_normalize : bool
            Divide a choice's log-likelihood by its number of tokens.

        Returns
        -------
        ndarray of float64, shape (n, len(choices))
        """
        encoded = self.encode(inputs)
        ids_of_choices = self._choices(choices)
        table, which = self._prompts(prompt, len(encoded))
        result = np.zeros((len(encoded), len(ids_of_choices)))
        for part in self._parts(encoded):
            chosen = [encoded[i] for i in part]
            result[part], _ = self._rank(
                table, [which[i] for i in part], chosen, ids_of_choices, length_normalize, None
            )
        return result

    def _choices(self, choices: Sequence) -> list[np.ndarray]:
        if isinstance(choices, (str, bytes)) or len(choices) < 2:
            raise ValueError(f"choices = {choices!r}: expected at least two texts or id lists")
        return [self._pair([], choice, f"choices[{i}]")[1] for i, choice in enumerate(choices)]

    def _parts(self, encoded: list[np.ndarray]) -> Iterator[list[int]]:
        """Inputs of one engine call after the other, neighbours in lexical order together, so that
        what they share is computed once.
        """
        order = sorted(range(len(encoded)), key=lambda i: encoded[i].tolist())
        for start in range(0, len(order), ROWS_AT_A_TIME):
            yield order[start : start + ROWS_AT_A_TIME]

    def _rank(
        self,
        table: PromptTable,
        which: list[int],
        encoded: list[np.ndarray],
        choices: list[np.ndarray],
        length_normalize: bool,
        training: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        num, num_choices = len(encoded), len(choices)
        factors = [1.0 / len(c) if length_normalize and len(c) else 1.0 for c in choices]
        # Up to here all choices are predicted by the same rows, with the same weight: there the
        # normaliser cancels, and the head needs no other tokens than theirs.
        common = 0
        while all(len(c) > common for c in choices) and len(set(factors)) == 1:
            common += 1
            if len({int(c[common - 1]) for c in choices}) > 1:
                break
        sequences, places = [], []
        for i, ids in enumerate(encoded):
            for choice in choices:
                symbols, before = self._sequence(table, which[i], ids, choice, f"inputs[{i}]")
                sequences.append(symbols)
                places.append(before + np.arange(len(choice)))
        forest, rows = self._packed(sequences, places)
        lengths = [len(c) for c in choices]
        targets = np.tile(np.concatenate(choices), num)
        weights = np.tile(np.repeat(factors, lengths), num)
        cut = np.tile(np.concatenate([np.arange(n) < common for n in lengths]), num)
        choice_of = np.repeat(np.arange(num * num_choices), np.tile(lengths, num))
        ranking = None
        if training is not None:
            wanted, group_weights = training
            ranking = (
                choice_of,
                np.repeat(np.arange(num, dtype=np.int32), num_choices),
                (np.arange(num) * num_choices + wanted).astype(np.int32),
                group_weights.astype(np.float32),
            )
        order, log_probs, grad = self._run_losses(
            forest, table, rows, targets, weights,
            want_grad=training is not None, cut=cut, ranking=ranking,
        )  # fmt: skip
        sums = np.bincount(choice_of[order], weights[order] * log_probs, num * num_choices)
        sums = sums.reshape(num, num_choices)
        sums -= sums.max(axis=1, keepdims=True)
        return sums - np.log(np.exp(sums).sum(axis=1, keepdims=True)), grad

    def log_likelihood(
        self, inputs: Sequence, targets: Sequence, prompt: object = None
    ) -> np.ndarray:
        """Log-likelihood of each target after its input.

        Parameters
        ----------
        inputs, targets : list of texts or id lists
            Texts of `inputs` are encoded with the model's special tokens, `targets` without.
        prompt : SoftPrompt, array, or a list of one (or None) per input, optional

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        encoded = self.encode(inputs)
        if len(targets) != len(encoded):
            raise ValueError(f"targets: {len(targets)} for {len(encoded)} inputs")
        pairs = [
            self._pair(ids, target, f"targets[{i}]")
            for i, (ids, target) in enumerate(zip(encoded, targets, strict=True))
        ]
        table, which = self._prompts(prompt, len(encoded))
        result = np.zeros(len(encoded))
        for part in self._parts(encoded):
            sequences, places = [], []
            for i in part:
                symbols, before = self._sequence(table, which[i], *pairs[i], f"inputs[{i}]")
                sequences.append(symbols)
                places.append(before + np.arange(len(pairs[i][1])))
            forest, rows = self._packed(sequences, places)
            owner = np.repeat(np.arange(len(part)), [len(at) for at in places])
            order, log_probs, _ = self._run_losses(
                forest, table, rows, np.concatenate([pairs[i][1] for i in part]),
                np.ones(len(rows)), want_grad=False,
            )  # fmt: skip
            result[part] = np.bincount(owner[order], log_probs, len(part))
        return result

    # ---- logits and generation ----

    def logits(self, inputs: Sequence, prompt: object = None) -> list[np.ndarray]:
        """Logits after every token of every input.

        Parameters
        ----------
        inputs : list of texts or id lists
        prompt : SoftPrompt, array, or a list of one (or None) per input, optional

        Returns
        -------
        list of ndarray of float32, shape (T_i, vocab_size)
            The prompt's own rows are not among them.
        """
        encoded = self.encode(inputs)
        table, which = self._prompts(prompt, len(encoded))
        vocab_size = self.spec.vocab_size
        result: list[np.ndarray] = []
        start = 0
        while start < len(encoded):
            end, rows = start, 0
            while end < len(encoded) and (
                end == start or (rows + len(encoded[end])) * vocab_size <= LOGITS_AT_A_TIME
            ):
                rows += len(encoded[end])
                end += 1
            result += self._logits(table, which[start:end], encoded[start:end], start)
            start = end
        return result

    def _logits(
        self, table: PromptTable, which: list[int], encoded: list[np.ndarray], first: int
    ) -> list[np.ndarray]:
        sequences, places = [], []
        for i, ids in enumerate(encoded):
            symbols, at = table.symbols(which[i], ids)
            self._check_length(len(symbols), f"inputs[{first + i}]")
            sequences.append(symbols)
            places.append(at)
        filled = [i for i, at in enumerate(places) if len(at)]
        if not filled:
            return [np.zeros((0, self.spec.vocab_size), np.float32) for _ in encoded]
        given = [sequences[i] for i in filled]
        forest = self._pack(given, [len(symbols) for symbols in given])
        wanted = [rows[places[i]] for i, rows in zip(filled, forest.rows, strict=True)]
        rows, back = np.unique(np.concatenate(wanted), return_inverse=True)
        with self._workers.lend() as worker:
            logits = worker.context.logits(
                self._engine_forest(forest), table.matrix, rows.astype(np.int32), self.num_threads,
                self._workers.pack_rows,
            )  # fmt: skip
        result = [np.zeros((0, self.spec.vocab_size), np.float32) for _ in encoded]
        at = 0
        for i in filled:
            count = len(places[i])
            result[i] = logits[back[at : at + count]]
            at += count
        return result

    def generate(self, inputs: Sequence, prompt: object = None, **options: Any) -> list:
        """Continue texts. See `softprompt.model.generation.generate` for all options.

        Parameters
        ----------
        inputs : list of texts or id lists
        prompt : SoftPrompt, array, or a list of one (or None) per input, optional
            A list answers different tasks in one pass.
        **options
            ``max_new_tokens=50, temperature=0.0, top_k=None, top_p=None, seed=None, stop=None,
            stream=None, return_ids=False``

        Returns
        -------
        list of str
            The new texts (id lists with ``return_ids=True``).
        """
        from softprompt.model.generation import generate

        return generate(self, inputs, prompt, **options)
