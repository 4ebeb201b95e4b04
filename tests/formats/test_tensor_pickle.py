"""Pickles are read and never run: what tensors need is accepted, everything else is named."""

import io
import os
import pickle
import pickletools
from collections import OrderedDict
from fractions import Fraction

import pytest
import torch_bytes as tb
from hostile import bounded_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.formats.tensor_pickle import PickledTensor, Storage, read_tensor_pickle


def read(data: bytes) -> object:
    return read_tensor_pickle(io.BytesIO(data), "FILE")


def test_a_tensor():
    assert read(tb.state(a=tb.tensor(offset=2, shape=(2, 3), strides=(5, 1)))) == {
        "a": PickledTensor(Storage("0", "F32", 12), 2, (2, 3), (5, 1))
    }


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=100)
@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_are_those_of_pickle(value, protocol):
    data = pickle.dumps(value, protocol)
    assert repr(read(data)) == repr(pickle.loads(data))


def test_it_stops_behind_the_pickle():
    file = io.BytesIO(pickle.dumps([1], 2) + b"rest")
    assert read_tensor_pickle(file, "FILE") == [1]
    assert file.read() == b"rest"


def test_a_modules_state():
    """An OrderedDict with versions in an attribute, as `state_dict()` returns."""
    state = OrderedDict(a=1)
    state._metadata = OrderedDict(x=2)
    assert read(pickle.dumps(state, 2)) == {"a": 1}
    state.other = 3
    with pytest.raises(ValueError, match="sets attributes of an object, expected none but"):
        read(pickle.dumps(state, 2))


class Runs:
    """Whoever unpickles it runs a command."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, r"system"), (eval, r"__builtin__\.eval|builtins\.eval"), (Fraction, "fractions")],
)
def test_code_is_refused_by_name_and_never_run(tmp_path, protocol, function, named):
    target = tmp_path / "ran"
    argument = {
        os.system: f"touch {target}",
        eval: f"open({str(target)!r}, 'w')",
        Fraction: "1/2",
    }[function]
    data = pickle.dumps({"prompt_embeddings": Runs(function, argument)}, protocol)
    assert b"R" in data
    with pytest.raises(ValueError, match=f"FILE: pickle: .*({named}|opcode)") as err:
        read(data)
    assert not target.exists()
    if protocol >= 2:
        assert "could run code" in str(err.value)
    pickle.loads(data)  # the same bytes do run where they are unpickled
    assert target.exists() or function is Fraction


@pytest.mark.parametrize(
    "data",
    [
        tb.PROTO + tb.name("torch", "load") + b".",
        tb.PROTO + tb.name("torch.storage", "_load_from_bytes") + b".",
        tb.PROTO + tb.name("torch._utils", "_rebuild_tensor_v3") + b".",
        tb.PROTO + tb.name("collections", "OrderedDict.fromkeys") + b".",
        tb.PROTO + tb.name("torch", "FloatStorage.from_buffer") + b".",
        tb.PROTO + tb.text("os") + tb.text("system") + b"\x93.",
        tb.PROTO + tb.number(1) + tb.text("system") + b"\x93.",
        tb.PROTO + tb.text("torch\nos") + tb.text("system") + b"\x93.",
    ],
)
def test_other_globals(data):
    with pytest.raises(ValueError, match="asks for"):
        read(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b".", "empty stack"),
        (tb.PROTO + b"NN.", "1 values too many"),
        (tb.PROTO + b"N", "truncated"),
        (tb.PROTO + b"0.", "empty stack"),
        (tb.PROTO + b"(0.", "empty stack"),
        (tb.PROTO + b"(.", "empty stack"),
        (tb.PROTO + b"t.", "a mark that is not there"),
        (tb.PROTO + b"}u.", "a mark that is not there"),
        (tb.PROTO + b"(u.", "expected a dict"),
        (tb.PROTO + b"N(u.", "expected a dict"),
        (tb.PROTO + b"N(e.", "expected a list"),
        (tb.PROTO + b"}(Nu.", "a key without|key without a value"),
        (tb.PROTO + b"})Ns.", "a tuple as a dict's key"),
        (tb.PROTO + b"}NNs.", "a NoneType as a dict's key"),
        (tb.PROTO + b"h\x07.", "memo place 7 was never filled"),
        (tb.PROTO + b"Nr\xff\xff\xff\xff.", "memo place 4294967295, expected at most"),
        (tb.PROTO + b"q\x00.", "empty stack"),
        (tb.PROTO + b"N)R.", "calls something that is no global"),
        (tb.PROTO + tb.name("collections", "OrderedDict") + b"NR.", "without a tuple"),
        (tb.PROTO + tb.name("collections", "OrderedDict") + b"N\x85R.", "made from arguments"),
        (tb.PROTO + tb.name("torch", "FloatStorage") + b")R.", "a type of storage"),
        (tb.PROTO + tb.name("torch._utils", "_rebuild_parameter") + b")R.", "without a tensor"),
        (tb.PROTO + tb.name("torch._utils", "_rebuild_tensor_v2") + b")R.", "without a storage"),
        (tb.PROTO + b"NQ.", "no storage"),
        (tb.PROTO + b"NNb.", "expected a dict"),
        (tb.PROTO + b"}Nb.", "sets attributes"),
        (tb.PROTO + b"\x81.", "opcode NEWOBJ"),
        (tb.PROTO + b"(ios\nsystem\n.", "opcode INST"),
        (tb.PROTO + b"\x82\x01.", "opcode EXT1"),
        (tb.PROTO + b"\x97.", "opcode NEXT_BUFFER"),
        (tb.PROTO + b"I" + b"9" * 5000 + b"\n.", "damaged|opcode INT"),
        (tb.PROTO + b"\x8a\x20" + b"\xff" * 31 + b"\x7f.", "an integer of 255 bits"),
        (tb.PROTO + b"\x8b\xff\xff\xff\x7f.", "damaged, or truncated"),
        (tb.PROTO + b"X\xff\xff\xff\xff.", "damaged, or truncated"),
        (tb.PROTO + b"\x8d" + b"\xff" * 8 + b".", "damaged|opcode BINUNICODE8"),
        (tb.PROTO + b"X\x01\x00\x00\x00\xff.", "damaged"),
        (tb.PROTO + b"c\xff\n\xff\n.", "damaged"),
        (b"\xff", "damaged"),
    ],
)
def test_damaged_pickles(data, message):
    with pytest.raises(ValueError, match=f"FILE: pickle: .*({message})"), bounded_memory(2**20):
        read(data)


STORAGE_TWICE = tb.storage() + tb.storage()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tb.tensor(shape=(3, 5), strides=(5, 1)), "reach beyond its 12 elements"),
        (tb.tensor(offset=1), "reach beyond"),
        (tb.tensor(shape=(2,), strides=(12,)), "reach beyond"),
        (tb.tensor(shape=(2**40, 2**40), strides=(0, 0)), "use some twice"),
        (tb.tensor(shape=(13,), strides=(0,)), "use some twice"),
        (tb.tensor(shape=(0,), strides=(1,), offset=13), "reach beyond"),
        (tb.tensor(shape=(1,), strides=(2**62,), offset=2**62), "reach beyond"),
        (tb.tensor(shape=(3, 4), strides=(4,)), "do not fit each other"),
        (tb.tensor(shape=(1,) * 65, strides=(1,) * 65), "do not fit each other"),
        (tb.tensor(offset=-1), "do not fit each other"),
        (tb.tensor(shape=(-3, -4)), "size is no tuple"),
        (tb.tensor(strides=(-4, 1)), "stride is no tuple"),
        (tb.tensor(shape=(2**64,), strides=(1,)), "size is no tuple"),
        (tb.tensor(rest=b"\x89N"), None),
        (tb.tensor(rest=b"\x89)"), None),
        (tb.tensor(rest=b"\x89}" + tb.text("a") + b"Ns"), "hooks or metadata"),
        (tb.tensor(rest=b"\x89NN"), None),
        (tb.tensor(rest=b"\x89N}"), "hooks or metadata"),
        (tb.tensor(rest=b"\x89"), "without a storage"),
        (tb.tensor(of=b"N"), "without a storage"),
        (tb.tensor(of=tb.storage(kind="UntypedStorage")), "asks for 'torch.UntypedStorage'"),
        (tb.tensor(of=tb.storage(size=2**63)), "no valid number of elements"),
        (tb.tensor(of=tb.storage(size=-1)), "no valid number of elements"),
        (tb.tensor(of=STORAGE_TWICE), "without a storage|do not fit|no tuple"),
    ],
)
def test_tensors_stay_inside_their_storage(data, message):
    with bounded_memory(2**20):
        if message is None:
            assert read(tb.state(a=data))["a"].shape == (3, 4)
        else:
            with pytest.raises(ValueError, match=message):
                read(tb.state(a=data))


def test_bombs():
    deep = tb.PROTO + b")" + b"\x85" * 190_000 + b"."
    wide = tb.PROTO + b"]" + b"q\x00" + b"h\x00a" * 90_000 + b"."
    long = tb.PROTO + tb.text("x" * (5 * 2**20)) + b"."
    many = tb.PROTO + b"N0" * 110_000 + b"N."
    with bounded_memory(30 * 2**20):  # some 100 bytes for each of 200,000 opcodes
        read(deep)
        read(wide)
    for data in (long, many):
        with pytest.raises(ValueError, match=r"longer than|more than"):
            read(data)


def mutated(data: bytes, draw) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(changed) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                changed[where] ^= 1 << draw(st.integers(0, 7))
            case 1:
                changed[where] = ord(draw(st.sampled_from(OPCODES)))
            case 2:
                del changed[where : where + draw(st.integers(1, 4))]
            case _:
                changed[where:where] = draw(st.binary(min_size=1, max_size=5))
        if not changed:
            break
    return bytes(changed)


OPCODES = [opcode.code for opcode in pickletools.opcodes]
GOOD = tb.state(
    a=tb.tensor(), b=b"](K\x01NX\x01\x00\x00\x00xe", c=tb.tensor(shape=(2,), strides=(3,))
)


def assert_reads_or_refuses(data: bytes) -> None:
    message = None
    try:
        read(data)
    except ValueError as err:
        message = str(err)
    assert message is None or message.startswith("FILE: pickle: ")


@settings(max_examples=300)
@given(st.data())
def test_mutations_give_a_value_or_a_value_error(data):
    changed = mutated(GOOD, data.draw)
    with bounded_memory(8 * 2**20):
        assert_reads_or_refuses(changed)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(OPCODES) | st.binary(max_size=3), max_size=60))
def test_any_opcodes(parts):
    data = b"".join(p.encode("latin-1") if isinstance(p, str) else p for p in parts)
    assert_reads_or_refuses(data + b".")


def test_every_truncation_is_refused():
    for length in range(len(GOOD)):
        with pytest.raises(ValueError, match="FILE: pickle: "):
            read(GOOD[:length])
