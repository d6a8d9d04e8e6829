"""The facts of seams: which function of a host, from which source, and ours in its place."""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

_DEFINITION: Final = re.compile(r"^(?:async )?def (\w+)", re.MULTILINE)


class HandOver(Exception):
    """Ask for the host's own function; the text is the reason that is counted.

    >>> str(HandOver("dtype"))
    'dtype'
    """


class HostError(Exception):
    """Carry an error of the host through ours, for the caller to get it as it is.

    >>> HostError(ValueError("no such adapter")).error
    ValueError('no such adapter')
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Original:
    """The host's function that a call replaces, and how close the result has to be."""

    host: Callable[..., Any]
    exact: bool

    def run(self, *args: Any, **keywords: Any) -> Any:
        """Run the host's function as a part of ours; its errors are the call's, whatever they are.

        Args:
            args: Its arguments.
            keywords: Its keyword arguments.

        Raises:
            HostError: The host's function failed.
        """
        try:
            return self.host(*args, **keywords)
        except Exception as error:
            raise HostError(error) from None


@dataclass(frozen=True)
class Source:
    """A piece of a host and the first 16 digits of the SHA-256 of its source; no name: a module."""

    module: str
    name: str
    digest: str


@dataclass(frozen=True)
class Seam:
    """A function of a host, and ours in its place.

    Attributes:
        module: The module that defines the function.
        name: Its name there: ``function``, ``Class.method``, or ``object.attribute``.
        digest: The first 16 digits of the SHA-256 of its source.
        ours: Takes an ``Original``, then the arguments of the call. It raises HandOver to leave
            the call to the host. An InputError or a TypeError does the same.
        copied: Other pieces of the host whose behaviour ours repeats.
        exact: False for a function that gives the host's result only within rounding.
        late: True to serve the function only once somebody has loaded its module.
    """

    module: str
    name: str
    digest: str
    ours: Callable[..., Any]
    copied: Sequence[Source] = ()
    exact: bool = True
    late: bool = False

    @property
    def label(self) -> str:
        """Return the module and the name as one."""
        return f"{self.module}.{self.name}"


def digest_of(thing: Any) -> str | None:
    """Return the first 16 digits of the SHA-256 of a source; None where there is none to read.

    The source is that of the object itself, so that a wrapper around a function has its own.
    """
    try:
        return _digest_of(thing)
    except (OSError, TypeError):
        return None


@functools.lru_cache(maxsize=256)
def _digest_of(thing: Any) -> str:
    return hashlib.sha256(_source_of(thing).encode()).hexdigest()[:16]


def _source_of(thing: Any) -> str:
    """Return what ``inspect.getsource`` does, without its look at every loaded module."""
    function = function_of(thing)
    code = None if function is None else function.__code__
    file = thing.__file__ if isinstance(thing, ModuleType) else getattr(code, "co_filename", None)
    if file is None:
        if not isinstance(thing, type):
            raise TypeError(f"{thing!r}: has no source of its own")
        return inspect.getsource(thing)
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    if not lines:
        raise OSError(f"{file}: cannot be read")
    text = "".join(lines if code is None else inspect.getblock(lines[code.co_firstlineno - 1 :]))
    if _is_context_of_torch(thing) and not text.lstrip().startswith("@"):
        raise TypeError(f"{thing!r}: was decorated after its definition")
    return text


def function_of(thing: Any) -> FunctionType | None:
    """Return the function itself under a decorator such as ``torch.no_grad``; None for others."""
    if isinstance(thing, (classmethod, staticmethod)):
        thing = thing.__func__
    if _is_context_of_torch(thing):
        thing = thing.__wrapped__
    return thing if isinstance(thing, FunctionType) else None


def _is_context_of_torch(thing: Any) -> bool:
    code = getattr(thing, "__code__", None)
    return (
        isinstance(code, CodeType)
        and code.co_name == "decorate_context"
        and code.co_filename.endswith("_contextlib.py")
        and hasattr(thing, "__wrapped__")
    )


def strangers_in(module: ModuleType) -> list[str]:
    """Return the functions that a module's file defines at its top and that are others' now."""
    text = "".join(linecache.getlines(module.__file__ or ""))
    found = {name: vars(module).get(name) for name in _DEFINITION.findall(text)}
    functions = {name: function_of(value) for name, value in found.items()}
    return [
        name
        for name, one in functions.items()
        if one is None
        or (one.__code__.co_filename, one.__code__.co_name) != (module.__file__, name)
    ]
