"""Read the tensors and containers that a pickle states, without running the pickle.

A pickle is a program for a stack machine. The standard library's machine imports and calls names
that the program gives; the machine here knows the few names that ``torch.save`` writes for tensors
and containers (``torch_names.py``), builds plain records for those names, and refuses all other
names. Nothing is imported, and no value but text and bytes is hashed, so that no program can run
code or exhaust the C stack. Each instruction takes a bounded time beside that for its argument, and
there is a most of them, so that no program runs for long or takes much memory.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..messages import show
from .pickle_tables import Key, Memo, key_of
from .torch_names import Name, describe, find, storage
from .torch_odd import Odd

MAX_INSTRUCTIONS: Final = 1 << 22
"""The most instructions of a pickle: ``torch.save`` writes 32 for a tensor."""

_MAX_NAMES: Final = 1000
"""The most different names; files of ``torch.save`` use fewer than twenty."""

_MAX_NAME: Final = 1000
_MAX_ARGUMENTS: Final = 16
_MAX_BITS: Final = 1024


class _Mark:
    """Marks the beginning of a list of arguments on the stack."""


_MARK: Final = _Mark()


def load(data: bytes) -> tuple[object, Odd | None]:
    """Build the value that a pickle states.

    Args:
        data: The bytes of the pickle.

    Returns:
        Dicts, lists, tuples, numbers, texts, and ``StoredTensor`` and ``Odd`` records. Containers
        may contain themselves, and a container may stand in several places. The first of the names
        that make nothing that can be read, wherever it stands, or None.

    Raises:
        ValueError: For a damaged pickle, and for one that is no statement of such values; the text
            says which.
    """
    machine = _Machine()
    try:
        return _run(machine, io.BytesIO(data)), machine.odd
    except ValueError:
        if machine.odd:  # the cause of what followed
            raise ValueError(machine.odd.why) from None
        raise


def _run(machine: _Machine, stream: io.BytesIO) -> object:
    for _ in range(MAX_INSTRUCTIONS):
        code = stream.read(1)
        if not code:
            raise ValueError("the pickle ends early")
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            raise ValueError(f"has the instruction {code!r}, which is no instruction of a pickle")
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode, stream)
    raise ValueError(f"has more than {MAX_INSTRUCTIONS} instructions, the most of a file")


class _Machine:
    """The stack, the memo and one step."""

    def __init__(self) -> None:
        self.odd: Odd | None = None
        """The first name that makes nothing that can be read."""
        self._stack: list[Any] = []
        self._memo = Memo()
        self._names: dict[tuple[str, str], Name] = {}
        self._methods: dict[str, Callable[[Any], None]] = {
            opcode.name: getattr(self, name)
            for opcode in pickletools.opcodes
            if hasattr(self, name := f"_{opcode.name.lower()}")
        }

    def step(self, opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> None:
        """Do one instruction, whose argument the stream has next."""
        name = opcode.name
        method = self._methods.get(name)
        if not (method or name in _CONSTANTS or name in _LITERALS or name in _IGNORED):
            raise ValueError(f"has the instruction {name}, expected tensors and containers")
        if name == "GLOBAL":  # two lines of text, in which no escapes are undone
            argument: Any = (_read_line(stream), _read_line(stream))
        else:
            argument = opcode.arg.reader(stream) if opcode.arg else None
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
                raise ValueError(f"has a number of more than {_MAX_BITS} bits")
            self._stack.append(argument)
        elif method:
            method(argument)

    def pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("takes a value from an empty stack")
        return self._stack.pop()

    def _top(self, kind: type[Any]) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise ValueError(f"fills a {kind.__name__} that is not there")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        values: list[Any] = []
        while self._stack:
            value = self._stack.pop()
            if value is _MARK:
                return values[::-1]
            values.append(value)
        raise ValueError("takes values up to a mark that is not there")

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _list(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        pairs = self._since_mark()
        self._stack.append({})
        self._set(pairs)

    def _append(self, _: Any) -> None:
        value = self.pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def _setitem(self, _: Any) -> None:
        value = self.pop()
        self._set([self.pop(), value])

    def _setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, pairs: list[Any]) -> None:
        filled: dict[Key, Any] = self._top(dict)
        if len(pairs) % 2:
            raise ValueError("has a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | None):
                raise ValueError(f"has a key that is a {type(key).__name__}, expected text")
            if (unique := key_of(key)) in filled:
                raise ValueError(f"has the key {show(key)} twice")
            filled[unique] = value

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self._stack.append((self.pop(),))

    def _tuple2(self, _: Any) -> None:
        last = self.pop()
        self._stack.append((self.pop(), last))

    def _tuple3(self, _: Any) -> None:
        last, middle = self.pop(), self.pop()
        self._stack.append((self.pop(), middle, last))

    def _put(self, index: int) -> None:
        value = self.pop()
        self._memo.put(index, value)
        self._stack.append(value)

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        self._stack.append(self._memo.get(index))

    _binget = _long_binget = _get

    def _global(self, names: tuple[str, str]) -> None:
        found = self._names.get(names)
        if found is None:
            if len(self._names) == _MAX_NAMES:
                raise ValueError(f"uses more than {_MAX_NAMES} names")
            if sum(map(len, names)) > _MAX_NAME:
                raise ValueError(f"uses a name of more than {_MAX_NAME} characters")
            found = self._names[names] = find(*names)
        self.odd = self.odd or found.odd
        self._stack.append(found)

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("names something, and not by text")
        self._global((module, name))

    def _reduce(self, _: Any) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name) or called.build is None:
            raise ValueError(f"calls {describe(called)}, expected tensors and containers")
        if not isinstance(arguments, tuple):
            raise ValueError(f"calls {called.text} without arguments")
        if len(arguments) > _MAX_ARGUMENTS:
            raise ValueError(f"calls {called.text} with {len(arguments)} arguments")
        try:
            self._stack.append(called.build(*arguments))
        except TypeError:
            raise ValueError(
                f"calls {called.text} with {len(arguments)} arguments, which it does not take"
            ) from None

    def _build(self, _: Any) -> None:
        """Drop the attributes of a container, such as the ``_metadata`` of a state dict."""
        self.pop()
        if not (self._stack and isinstance(self._stack[-1], Odd)):
            self._top(dict)

    def _newobj(self, _: Any) -> None:
        self.pop()
        kind = self._stack.pop() if self._stack else None
        if not (isinstance(kind, Name) and kind.odd):
            raise ValueError("has the instruction NEWOBJ, expected tensors and containers")
        self._stack.append(kind.odd)

    def _binpersid(self, _: Any) -> None:
        self._stack.append(storage(self.pop()))


def _read_line(stream: io.BytesIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("ends within a name")
    return line[:-1].decode()


_OPCODES: Final = {opcode.code: opcode for opcode in pickletools.opcodes}

_CONSTANTS: Final[Mapping[str, object]] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}

_IGNORED: Final = frozenset({"PROTO", "FRAME"})

_LITERALS: Final = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
