"""Keep what a pickle stores in tables whose cost no pickle can raise.

Python hashes a number to itself, so that a program can choose numbers that all fall together in one
table: each is then compared with all before it, and 800 KB of them take minutes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final

_ABSENT: Final = object()

_MOST_GAPS: Final = 256
"""Numbers of the memo that may be left out, beside one for each value in it."""


@dataclass(frozen=True, slots=True)
class NumberKey:
    """A key that is a number. Its hash is that of bytes, which differs in each process."""

    digits: bytes
    value: float = field(compare=False)

    def __repr__(self) -> str:
        return repr(self.value)


Key = str | bytes | NumberKey | None


def key_of(value: float | str | bytes | None) -> Key:
    """Return a key that is as equal to others as the value is, but for NaN, which equals itself.

    >>> key_of(1.0) == key_of(True), key_of(0.5) == key_of(1), key_of("a")
    (True, False, 'a')
    """
    if not isinstance(value, int | float):
        return value
    if isinstance(value, float) and not value.is_integer():
        return NumberKey(b"float" + struct.pack("<d", value), value)
    whole = int(value)
    return NumberKey(whole.to_bytes(whole.bit_length() // 8 + 1, "little", signed=True), value)


class Memo:
    """The values that a pickle stores by number, in an array: numbers may leave few gaps."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._n_stored = 0

    def put(self, index: int, value: object) -> None:
        """Store a value under a number; ValueError for a number far beyond those before."""
        if not 0 <= index <= 2 * self._n_stored + _MOST_GAPS:
            raise ValueError(
                f"stores a value under the number {index}, and {self._n_stored} values before it"
            )
        self._values += [_ABSENT] * (index + 1 - len(self._values))
        self._n_stored += self._values[index] is _ABSENT
        self._values[index] = value

    def __len__(self) -> int:
        return self._n_stored

    def get(self, index: int) -> Any:
        """Return a stored value; ValueError where there is none."""
        if not 0 <= index < len(self._values) or self._values[index] is _ABSENT:
            raise ValueError(f"takes value {index}, which it did not store")
        return self._values[index]
