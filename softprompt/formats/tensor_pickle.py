"""Pickles of tensors, read without unpickling: an interpreter of the few opcodes that they need.

A pickle is a program. `pickle.load` runs it, with any function that can be imported; this module
reads it: it builds dicts, lists, tuples, numbers, texts and descriptions of tensors, and accepts
exactly the globals that `torch.save` writes for tensors and their containers. Any other global is
an error that names it, and nothing is ever imported or called. The layout of tensors in pickles is
that of `torch/_utils.py` and `torch/serialization.py`.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

MAX_PICKLE_BYTES = 4 * 1024 * 1024
"""Longest pickle read. The state of a model of a thousand tensors takes a few hundred kilobytes."""

MAX_OPCODES = 200_000
"""Most opcodes read. A tensor takes about 35."""
_MAX_RANK = 64

STORAGE_DTYPES = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""torch's typed storages, and their elements by safetensors' names."""

ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
"""Bytes of an element; 1 where it is not here."""


@dataclass(frozen=True)
class Storage:
    """A run of elements that lies elsewhere in the file.

    Attributes
    ----------
    key : str
        Its name there.
    dtype : str
        "F32", "BF16", ... as in safetensors files.
    size : int
        Elements.
    """

    key: str
    dtype: str
    size: int

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes."""
        return self.size * ITEM_BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class PickledTensor:
    """Which elements of a storage are a tensor; all of them are inside it, and none counts twice.

    Attributes
    ----------
    storage : Storage
    offset : int
        Element of the storage that is the tensor's first.
    shape, strides : tuple of int
        Strides count elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """A name that a pickle asks for."""

    name: str


_MARK = object()
_ORDERED_DICT = "collections.OrderedDict"
_FUNCTIONS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
_KNOWN_GLOBALS = frozenset(
    {_ORDERED_DICT, *_FUNCTIONS, *(f"torch.{name}" for name in STORAGE_DTYPES)}
)


def read_tensor_pickle(file: BinaryIO, where: str) -> object:
    """Read one pickle.

    Parameters
    ----------
    file : binary file object
        Stands at the pickle's first byte; afterwards behind its last one.
    where : str
        What is being read, usually a path: the start of every message.

    Returns
    -------
    object
        dict (for an OrderedDict too; keys are texts or integers), list, tuple, str, int, float,
        bool, None or `PickledTensor`. Lists and dicts may hold themselves, and one object may stand
        in many places.

    Raises
    ------
    ValueError
        If it is damaged, too long, asks for a global that no tensor needs, or describes a tensor
        that is not inside its storage. The message names the opcode or the global.
    """
    return _Machine(file, where).run()


class _Machine:
    """A pickle's stack and memo. Each opcode makes at most one small object."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file = file
        self.where = where
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        start = self.file.tell()
        opcodes = pickletools.genops(self.file)
        for _ in range(MAX_OPCODES):
            try:
                opcode, argument, _ = next(opcodes)
            except ValueError as err:  # also what is no text, and numbers of too many digits
                raise self.error(f"damaged, or truncated: {str(err)[:120]}") from err
            if self.file.tell() - start > MAX_PICKLE_BYTES:
                raise self.error(f"longer than {MAX_PICKLE_BYTES} bytes")
            if opcode.name == "STOP":
                value = self.pop()
                if self.stack:
                    raise self.error(f"ends with {len(self.stack)} values too many")
                return value
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise self.error(f"opcode {opcode.name}, which no tensor needs")
            action(self, argument)
        raise self.error(f"more than {MAX_OPCODES} opcodes")

    def error(self, text: str) -> ValueError:
        return ValueError(f"{self.where}: pickle: {text}")

    # ---- stack and memo ----

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.error("takes a value from an empty stack")
        return self.stack.pop()

    def pop_several(self, count: int) -> list[object]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[object]:
        for depth in range(len(self.stack) - 1, -1, -1):
            if self.stack[depth] is _MARK:
                values = self.stack[depth + 1 :]
                del self.stack[depth:]
                return values
        raise self.error("takes values up to a mark that is not there")

    def top(self, kind: type) -> object:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise self.error(f"expected a {kind.__name__} on the stack")
        return self.stack[-1]

    def put(self, place: int) -> None:
        if place > MAX_OPCODES:
            raise self.error(f"memo place {place}, expected at most {MAX_OPCODES}")
        value = self.pop()
        self.memo[place] = value
        self.push(value)

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise self.error(f"memo place {place} was never filled")
        self.push(self.memo[place])

    # ---- containers ----

    def extend_list(self, values: list[object]) -> None:
        self.top(list).extend(values)  # type: ignore[attr-defined]

    def fill_dict(self, values: list[object]) -> None:
        target: dict = self.top(dict)  # type: ignore[assignment]
        if len(values) % 2:
            raise self.error("a dict's key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # no tuples: hashing a deep one would exhaust the C stack
            if type(key) not in (str, int):
                raise self.error(f"a {type(key).__name__} as a dict's key, expected str or int")
            target[key] = value

    def add_one(self, _: object) -> None:
        self.extend_list([self.pop()])

    def add_item(self, _: object) -> None:
        self.fill_dict(self.pop_several(2))

    def build(self, _: object) -> None:
        # a module's state_dict() is an OrderedDict with versions in its attribute _metadata
        state = self.pop()
        self.top(dict)
        if type(state) is not dict or set(state) != {"_metadata"}:
            raise self.error("sets attributes of an object, expected none but _metadata")

    # ---- globals ----

    def find_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(self.known_global(module, name))

    def find_stacked_global(self, _: object) -> None:
        module, name = self.pop_several(2)
        self.push(self.known_global(module, name))

    def known_global(self, module: object, name: object) -> _Global:
        full = f"{module}.{name}" if type(module) is type(name) is str else None
        if full not in _KNOWN_GLOBALS:
            raise self.error(
                f"asks for {(full or 'a global that is no text')[:120]!r}, which no file of "
                "tensors needs and which could run code; only torch's tensors and OrderedDict "
                "are read"
            )
        return _Global(full)

    def reduce(self, _: object) -> None:
        function, arguments = self.pop_several(2)
        if type(function) is not _Global or type(arguments) is not tuple:
            raise self.error("calls something that is no global, or without a tuple of arguments")
        if function.name == _ORDERED_DICT:
            if arguments:
                raise self.error("an OrderedDict made from arguments, expected an empty one")
            self.push({})
        elif function.name == "torch._utils._rebuild_tensor_v2":
            self.push(self.tensor(arguments))
        elif function.name == "torch._utils._rebuild_parameter":
            if not arguments or type(arguments[0]) is not PickledTensor:
                raise self.error("a parameter without a tensor")
            self.push(arguments[0])
        else:
            raise self.error(f"calls {function.name}, which is a type of storage")

    # ---- tensors ----

    def persistent_id(self, _: object) -> None:
        # ("storage", type, key, device, elements[, view])
        parts = self.pop()
        if type(parts) is not tuple or len(parts) not in (5, 6) or parts[0] != "storage":
            raise self.error("a persistent id that is no storage")
        _, kind, key, device, size = parts[:5]
        dtype = STORAGE_DTYPES.get(kind.name[6:]) if type(kind) is _Global else None
        if dtype is None or type(key) is not str or type(device) is not str:
            raise self.error("a storage without a type, a key or a device")
        if not _is_count(size):
            raise self.error(f"storage {key[:40]!r}: no valid number of elements")
        if len(parts) == 6 and parts[5] is not None:
            raise self.error(f"storage {key[:40]!r}: a view of another storage, which is not read")
        self.push(Storage(key, dtype, size))

    def tensor(self, arguments: tuple) -> PickledTensor:
        # (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
        if len(arguments) not in (6, 7) or type(arguments[0]) is not Storage:
            raise self.error("a tensor without a storage")
        storage, offset, shape, strides = arguments[:4]
        where = f"a tensor in storage {storage.key[:40]!r}"
        for name, value in (("size", shape), ("stride", strides)):
            if type(value) is not tuple or not all(map(_is_count, value)):
                raise self.error(f"{where}: {name} is no tuple of non-negative integers")
        if not _is_count(offset) or len(shape) != len(strides) or len(shape) > _MAX_RANK:
            raise self.error(f"{where}: offset, size and stride do not fit each other")
        if arguments[5] or arguments[6:] not in ((), (None,)):
            raise self.error(f"{where}: hooks or metadata, expected none")
        elements = math.prod(shape)
        reach = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if offset > storage.size or elements > storage.size or (elements and reach >= storage.size):
            raise self.error(
                f"{where}: offset, size and stride reach beyond its {storage.size} elements, or "
                "use some twice"
            )
        return PickledTensor(storage, offset, shape, strides)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _nothing(machine: _Machine, argument: object) -> None:
    """PROTO and FRAME say how the rest is packed."""


def _value(machine: _Machine, argument: object) -> None:
    machine.push(argument)


def _memoize(machine: _Machine, argument: object) -> None:
    machine.put(len(machine.memo))


def _integer(machine: _Machine, argument: int) -> None:
    if abs(argument) >= 2**128:  # torch's magic number is the longest
        raise machine.error(f"an integer of {argument.bit_length()} bits")
    machine.push(argument)


_ACTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": lambda m, _: m.push(_MARK),
    "POP": lambda m, _: m.pop() and None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "BININT": _integer,
    "BININT1": _integer,
    "BININT2": _integer,
    "LONG1": _integer,
    "BINFLOAT": _value,
    "BINUNICODE": _value,
    "SHORT_BINUNICODE": _value,
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop_several(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop_several(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop_several(3))),
    "APPEND": _Machine.add_one,
    "APPENDS": lambda m, _: m.extend_list(m.pop_to_mark()),
    "SETITEM": _Machine.add_item,
    "SETITEMS": lambda m, _: m.fill_dict(m.pop_to_mark()),
    "BINPUT": lambda m, place: m.put(place),
    "LONG_BINPUT": lambda m, place: m.put(place),
    "MEMOIZE": _memoize,
    "BINGET": lambda m, place: m.get(place),
    "LONG_BINGET": lambda m, place: m.get(place),
    "GLOBAL": _Machine.find_global,
    "STACK_GLOBAL": _Machine.find_stacked_global,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
