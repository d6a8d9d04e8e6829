"""Averages of the models that were taken and one more, from the sum of those that were taken."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from ..checkpoint.match import match
from ..checkpoint.policy import STATE_DICT, Policy
from ..engine.arrays import is_torch, view
from ..errors import InputError
from ..recipe.config import MergeConfig
from ..recipe.tensor_keys import chosen
from ..spec.choices import Extra, Missing
from ..spec.dtypes import FLOATS
from .checkpoints import merge
from .checks import check_inputs
from .dicts import check_copied, model_of
from .planning import plan
from .state_dicts import merge_state_dicts


class Candidates(Protocol):
    """Models that are taken one after the other, and averages of them and one more."""

    def check(self, models: Mapping[str, Any]) -> None:
        """Raise InputError if the models, by name, do not merge; their floats are not read."""

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

    OPTIONS: Final = ("threads", "nonfinite", "missing", "extra", "integers", "progress")
    """The arguments under which sums of sums are sums."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = {**options, "method": "linear"}
        self._sum: dict[str, Any] = {}
        self._first: Mapping[str, Any] = {}
        self._n_taken = 0

    def check(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise InputError if the models do not merge with the first one."""
        policy = Policy(
            has_base=False,
            counters=False,
            merges=False,
            missing=chosen("missing", self._options.get("missing", Missing.ERROR), Missing),
            extra=chosen("extra", self._options.get("extra", Extra.ERROR), Extra),
            advice=STATE_DICT,
        )
        found = [model_of(name, one) for name, one in models.items()]
        matched = match(found[0], found[1:], policy)
        if self._options.get("integers", "equal") == "equal":
            check_copied(found, matched)

    def take(self, model: Mapping[str, Any]) -> None:
        """Add a model to the sum."""
        if self._n_taken:
            both = [self._sum, model]
            self._sum = merge_state_dicts(None, both, normalize=False, **self._options)
        else:
            self._first = model
            self._sum = {name: _wide(name, value) for name, value in model.items()}
        self._n_taken += 1

    @contextmanager
    def with_one(self, model: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the average of the models taken and another one, in the dtypes of the first."""
        both, count = [self._sum, model], [self._n_taken, 1]
        room = {name: _room(value) for name, value in self._first.items()}
        yield merge_state_dicts(None, both, count=count, out=room, **self._options)

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


def _room(value: Any) -> Any:
    """Return a new array of the shape, the dtype, the kind and the device of another."""
    if is_torch(value):
        return value.new_empty(value.shape)
    import numpy as np

    return np.empty_like(value)


class OnDisk:
    """Averages of checkpoints, written into a directory and removed.

    Args:
        directory: An empty directory for the sum and the average at hand.
        out: The directory to create for the soup.
        options: Further arguments of ``merge``.
    """

    OPTIONS: Final = tuple(
        name
        for name in inspect.signature(merge).parameters
        if name not in ("config", "out", "semantics")
    )
    """The arguments of ``merge`` beside the request, which is in the paper's semantics."""

    def __init__(
        self, directory: Path, out: str | os.PathLike[str], options: Mapping[str, Any]
    ) -> None:
        self._directory = directory
        self._out = out
        # Nobody waits for files that are removed again to reach the disk.
        self._options = {**options, "overwrite": False, "sync": False}
        self._final = options
        self._taken: list[str] = []

    def check(self, models: Mapping[str, str | os.PathLike[str]]) -> None:
        """Raise InputError if the models do not merge."""
        check_inputs(plan(MergeConfig.load(_recipe([os.fspath(one) for one in models.values()]))))

    def take(self, model: str | os.PathLike[str]) -> None:
        """Add a model to the sum, which is written in float32 once it has two."""
        if self._taken:
            before = self._before()
            recipe = _recipe([before, os.fspath(model)], normalize=False)
            recipe["out_dtype"] = "float32"
            merge(recipe, self._sum(len(self._taken) + 1), **self._options)
            if len(self._taken) > 1:
                shutil.rmtree(before, ignore_errors=True)
        self._taken.append(os.fspath(model))

    @contextmanager
    def with_one(self, model: str | os.PathLike[str]) -> Iterator[Path]:
        """Yield the path of the average of the models taken and another one, as the first."""
        average, n_taken = self._directory / "average", len(self._taken)
        recipe = _recipe([self._before(), os.fspath(model)])
        recipe["models"][0]["parameters"] = {"count": n_taken}
        if n_taken > 1:
            # The sum is in float32: the first model, which is not read, tells the dtypes.
            recipe["base_model"] = self._taken[0]
        merge(recipe, average, **self._options)
        written = _stamps(average)
        try:
            yield average
            if _stamps(average) != written:
                raise _changed("the average")
        finally:
            shutil.rmtree(average, ignore_errors=True)

    def soup(self, models: Sequence[str | os.PathLike[str]]) -> Any:
        """Write the average of the models that were taken, and return the report."""
        return merge(_recipe([os.fspath(one) for one in models]), self._out, **self._final)

    def _before(self) -> str:
        """Return the path of the model that was taken, or of the sum of those that were."""
        if len(self._taken) == 1:
            return self._taken[0]
        found = self._sum(len(self._taken))
        if not found.is_dir():
            raise _changed("the sum of the models taken")
        return str(found)

    def _sum(self, n_taken: int) -> Path:
        return self._directory / f"sum-{n_taken}"


def _stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of each file of weights in a directory."""
    found = {one.name: one.stat() for one in path.glob("*.safetensors")}
    return {name: (one.st_size, one.st_mtime_ns) for name, one in found.items()}


def _changed(what: str) -> InputError:
    return InputError(
        f"evaluate: it removed or changed {what}; let an evaluation leave the files of a model as "
        "they are, or work on a copy"
    )


def _recipe(models: Sequence[str], **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "semantics": "paper",
        "models": [{"model": model} for model in models],
        "parameters": parameters,
    }
