"""The tokenizer of a model whose vocabulary softprompt itself reads, on `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

    from softprompt.tokenizer.chat import ChatTemplate


class FastTokenizer:
    """Texts to ids and back, with exactly the special tokens that the model's configuration adds.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Complete pipeline; its post-processor adds the special tokens.
    bos_token_id, eos_token_id : int, optional
        Ids of the model's own begin and end tokens.

    Attributes
    ----------
    chat_template : ChatTemplate or None
        The model's chat template, if its files have one.
    named_tokens : dict of str to str
        Texts of special tokens by their names ("bos_token"), for chat templates.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> None:
        # Files may carry the truncation and padding of somebody's training run.
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.chat_template: ChatTemplate | None = None
        self.named_tokens: dict[str, str] = {}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text into ids.

        Parameters
        ----------
        text : str
            Any text. Special tokens written in it (``"<|im_start|>"``) become their ids.
        add_special_tokens : bool, default True
            Whether to add what the model's configuration adds (for many models nothing).

        Returns
        -------
        list of int

        Raises
        ------
        TypeError
            `text` is not a str.
        ValueError
            `text` holds a lone surrogate, which no encoding of Unicode has; or the vocabulary has
            no token for a part of it, and none for what is unknown.
        """
        check_text(text)
        with tokenizers_errors(f"text {text[:40]!r}"):
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_target(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text that the model is to write into ids; translation models write it otherwise.

        Parameters
        ----------
        text : str
        add_special_tokens : bool, default True
            Whether to add what the model's configuration adds to a target.

        Returns
        -------
        list of int

        Raises
        ------
        TypeError, ValueError
            As `encode`.
        """
        return self.encode(text, add_special_tokens)

    def encode_batch(
        self, texts: Iterable[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Turn texts into lists of ids; see `encode`."""
        # One by one: the library's batch call starts a pool of threads of its own, which ignores
        # num_threads and does not survive a fork.
        return [self.encode(text, add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn ids into a text; bytes that are no UTF-8 become U+FFFD.

        Parameters
        ----------
        ids : sequence of int
            Token ids; those without a token give nothing.
        skip_special_tokens : bool, default True
            Whether special tokens are left out.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            The library cannot decode them.
        """
        ids = [int(i) for i in ids]
        with tokenizers_errors(f"{len(ids)} ids"):
            return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as the vocabulary writes it, or None for an id without a token."""
        token_id = int(token_id)
        return self.backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token as the vocabulary writes it, or None."""
        return self.backend.token_to_id(token)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size} tokens)"


def check_text(text: object) -> None:
    """Check that something is a text that has an encoding.

    Raises
    ------
    TypeError
        It is not a str.
    ValueError
        It holds a lone surrogate.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}, expected a str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise ValueError(
            f"text {text[:40]!r} holds a lone surrogate, which no encoding has"
        ) from err


def set_specials(backend: Any, bos: int | None, eos: int | None) -> None:
    """Let a `tokenizers.Tokenizer` put these tokens around a text, and no others.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Changed in place.
    bos, eos : int or None
        Ids of the tokens in front of and behind a text.
    """
    from tokenizers import processors

    named = [(i, backend.id_to_token(i)) for i in (bos, eos) if i is not None]
    if not named:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)  # adds nothing
        return
    pieces = [backend.id_to_token(bos)] if bos is not None else []
    pieces.append("$A")
    pieces += [backend.id_to_token(eos)] if eos is not None else []
    backend.post_processor = processors.TemplateProcessing(
        single=pieces, special_tokens=[(token, i) for i, token in dict(named).items()]
    )


@contextmanager
def tokenizers_errors(where: str):
    """Turn what the `tokenizers` library raises about a file or a text into a ValueError.

    Parameters
    ----------
    where : str
        The file that the tokenizer is built from, or what is to be encoded.
    """
    try:
        yield
    except BaseException as err:
        # The library raises bare Exception, and on hostile files Rust's panic, which derives from
        # BaseException alone.
        if isinstance(err, Exception) or type(err).__name__ == "PanicException":
            raise ValueError(f"{where}: the tokenizers library refuses it: {err}") from err
        raise
