"""Reads the ``lambda`` of TALL-masks: one number for all tasks, one for each, or candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..messages import show, unknown

DEFAULT = 0.4


@dataclass(frozen=True)
class Lambdas:
    """The lambdas of every task; ``(None,)`` for codecs without one."""

    by_task: Mapping[str, tuple[float | None, ...]]

    @property
    def n_per_task(self) -> int:
        """The number of masks of each task."""
        return max(map(len, self.by_task.values()), default=1)

    def of(self, task: str) -> tuple[float | None, ...]:
        """Return the lambdas of one task."""
        return self.by_task[task]

    def file(self, task: str, value: float | None) -> str:
        """Return the file of the store for a task and one of its lambdas."""
        if self.n_per_task == 1:
            return f"tasks/{task}.safetensors"
        return f"candidates/{task}/{text(value)}.safetensors"


def text(value: float | None) -> str:
    """Return a lambda as names have it, such as ``0.4``; nothing for None."""
    return "" if value is None else f"{value:g}"


def take_lambdas(parameters: dict[str, Any], tasks: Sequence[str], has_lambda: bool) -> Lambdas:
    """Remove ``lambda`` (or ``mask_lambda``) from the parameters and read it.

    Args:
        parameters: Parameters of the codec. The lambda is a number, or text with one or several
            (``"0.2,0.4"``), a list of candidates, or a mapping from each task to its number.
        tasks: Names of the tasks.
        has_lambda: True if the codec has a lambda.

    Raises:
        InputError: The lambda is anything else, or a number is below 0.
    """
    if not has_lambda:
        return Lambdas({task: (None,) for task in tasks})
    given = [name for name in ("lambda", "mask_lambda") if name in parameters]
    if len(given) > 1:
        raise InputError("lambda: is given twice, as 'lambda' and as 'mask_lambda'; keep one")
    value = parameters.pop(given[0]) if given else DEFAULT
    if isinstance(value, Mapping):
        for name in value:
            if name not in tasks:
                raise InputError(f"lambda: task {unknown(name, tasks)}")
        missing = [task for task in tasks if task not in value]
        if missing:
            raise InputError(f"lambda: has none for task {show(missing[0])}; give one for each")
        return Lambdas({task: (_number(value[task]),) for task in tasks})
    if isinstance(value, str):
        value = value.split(",")
    values = list(value) if isinstance(value, Sequence) else [value]
    candidates = tuple(_number(one) for one in values)
    if not candidates or len({text(one) for one in candidates}) < len(candidates):
        raise InputError(f"lambda: found {show(value)}, expected different numbers")
    return Lambdas({task: candidates for task in tasks})


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise InputError(f"lambda: found {show(value)}, expected a finite number from 0 up")
    return number
