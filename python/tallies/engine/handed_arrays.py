"""Merges side by side whose results are arrays, handed over tensor by tensor and then used again.

A repair that comes when a tensor is already handed over, such as another majority of signs, makes
the whole tensor once more for the merges concerned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core import Limits, Mended, Plan
from ..spec.dtypes import DTYPES
from .arrays import array_dtype, new_array
from .joint_guesses import Guessing, Key
from .shared_plan import SharedPlan
from .waiting import Unmended, WaitingCombine, Wrong

Handed = tuple[int, dict[int, tuple[Any, int]]]
"""The number of a tensor, and by the number of each merge an array and its address."""


class HandedArrays(SharedPlan):
    """A native plan that several merges share, and the arrays of the tensors that are in hand.

    Args:
        plan: The plan, without jobs, in which the inputs are open.
        has_base: True if the first input of each tensor is a base.
        forms: For each tensor the name, the dtype and the shape of its result.
        framework: ``"numpy"`` or ``"torch"``.
        room: The bytes of a merge's tensors that are in hand at a time, or one tensor.
        progress: Is called with the bytes moved since the last call.
    """

    def __init__(
        self,
        plan: Plan,
        has_base: bool,
        forms: Sequence[tuple[str, str, tuple[int, ...]]],
        framework: str,
        room: int,
        progress: Callable[[int], object] | None,
    ) -> None:
        super().__init__(plan, has_base, progress)
        self._forms, self._framework, self._room = forms, framework, room
        self._held: dict[int, dict[int, tuple[Any, int]]] = {}
        self._rooms: dict[int, Room] = {}

    def starts_anew(self, waiting: Mapping[int, Any]) -> bool:
        """Return True if the next pass makes tensors that are not in hand."""
        if not all(isinstance(one, WaitingCombine) for one in waiting.values()):
            return False
        return any(not self._is_held(key, waiting) for key in self._next(waiting))

    def release(self) -> list[Handed]:
        """Return the tensors in hand; their memory is used again in the next pass."""
        found = list(self._held.items())
        self._held, self._rows, self._cancelled = {}, {}, None
        for room in self._rooms.values():
            room.clear()
        return found

    def mend(self, number: int, wrong: Sequence[Wrong], limits: Limits) -> list[Mended | Unmended]:
        """Write elements of tensors in hand with the other sign; others are handed over."""
        in_hand = [one for one in wrong if (one[0], number) in self._rows]
        found = iter(super().mend(number, in_hand, limits))
        return [
            next(found)
            if (job, number) in self._rows
            else Unmended([(first, n) for first, n in ranges])
            for job, _, ranges in wrong
        ]

    def _next(self, waiting: Mapping[int, WaitingCombine]) -> list[Key]:
        """Return the slices to merge next, as many as there is room for."""
        keys = super()._next(waiting)
        n_bytes, jobs = 0, dict.fromkeys(key[0] for key in keys)
        for job in jobs:
            n_bytes += room_of(*self._forms[job][1:])
            jobs[job] = n_bytes
        first = keys[0][0]
        return [key for key in keys if key[0] == first or (jobs[key[0]] or 0) <= self._room]

    def _first(self, waiting: Mapping[int, WaitingCombine]) -> list[Key]:
        """Return the repairs of tensors in hand, which come before these are handed over."""
        keys = {key: None for one in waiting.values() for key in one.left}
        return [key for key in keys if self._is_held(key, waiting)]

    def _may_guess(self, asked: Mapping[int, Guessing], n_waiting: int) -> bool:
        """Return True if the tensors stay in hand until their guesses are settled.

        All merges have to go side by side until then.
        """
        (units,) = {tuple(tuple(unit.slices) for unit in one.units) for one in asked.values()}
        jobs = {job for unit in units for job, _, _ in unit}
        n_bytes = sum(room_of(*self._forms[job][1:]) for job in jobs)
        return len(asked) == n_waiting and n_bytes <= self._room

    def _is_held(self, key: Key, waiting: Mapping[int, WaitingCombine]) -> bool:
        taking = [number for number, one in waiting.items() if key in one.left]
        held = self._held.get(key[0], {})
        return key[2] is not None and all(number in held for number in taking)

    def _slices(self, keys: Sequence[Key], waiting: Mapping[int, WaitingCombine]) -> dict[Key, Key]:
        """Return the slice to merge for each that is asked for: all of what is not in hand."""
        return {key: key if self._is_held(key, waiting) else (key[0], 0, None) for key in keys}

    def _joint_job(self, job: int, taking: tuple[int, ...]) -> int:
        held = self._held.setdefault(job, {})
        n_elements, inputs = self._jobs[job]
        _, dtype, shape = self._forms[job]
        places = []
        for number in taking:
            if number not in held:
                room = self._rooms.setdefault(number, Room(self._framework, self._room))
                held[number] = room.take(dtype, shape)
            (outputs,) = self._outputs[number][job][:1]
            places.append((-1, held[number][1], outputs[2]))
        self.plan.add_job(n_elements, inputs, places, apart=True)
        return self._note_rows(job, taking)


class Room:
    """Memory of which arrays are taken one behind the other, again and again.

    New memory would be cleared by the system page by page, which takes longer than a merge.

    Args:
        framework: ``"numpy"`` or ``"torch"``.
        n_bytes: The bytes that are taken at a time, if no array is larger.
    """

    def __init__(self, framework: str, n_bytes: int) -> None:
        self._framework = framework
        self._used = 0
        self._grow(n_bytes)

    def _grow(self, n_bytes: int) -> None:
        # Else each vector that a combine stores falls on two lines of the cache.
        memory, address = new_array("room", "U8", (n_bytes + _LINE,), self._framework)
        skipped = -address % _LINE
        self._n_bytes = n_bytes
        self._memory, self._address = memory[skipped:], address + skipped

    def clear(self) -> None:
        """Make all memory free again."""
        self._used = 0

    def take(self, dtype: str, shape: tuple[int, ...]) -> tuple[Any, int]:
        """Return an array that is not initialised, and its address."""
        n_bytes = math.prod(shape) * DTYPES[dtype]
        if self._used + n_bytes > self._n_bytes:
            # Arrays that were taken before keep their memory.
            self._grow(max(n_bytes, self._n_bytes))
            self._used = 0
        first = self._used
        self._used += room_of(dtype, shape)
        values = self._memory[first : first + n_bytes].view(array_dtype(dtype, self._framework))
        return values.reshape(shape), self._address + first


def room_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes that an array takes of a room: whole lines of the cache."""
    return -(-math.prod(shape) * DTYPES[dtype] // _LINE) * _LINE


_LINE = 64
