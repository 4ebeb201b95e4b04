"""SentencePiece's precompiled character map: which texts a normaliser writes in another way.

The blob is a double-array trie over the UTF-8 bytes of the source texts, whose values point into a
list of zero-terminated target texts (``Normalizer::DecodePrecompiledCharsMap`` and
``NormalizePrefix`` in src/normalizer.cc of https://github.com/google/sentencepiece; the array is
that of darts-clone). NFKC has 225,000 source texts in 240 KB, since the trie shares its branches:
it is walked, never unfolded.

The library `tokenizers` reads the same blob, but replaces a whole grapheme by the shortest match in
it where SentencePiece takes the longest match at every place, so that texts with combining marks
get other ids.
"""

from __future__ import annotations

import numpy as np

MAX_KEY_BYTES = 256
"""Longest source text looked for; those of Unicode's normalisation forms have less than 40."""

_BASIC = 128


class CharacterMap:
    """The longest source text at a place of a text, and what it becomes.

    Parameters
    ----------
    blob : bytes
        As ``normalizer_spec.precompiled_charsmap`` of a SentencePiece model holds it, or
        ``tokenizer.ggml.precompiled_charsmap`` of a GGUF; empty: nothing is replaced.
    where : str
        The file's name, for messages.

    Attributes
    ----------
    plain : str
        ASCII characters that nothing begins with but source texts which go on in other than ASCII:
        where one of them stands before another, nothing is replaced.

    Raises
    ------
    ValueError
        A blob that is cut off.
    """

    def __init__(self, blob: bytes, where: str) -> None:
        self._where = f"{where}: precompiled_charsmap"
        size = int.from_bytes(blob[:4], "little")
        if blob and (size % 4 or not 4 <= size <= len(blob) - 4):
            raise ValueError(f"{self._where} has {len(blob)} bytes, of which a trie takes {size}")
        self._units = np.frombuffer(blob, "<u4", size // 4, 4).tolist() if blob else []
        self._targets = blob[4 + size :]
        self._single: dict[str, str] = {}  # characters that no longer source text begins with
        self.plain = "".join(filter(self._is_plain, map(chr, range(_BASIC))))

    def longest(self, text: str, start: int) -> tuple[int, str]:
        """Return the length of the longest source text at `start` and its target text.

        Parameters
        ----------
        text : str
        start : int
            A place within it.

        Returns
        -------
        length : int
            1 where no source text begins.
        target : str
            The character itself where none begins.

        Raises
        ------
        ValueError
            The trie or a target text is damaged.
        """
        first = text[start]
        if first in self._single:
            return 1, self._single[first]
        length, value, depth, at = 1, None, 0, start
        node = self._step(0) if self._units else None
        while node is not None and at < len(text) and depth < MAX_KEY_BYTES:
            key = text[at].encode("utf-8")
            node, found = self._walk(node, key)
            at, depth = at + 1, depth + len(key)
            if found is not None:
                length, value = at - start, found
        target = first if value is None else self._target(value)
        if node is None and at <= start + 1:
            self._single[first] = target
        return length, target

    def _is_plain(self, character: str) -> bool:
        if not self._units:
            return True
        node, value = self._walk(self._step(0), character.encode())
        if node is None:
            return value is None
        goes_on = any(self._child(node, byte) is not None for byte in range(1, _BASIC))
        return value is None and not goes_on

    def _walk(self, node: int, key: bytes) -> tuple[int | None, int | None]:
        """Follow the bytes of a character: the node behind it or None, and its value or None."""
        unit = 0
        for byte in key:
            place = self._child(node, byte)
            if place is None:
                return None, None
            unit = self._units[place]
            node = self._step(place)
        if not (unit >> 8) & 1:
            return node, None
        if node >= len(self._units):
            raise ValueError(f"{self._where}: the trie points beyond its {len(self._units)} units")
        return node, self._units[node] & 0x7FFFFFFF

    def _child(self, node: int, byte: int) -> int | None:
        place = node ^ byte
        # A unit belongs to a node if it lies where the byte leads and says so.
        if byte and place < len(self._units) and self._units[place] & 0x800000FF == byte:
            return place
        return None

    def _step(self, place: int) -> int:
        """Return where the children of the unit at `place` lie, before their bytes are applied."""
        unit = self._units[place]
        return place ^ ((unit >> 10) << ((unit & 0x200) >> 6))

    def _target(self, at: int) -> str:
        end = self._targets.find(b"\0", at)
        if end < 0:
            raise ValueError(f"{self._where}: a target text begins at byte {at} and has no end")
        try:
            return self._targets[at:end].decode("utf-8")
        except UnicodeDecodeError as err:
            raise ValueError(f"{self._where}: the target text at byte {at} is no UTF-8") from err
