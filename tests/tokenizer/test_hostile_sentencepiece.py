"""Damaged and hostile SentencePiece models: an error that names the file, or a tokenizer."""

from __future__ import annotations

import struct

import pytest
from formats.protobuf_bytes import field, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.tokenizer.sentencepiece import SentencePieceTokenizer
from softprompt.tokenizer.sentencepiece_model import load_sentencepiece, parse_sentencepiece

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def piece(text, score=0.0, kind=None):
    parts = field(1, text) + field(2, float(score))
    return field(1, parts + (b"" if kind is None else field(3, kind)))


def charsmap(units, targets=b"x\0"):
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + targets


PIECES = (
    piece("<unk>", kind=UNKNOWN)
    + piece("<s>", kind=CONTROL)
    + piece("</s>", kind=CONTROL)
    + b"".join(piece(text, -i) for i, text in enumerate(["\u2581", "a", "b", "ab", "\u2581ab"]))
)
# The root's child "a" lies at unit 97 ^ 0, its value at the unit behind it.
TRIE = [0] * 256
TRIE[97] = (1 << 10) | (1 << 8) | 97
TRIE[97 ^ 1] = 0x80000000


def model(*, pieces=PIECES, trainer=b"", normalizer=b""):
    return pieces + field(2, field(3, 2) + trainer) + field(3, normalizer)


def build(data):
    return SentencePieceTokenizer(parse_sentencepiece(data, "x.model"))


def test_a_model_written_by_hand():
    assert build(model()).encode("ab ab") == [7, 7]
    assert build(model(normalizer=field(2, charsmap(TRIE)))).encode("a") == [3, 0]
    assert build(model(trainer=field(3, 1))).encode("ab") == [3, 6]  # unigram: 0 - 3 > -4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no pieces"),
        (b"\n", "byte 0: the message ends within a varint"),
        (b"bG9yZW0= 0\n", "x.model: "),
        (field(1, 7), "field 1 is a varint, expected a length and bytes"),
        (PIECES + piece("a"), "the piece 'a' occurs twice"),
        (PIECES + piece(""), r"piece 8 is ''"),
        (PIECES + piece("c", float("nan")), "with score nan"),
        (PIECES + piece("c", float("inf")), "with score inf"),
        (PIECES + piece("c", kind=0), "type 0"),
        (PIECES + piece("c", kind=7), "type 7"),
        (PIECES + piece("c", kind=-1), "type -1"),
        (PIECES + piece("c", kind=UNKNOWN), "2 pieces of type UNKNOWN"),
        (piece("a"), "0 pieces of type UNKNOWN"),
        (PIECES + piece(b"\xff\xfe"), "field 1 is no UTF-8 text"),
        (PIECES + field(1, field(1, "c") + field(2, 3)), "field 2 is a varint, expected 4 bytes"),
        (model(trainer=field(3, 3)), "model_type is word, expected unigram or bpe"),
        (model(trainer=field(3, 9)), "model_type is 9"),
        (model(pieces=PIECES + piece("c", kind=UNUSED)), "piece 8 is of type UNUSED"),
        (model(normalizer=field(5, 0)), "escape_whitespaces is false"),
        (model() + field(5, field(2, b"1234")), "denormalizer_spec"),
        (model(trainer=field(35, 1)), "byte_fallback is set, but there is no piece '<0x00>'"),
        (model(pieces=PIECES + piece("c" * 5000)), r"\[8\] has 5000 characters"),
        (model(normalizer=field(2, b"\1")), "precompiled_charsmap has 1 bytes"),
        (model(normalizer=field(2, charsmap([0])[:6])), "precompiled_charsmap has 6 bytes"),
        (model(normalizer=field(2, b"\xff" * 40)), "precompiled_charsmap has 40 bytes"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(data)
    assert str(caught.value).startswith("x.model: ")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("units", "targets", "message"),
    [
        (TRIE, b"x", "a target text begins at byte 0 and has no end"),
        (TRIE, b"\xff\0", "the target text at byte 0 is no UTF-8"),
        ([*TRIE[:96], 0x80000005, *TRIE[97:]], b"x\0", "begins at byte 5"),
        ([0, *TRIE[1:97], (0x1FFFFF << 10) | (1 << 8) | 97], b"x\0", "points beyond its 98 units"),
    ],
)
def test_damaged_character_maps(units, targets, message):
    data = model(normalizer=field(2, charsmap(units, targets)))
    with pytest.raises(ValueError, match=message) as caught:
        build(data).encode("banana")
    assert str(caught.value).startswith("x.model: precompiled_charsmap")


def test_a_trie_that_leads_back_to_itself():
    # "a" is its own child for ever; only the longest key that is looked for ends the walk.
    loop = [0] * 256
    loop[97] = 97
    loop[0] = 0
    assert build(model(normalizer=field(2, charsmap(loop)))).encode("a" * 3000)


def test_messages_within_messages_are_not_followed():
    nested = b""
    for _ in range(2000):
        nested = field(1, nested)
    assert parse_sentencepiece(model() + field(99, nested), "x.model").pieces[0] == "<unk>"
    with pytest.raises(ValueError, match=r"x\.model"):
        parse_sentencepiece(nested, "x.model")


def try_to_use(data):
    """Read, build and use a model; anything but a ValueError that names the file is a failure."""
    try:
        tokenizer = build(data)
        ids = tokenizer.encode("ab a</s>b \u0301é漢")
        tokenizer.decode(ids, skip_special_tokens=False)
    except ValueError as err:
        assert str(err).startswith("x.model")  # noqa: PT017


SMALL = model(
    pieces=PIECES + piece("<sep>", kind=USER_DEFINED),
    trainer=field(24, 1),
    normalizer=field(2, charsmap(TRIE[:128])) + field(4, 1),
)


def test_cut_off_at_every_byte():
    for end in range(len(SMALL)):
        try_to_use(SMALL[:end])


def test_every_bit_flipped():
    # The trie is mostly zeros, all alike: one byte in eight of them.
    for place in [i for i, byte in enumerate(SMALL) if byte or i % 8 == 0]:
        for bit in range(8):
            try_to_use(SMALL[:place] + bytes([SMALL[place] ^ 1 << bit]) + SMALL[place + 1 :])


@given(
    place=st.integers(0, len(SMALL)),
    length=st.sampled_from([0, 1, 127, 128, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1]),
    tail=st.binary(max_size=20),
)
@settings(max_examples=200)
def test_hostile_lengths(place, length, tail):
    for number in (1, 2, 3, 5):
        hostile = varint(number << 3 | 2) + varint(length) + tail
        try_to_use(SMALL[:place] + hostile + SMALL[place:])


@given(data=st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes(data):
    try_to_use(data)
    try_to_use(model(normalizer=field(2, data)))
    try_to_use(PIECES + field(2, data))


@pytest.mark.parametrize("name", ["test_bpe_1000", "test_unigram_1000"])
def test_a_real_model_cut_off(shared_dir, tmp_path, name):
    folder = shared_dir / "models" / "tokenizers" / "sentencepiece"
    data = (folder / f"{name}.model").read_bytes()
    path = tmp_path / "tokenizer.model"
    whole = len(load_sentencepiece(folder / f"{name}.model").pieces)
    for end in range(0, len(data) - 1, len(data) // 97):
        path.write_bytes(data[:end])
        try:
            assert len(load_sentencepiece(path).pieces) <= whole
        except ValueError as err:
            assert str(path) in str(err)  # noqa: PT017
