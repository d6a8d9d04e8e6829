"""The facts of seams: which function of a host, from which source, and ours in its place."""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any


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


@functools.lru_cache(maxsize=256)
def digest_of(thing: Any) -> str | None:
    """Return the first 16 digits of the SHA-256 of a source; None where there is none to read."""
    try:
        source = _source_of(thing)
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _source_of(thing: Any) -> str:
    """Return what ``inspect.getsource`` does, without its look at every loaded module."""
    code = getattr(inspect.unwrap(thing), "__code__", None)
    file = thing.__file__ if isinstance(thing, ModuleType) else getattr(code, "co_filename", None)
    if file is None:
        return inspect.getsource(thing)
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    if not lines:
        raise OSError(f"{file}: cannot be read")
    return "".join(lines if code is None else inspect.getblock(lines[code.co_firstlineno - 1 :]))
