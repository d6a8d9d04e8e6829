"""Merges side by side whose results are arrays, handed over tensor by tensor and then used again.

A repair that comes when a tensor is already handed over, such as another majority of signs, makes
the whole tensor once more for the merges concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core import Plan
from .arrays import new_array
from .shared_plan import Combining, Key, SharedPlan

Handed = tuple[int, dict[int, tuple[Any, int]]]
"""The number of a tensor, and by the number of each merge an array and its address."""


class HandedArrays(SharedPlan):
    """A native plan that several merges share, and the arrays of the tensors that are in hand.

    Args:
        plan: The plan, without jobs, in which the inputs are open.
        has_base: True if the first input of each tensor is a base.
        forms: For each tensor the name, the dtype and the shape of its result.
        framework: ``"numpy"`` or ``"torch"``.
        progress: Is called with the bytes moved since the last call.
    """

    def __init__(
        self,
        plan: Plan,
        has_base: bool,
        forms: Sequence[tuple[str, str, tuple[int, ...]]],
        framework: str,
        progress: Callable[[int], object] | None,
    ) -> None:
        super().__init__(plan, has_base, progress)
        self._forms, self._framework = forms, framework
        self._held: dict[int, dict[int, tuple[Any, int]]] = {}
        self._free: dict[Any, list[tuple[Any, int]]] = {}

    def starts_anew(self, waiting: Mapping[int, Any]) -> bool:
        """Return True if the next pass makes tensors that are not in hand."""
        if not all(isinstance(one, Combining) for one in waiting.values()):
            return False
        return any(not self._is_held(key, waiting) for key in self._next(waiting))

    def release(self) -> list[Handed]:
        """Return the tensors in hand; their arrays are used again in the next pass."""
        found = list(self._held.items())
        self._free = {}
        for job, own in self._held.items():
            self._free.setdefault(self._forms[job][1:], []).extend(own.values())
        self._held = {}
        return found

    def _is_held(self, key: Key, waiting: Mapping[int, Combining]) -> bool:
        taking = [number for number, one in waiting.items() if key in one.left]
        held = self._held.get(key[0], {})
        return key[2] is not None and all(number in held for number in taking)

    def _slices(self, keys: Sequence[Key], waiting: Mapping[int, Combining]) -> dict[Key, Key]:
        """Return the slice to merge for each that is asked for: all of what is not in hand."""
        return {key: key if self._is_held(key, waiting) else (key[0], 0, None) for key in keys}

    def _joint_job(self, job: int, taking: tuple[int, ...]) -> int:
        held = self._held.setdefault(job, {})
        n_elements, inputs = self._jobs[job]
        name, dtype, shape = self._forms[job]
        places = []
        for number in taking:
            if number not in held:
                free = self._free.get((dtype, shape))
                held[number] = free.pop() if free else self._array(name, dtype, shape)
            (outputs,) = self._outputs[number][job][:1]
            places.append((-1, held[number][1], outputs[2]))
        self.plan.add_job(n_elements, inputs, places, apart=True)
        self._n_jobs += 1
        return self._n_jobs - 1

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> tuple[Any, int]:
        return new_array(name, dtype, shape, self._framework)
