"""What every question to a frozen model shares: its engine, its intake of inputs, its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from softprompt.families import inverse_frequencies, length_class
from softprompt.model.embeddings import Embeddings
from softprompt.model.forest import Forest, pack, pack_pairs
from softprompt.model.sequences import PromptTable, TextRows, check_ids, is_several
from softprompt.model.threads import check_num_threads
from softprompt.model.workers import Workers

__all__ = ["FrozenModel"]

ROWS_AT_A_TIME = 128
"""Inputs of one engine call where nothing but a number per input comes back."""


class FrozenModel:
    """Weights, engine contexts and intake; the base of `Model`, which has the questions.

    Copying gives the same object, pickling stores where the model came from and never its weights.
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
        reload: Callable[..., Any],
        num_threads: int | None = None,
        memory_limit: int | None = None,
    ) -> None:
        self.spec = spec
        self.config = config
        self.tokenizer = tokenizer
        self.origin = origin
        self._reload = reload
        # Where a prompt stands: of an encoder's own embedding, if it has one.
        prefix = "encoder." if spec.encoder_vocab_size else ""
        self.embeddings = Embeddings(weights[f"{prefix}embedding.weight"], spec.embedding_scale)
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

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict) -> Any:
        return self

    def __reduce__(self) -> tuple:
        return self._reload, (self.origin, self.fingerprint)

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
            encoded.append(check_ids(item, vocab_size=len(self.embeddings), where=f"{where}[{i}]"))
        return encoded

    def _encode_target(self, text: str, where: str) -> list[int]:
        if self.tokenizer is None:
            raise ValueError(f"{where}: this model has no tokenizer; give token ids")
        # Translation models write the target's language with another vocabulary.
        encode = getattr(self.tokenizer, "encode_target", self.tokenizer.encode)
        return encode(text, add_special_tokens=False)

    def _pair(self, ids: object, target: object, where: str) -> tuple[np.ndarray, np.ndarray]:
        ids = self.encode([ids], where=f"{where}: input")[0]
        if isinstance(target, str):
            target = self._encode_target(target, where)
        return ids, check_ids(target, vocab_size=self.spec.vocab_size, where=f"{where}: target")

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
    ) -> TextRows:
        """Rows of a target after its input, with every check."""
        if len(target) == 0:
            raise ValueError(f"{where}: the target has no tokens")
        symbols, _ = table.symbols(which, ids)
        if len(symbols) == 0:
            raise ValueError(
                f"{where}: an empty input without a prompt has no row that could predict the target"
            )
        if self.spec.num_encoder_layers:
            self._check_length(len(symbols), f"{where}: input")
            self._check_length(len(target), f"{where}: target")
            read = np.concatenate([self._decoder_start(target), target[:-1]])
            return TextRows(read, 0, symbols)
        before = len(symbols) - 1
        symbols = np.concatenate([symbols, target[:-1]])
        self._check_length(len(symbols), where)
        return TextRows(symbols, before)

    def _decoder_start(self, target: np.ndarray) -> np.ndarray:
        """What stands before a target: nothing without an encoder; the start token; or, of an mBART
        whose configuration names none, the target's last token.
        """
        if not self.spec.num_encoder_layers:
            return target[:0]
        start = self.config.decoder_start_token_id
        return target[-1:] if start is None else np.array([start], np.int32)

    def _packed(self, texts: list[TextRows], places: list[np.ndarray]) -> tuple[Forest, np.ndarray]:
        """Forest of texts that lack their last target, and its rows at their places, one text after
        the other.
        """
        forest = self._pack(texts, [len(text.symbols) + 1 for text in texts])
        rows = [own[at] for own, at in zip(forest.rows, places, strict=True)]
        return forest, np.concatenate(rows)

    def _pack(self, texts: list[TextRows], lengths: list[int]) -> Forest:
        """Forest of the beginnings of texts of these lengths: each gets the rotary frequencies of a
        run of its own.
        """
        sequences = [text.symbols for text in texts]
        memories = [text.memory for text in texts if text.memory is not None]
        if memories:
            return pack_pairs(memories, sequences, share=self._share)
        classes = [length_class(self.spec, length) for length in lengths]
        return pack(sequences, share=self._share, classes=classes if any(classes) else None)

    def _engine_forest(self, forest: Forest) -> tuple[np.ndarray, ...]:
        """A forest as the engine takes it."""
        arrays = (forest.parents, forest.starts, forest.symbols)
        if forest.memories is not None:
            return (*arrays, forest.memories)
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

    def _parts(self, encoded: list[np.ndarray]) -> Iterator[list[int]]:
        """Inputs of one engine call after the other, neighbours in lexical order together, so that
        what they share is computed once.
        """
        order = sorted(range(len(encoded)), key=lambda i: encoded[i].tolist())
        for start in range(0, len(order), ROWS_AT_A_TIME):
            yield order[start : start + ROWS_AT_A_TIME]
