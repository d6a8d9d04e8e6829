"""Averages of the models that were taken and one more, from the sum of those that were taken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..engine.arrays import is_torch, view
from ..spec.dtypes import FLOATS
from .checkpoints import merge
from .state_dicts import merge_state_dicts


class Candidates(Protocol):
    """Models that are taken one after the other, and averages of them and one more."""

    def take(self, model: Any) -> None:
        """Add a model to the sum."""

    def with_one(self, model: Any) -> AbstractContextManager[Any]:
        """Return the average of the models taken and another one, for as long as it is used."""

    def soup(self, models: Sequence[Any]) -> Any:
        """Return the average of the models that were taken, which are given again."""


class InMemory:
    """Averages of state dicts.

    Args:
        options: Further arguments of ``merge_state_dicts``.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = {**options, "method": "linear"}
        self._sum: dict[str, Any] = {}
        self._n_taken = 0

    def take(self, model: Mapping[str, Any]) -> None:
        """Add a model to the sum."""
        if self._n_taken:
            both = [self._sum, model]
            self._sum = merge_state_dicts(None, both, normalize=False, **self._options)
        else:
            self._sum = {name: _wide(name, value) for name, value in model.items()}
        self._n_taken += 1

    @contextmanager
    def with_one(self, model: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the average of the models taken and another one, in its dtypes."""
        count = [1, self._n_taken]
        yield merge_state_dicts(None, [model, self._sum], count=count, **self._options)

    def soup(self, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the average of the models that were taken."""
        return merge_state_dicts(None, models, **self._options)


def _wide(name: str, value: Any) -> Any:
    """Return a float tensor in float32, and any other as it is."""
    if view(name, value).dtype not in FLOATS:
        return value
    if is_torch(value):
        return value.float()
    import numpy as np

    return value.astype(np.float32)


class OnDisk:
    """Averages of checkpoints, written into a directory and removed.

    Args:
        directory: An empty directory for the sum and the average at hand.
        out: The directory to create for the soup.
        options: Further arguments of ``merge``.
    """

    def __init__(
        self, directory: Path, out: str | os.PathLike[str], options: Mapping[str, Any]
    ) -> None:
        self._directory = directory
        self._out = out
        # Nobody waits for files that are removed again to reach the disk.
        self._options = {**options, "overwrite": False, "sync": False}
        self._final = options
        self._taken: list[str] = []

    def take(self, model: str | os.PathLike[str]) -> None:
        """Add a model to the sum, which is written in float32 once it has two."""
        self._taken.append(os.fspath(model))
        n_taken = len(self._taken)
        if n_taken == 1:
            return
        new, before = self._sum(n_taken), self._before()
        recipe = _recipe([*before, self._taken[-1]], normalize=False)
        merge({**recipe, "out_dtype": "float32"}, new, **self._options)
        shutil.rmtree(self._sum(n_taken - 1), ignore_errors=True)

    @contextmanager
    def with_one(self, model: str | os.PathLike[str]) -> Iterator[Path]:
        """Yield the path of the average of the models taken and another one, in its dtypes."""
        average = self._directory / "average"
        recipe = _recipe([os.fspath(model), *self._before()])
        recipe["models"][1]["parameters"] = {"count": len(self._taken)}
        merge(recipe, average, **self._options)
        try:
            yield average
        finally:
            shutil.rmtree(average)

    def soup(self, models: Sequence[str | os.PathLike[str]]) -> Any:
        """Write the average of the models that were taken, and return the report."""
        return merge(_recipe([os.fspath(one) for one in models]), self._out, **self._final)

    def _before(self) -> list[str]:
        """Return the models whose sum is that of the models taken: themselves, or their sum."""
        sums = self._sum(len(self._taken)), self._sum(len(self._taken) - 1)
        found = [str(one) for one in sums if one.exists()]
        return found or self._taken[:1]

    def _sum(self, n_taken: int) -> Path:
        return self._directory / f"sum-{n_taken}"


def _recipe(models: Sequence[str], **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "semantics": "paper",
        "models": [{"model": model} for model in models],
        "parameters": parameters,
    }
