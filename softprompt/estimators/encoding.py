"""From filled templates to token ids of a bounded number."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt.estimators.template import Template
from softprompt.tokenizer import ChatFrame, source_side

_CHUNK = 1024


class TextEncoder:
    """Turns texts into the ids that stand before an answer, or that an encoder reads.

    Parameters
    ----------
    tokenizer : object with ``encode`` and optionally ``encode_batch``
    adds_eos : bool
        Whether the tokenizer ends a text with an end token. It would close the text before the
        answer, so it is left off.
    eos_token_ids : sequence of int
    chat : ChatFrame, optional
        What stands around a text: special tokens are then those of the frame alone.
    is_encoder_decoder : bool
        An encoder reads a text with all its special tokens, and a decoder writes an answer with
        those of an answer (``text_target`` in transformers).
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        adds_eos: bool,
        eos_token_ids: Sequence[int],
        chat: ChatFrame | None = None,
        is_encoder_decoder: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self.eos_token_ids = tuple(eos_token_ids)
        self.is_encoder_decoder = is_encoder_decoder
        strips = adds_eos and not is_encoder_decoder
        self._ends = frozenset(eos_token_ids) if strips else frozenset()

    @classmethod
    def of(cls, model: Any, chat: ChatFrame | None = None) -> TextEncoder:
        """Return the encoder of a model.

        Parameters
        ----------
        model : Model
        chat : ChatFrame, optional
            What stands around a text.

        Raises
        ------
        ValueError
            If the model has no tokenizer.
        """
        if model.tokenizer is None:
            raise ValueError(
                "the model has no tokenizer, and an estimator reads texts; give one to "
                "load_model(..., tokenizer=...)"
            )
        config = model.config
        return cls(
            model.tokenizer,
            adds_eos=config.adds_eos,
            eos_token_ids=config.eos_token_ids or (),
            chat=chat,
            is_encoder_decoder=getattr(config, "is_encoder_decoder", False),
        )

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts that an answer follows, or that an encoder reads, with the
        model's special tokens.
        """
        chat = self._chat
        if chat is not None:
            return self._encoded([chat.around(text) for text in texts], add_special_tokens=False)
        encoded = self._encoded(texts, add_special_tokens=True)
        return [self._without_end(ids) for ids in encoded]

    def _encoded(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        encode_batch = getattr(self._tokenizer, "encode_batch", None)
        if encode_batch is None:
            options = {"add_special_tokens": add_special_tokens}
            return [list(self._tokenizer.encode(text, **options)) for text in texts]
        encoded = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            encoded += encode_batch(chunk, add_special_tokens=add_special_tokens)
        return [list(ids) for ids in encoded]

    def answer(self, text: str) -> list[int]:
        """Return the ids of a label or target: those of a decoder alone without special tokens;
        with an encoder all that the tokenizer gives a target, and an end in any case.
        """
        # Translation models write the target's language with another vocabulary.
        encode = getattr(self._tokenizer, "encode_target", self._tokenizer.encode)
        ids = list(encode(text, add_special_tokens=self.is_encoder_decoder))
        if self.is_encoder_decoder and not set(ids) & set(self.eos_token_ids):
            ids += self.eos_token_ids[:1]
        return ids

    def words(self, text: str) -> list[int]:
        """Return the ids of a text as the prompt's place has them, without special tokens."""
        return list(source_side(self._tokenizer).encode(text, add_special_tokens=False))

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] in self._ends else ids


class RowEncoder:
    """Fills a template and encodes the result as one text, shortening fields where it is too long.

    Parameters
    ----------
    template : Template
    encoder : TextEncoder
    before : str
        What stands before every row's text (demonstrations); never shortened.
    limit : int or None
        Most tokens of a row, `before` included; None for no limit.
    truncation : {"field", "error"}
        ``"field"`` cuts the end of the field with the most characters (of several that are
        equally long, of all of them) until the text fits. ``"error"`` refuses the row.

    Attributes
    ----------
    num_shortened, num_rows : int
        Counted since the object was made.
    """

    def __init__(
        self,
        template: Template,
        encoder: TextEncoder,
        *,
        before: str = "",
        limit: int | None = None,
        truncation: str = "field",
    ) -> None:
        self.template = template
        self.limit = limit
        self.num_shortened = 0
        self.num_rows = 0
        self._encoder = encoder
        self._before = before
        self._truncation = truncation

    def encode(
        self,
        rows: Sequence[dict[str, str]],
        *,
        name: str = "X",
        numbers: Sequence[int] | np.ndarray | None = None,
    ) -> list[list[int]]:
        """Return the ids of every row.

        Parameters
        ----------
        rows : sequence of dict
            As `collect_rows` returns them.
        name : str
            What messages call the rows.
        numbers : sequence of int, optional
            The number of each, for messages; default: counted from 0.

        Raises
        ------
        ValueError
            If a row is too long and may not, or cannot, be shortened.
        """
        self.num_rows += len(rows)
        encoded = self._encoder.texts([self._before + self.template.fill(row) for row in rows])
        if self.limit is None:
            return encoded
        for index, ids in enumerate(encoded):
            if len(ids) > self.limit:
                where = f"{name}[{index if numbers is None else numbers[index]}]"
                if self._truncation == "error":
                    raise ValueError(
                        f"{where} has {len(ids)} tokens with the template, at most {self.limit} "
                        "fit; truncation='field' would shorten its field"
                    )
                encoded[index] = self._encode(self.shortened(rows[index], where))
                self.num_shortened += 1
        return encoded

    def shortened(self, row: dict[str, str], where: str) -> dict[str, str]:
        """Return the row with its longest fields cut so that its text fits.

        One number decides: the most characters that a field may keep. Tokens do not add up over
        pieces of a text, so the whole text is encoded at every trial.
        """
        if self.limit is None or len(self._encode(row)) <= self.limit:
            return row
        longest = max(map(len, row.values()))
        least = self._length(row, 0)
        if least > self.limit:
            raise ValueError(
                f"{where}: the text around the fields alone has {least} tokens, at most "
                f"{self.limit} fit; shorten the template, take fewer examples, or raise max_length"
            )
        # Gallop first, so that a text of megabytes is not encoded at every trial.
        keep, too_many = 0, max(1, 2 * self.limit)
        while too_many < longest and self._length(row, too_many) <= self.limit:
            keep, too_many = too_many, 2 * too_many
        too_many = min(too_many, longest)
        while too_many - keep > 1:
            middle = (keep + too_many) // 2
            if self._length(row, middle) <= self.limit:
                keep = middle
            else:
                too_many = middle
        return _cut(row, keep)

    def warn(self) -> None:
        """Warn once, with the count, if rows were shortened."""
        if self.num_shortened:
            warnings.warn(
                f"{self.num_shortened} of {self.num_rows} rows were longer than {self.limit} "
                "tokens; their longest field was shortened (truncation='error' refuses them)",
                UserWarning,
                stacklevel=4,
            )

    def _encode(self, row: dict[str, str]) -> list[int]:
        return self._encoder.texts([self._before + self.template.fill(row)])[0]

    def _length(self, row: dict[str, str], keep: int) -> int:
        return len(self._encode(_cut(row, keep)))


def _cut(row: dict[str, str], keep: int) -> dict[str, str]:
    return {field: text[:keep] for field, text in row.items()}


def shorten_answer(
    ids: list[int], limit: int, *, truncation: str, where: str, ends: Sequence[int] = ()
) -> tuple[list[int], bool]:
    """Return the first `limit` ids of a target and whether there were more.

    Parameters
    ----------
    ids : list of int
    limit : int
    truncation : {"field", "error"}
    where : str
    ends : sequence of int
        Tokens that end a text: from the first of them on, ids do not count.

    Raises
    ------
    ValueError
        If there were more and `truncation` is ``"error"``.
    """
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    if length <= limit:
        return ids, False
    if truncation == "error":
        raise ValueError(f"{where} has {length} tokens, at most {limit} fit")
    return ids[:limit], True
