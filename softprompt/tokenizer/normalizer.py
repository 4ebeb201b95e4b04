"""SentencePiece's normaliser: a text as its pieces spell it.

Source: ``Normalizer::Normalize`` in src/normalizer.cc of https://github.com/google/sentencepiece.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from softprompt.tokenizer.charsmap import CharacterMap
from softprompt.tokenizer.sentencepiece_model import Normalization

SPACE = "\u2581"
"""What pieces write for a space (LOWER ONE EIGHTH BLOCK)."""

_SPACES = re.compile(" {2,}")


class SentencePieceNormalizer:
    """Rewrites texts as a SentencePiece model does before it cuts them.

    Parameters
    ----------
    options : Normalization
    user_defined : iterable of str
        Pieces that are left as they stand in a text.
    where : str
        The file's name, for messages.
    """

    def __init__(self, options: Normalization, user_defined: Iterable[str], where: str) -> None:
        self.options = options
        self._map = CharacterMap(options.charsmap, where)
        # At a candidate something may begin that is rewritten or left alone; the rest is plain.
        symbols = sorted(user_defined, key=len, reverse=True)
        plain = re.escape(self._map.plain)
        candidate = rf"[^{plain}]|[{plain}](?=[^\x00-\x7f])" if options.charsmap else r"(?!)"
        if not self._map.plain:
            candidate = r"."
        alternatives = [f"(?P<symbol>{'|'.join(map(re.escape, symbols))})"] if symbols else []
        self._candidate = re.compile("|".join([*alternatives, candidate]), re.DOTALL)

    def __call__(self, text: str, *, at_start: bool = True) -> str:
        """Return the text as the pieces spell it.

        Parameters
        ----------
        text : str
        at_start : bool, default True
            Whether the text gets its dummy prefix, if the model has one.

        Raises
        ------
        ValueError
            The character map is damaged.
        """
        options = self.options
        merges = options.remove_extra_whitespaces
        started, after_space = False, merges
        out: list[str] = []
        for part, is_whole in self._prefixes(text):
            if merges and not is_whole:
                part = _SPACES.sub(" ", part)
            if after_space:
                if not started and part == " ":
                    continue
                part = part.lstrip(" ")
            started = True
            out.append(part)
            if part and merges:
                after_space = part.endswith(" ")
        if not started:
            return ""
        prefix = SPACE if options.add_dummy_prefix and at_start else ""
        result = "".join(out).replace(" ", SPACE)
        if not options.treat_whitespace_as_suffix:
            result = prefix + result
        if merges:
            result = result.rstrip(SPACE)
        return result + prefix if options.treat_whitespace_as_suffix else result

    def _prefixes(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cut a text into what is rewritten as a whole (True) and what is plain (False)."""
        at = 0
        while match := self._candidate.search(text, at):
            start = match.start()
            if start > at:
                yield text[at:start], False
            if match.lastgroup == "symbol":
                at = match.end()
                yield match.group(), True
            else:
                length, target = self._map.longest(text, start)
                at = start + length
                yield target, True
        if at < len(text):
            yield text[at:], False
