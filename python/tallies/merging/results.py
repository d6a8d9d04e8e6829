"""Room for results of merges in memory: new arrays, or those of the caller, written in place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from ..checkpoint.match import Match
from ..engine.arrays import Array, empty_like, is_torch, new_array, view
from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPE_CODES, promoted
from .rooms import check_apart, check_room


class Results:
    """The arrays that a merge writes, and those that the caller gets.

    Args:
        template: The tensors of the base, or of the first expert.
        out: The caller's arrays by name, or None for new ones.
        inputs: The arrays that the merge reads; an array of the caller that shares their memory, is
            on a device or has strides is filled at the end, by a copy.
        tied: Names that get the values of another name, by which they share its array.

    Raises:
        InputError: The caller's arrays cannot hold the results.
    """

    def __init__(
        self,
        template: Mapping[str, Any],
        out: Mapping[str, Any] | None,
        inputs: Iterable[Array],
        tied: Mapping[str, str],
    ) -> None:
        self._template, self._out = template, out
        self._arrays: dict[str, Any] = {}
        if out is None:
            return
        if not isinstance(out, Mapping):
            raise InputError(f"out: found {type(out).__name__}, expected a dict of tensors")
        if unknown := out.keys() - template.keys():
            raise InputError(
                f"out: tensor {show(min(unknown))} is not in the result; leave it out of the dict"
            )
        check_apart({name: self._own(name, template[name].shape) for name in template}, tied)
        self._starts, self._ends = _joined(inputs)

    def room(self, name: str, infos: list[Array], *, promotes: bool) -> Any:
        """Return the array that the merge of a tensor writes, in order and on the CPU.

        Args:
            name: The name of the tensor.
            infos: The tensor in each model, the template's first.
            promotes: True if a new array has the dtype of all models, and not the first's.
        """
        like = self._template[name]
        if self._out is not None:
            self._arrays[name] = self._own_room(name, self._own(name, like.shape))
        elif promotes and (dtype := promoted(info.dtype for info in infos)) != infos[0].dtype:
            self._arrays[name] = _new(name, dtype, like)
        else:
            self._arrays[name] = empty_like(like)
        return self._arrays[name]

    def finish(self, matched: Match) -> dict[str, Any]:
        """Return the result by the names of the template: on its devices, with tied tensors."""
        result = dict(self._arrays)
        for name in matched.copied:
            result[name] = self._template[name]
            if self._out is None:
                result[name] = _copy(result[name])
        for alias, canonical in matched.tied.items():
            result[alias] = result[canonical]
        if self._out is not None:
            for name in matched.copied:
                self._check_copied(name)
            return {name: self._fill(name, result[name]) for name in self._template}
        for name, value in result.items():
            like = self._template[name]
            if is_torch(like) and like.device.type != "cpu":
                result[name] = value.to(like.device)
        for alias, canonical in matched.tied.items():
            result[alias] = result[canonical]
        return {name: result[name] for name in self._template}

    def _own(self, name: str, shape: Any) -> Any:
        assert self._out is not None
        if name not in self._out:
            raise InputError(f"out: tensor {show(name)} is missing; add it, or pass out=None")
        own = self._out[name]
        if not hasattr(own, "shape") or tuple(own.shape) != tuple(shape):
            found = tuple(own.shape) if hasattr(own, "shape") else type(own).__name__
            raise InputError(
                f"out: tensor {show(name)}: found {found}, expected the shape {tuple(shape)}"
            )
        check_room(name, own)
        return own

    def _own_room(self, name: str, own: Any) -> Any:
        try:
            found = view(name, own)
        except InputError as error:
            raise InputError(f"out: {error}") from None
        if found.dtype not in DTYPE_CODES:
            raise InputError(
                f"out: tensor {show(name)}: found dtype {found.dtype}, expected a floating-point "
                "type, to which the result is rounded"
            )
        n_bytes = int(found.owner.nbytes)
        is_own = found.given[0] == "cpu" and found.given[1] == found.address
        if is_own and not self._is_read(found.address, n_bytes):
            return found.owner
        return _new(name, found.dtype, own)

    def _check_copied(self, name: str) -> None:
        like = self._template[name]
        found, expected = (
            str(x.dtype).removeprefix("torch.") for x in (self._own(name, like.shape), like)
        )
        if found != expected:
            raise InputError(
                f"out: tensor {show(name)}: found dtype {found}, expected {expected}, because it "
                "is copied"
            )

    def _is_read(self, address: int, n_bytes: int) -> bool:
        before = bisect_right(self._starts, address + n_bytes - 1) - 1
        return n_bytes > 0 and before >= 0 and self._ends[before] > address

    def _fill(self, name: str, value: Any) -> Any:
        """Copy a value into the caller's array, unless it was merged there."""
        own = self._own(name, self._template[name].shape)
        if not is_torch(own):
            import numpy as np

            with np.errstate(all="ignore"):
                np.copyto(own, value.numpy() if is_torch(value) else value, casting="same_kind")
            return own
        import torch

        if not is_torch(value):
            value = torch.from_numpy(value)
        with torch.no_grad():
            own.copy_(value)
        return own


def _copy(value: Any) -> Any:
    return value.clone() if is_torch(value) else value.copy()


def _new(name: str, dtype: str, like: Any) -> Any:
    return new_array(name, dtype, like.shape, "torch" if is_torch(like) else "numpy")[0]


def _joined(arrays: Iterable[Array]) -> tuple[list[int], list[int]]:
    """Return the first addresses of arrays in memory in order, and the last address up to each."""
    ranges = sorted(_range(one) for one in arrays if one.given[0] == "cpu" and one.n_elements > 0)
    ends: list[int] = []
    for _, end in ranges:
        ends.append(max(end, ends[-1]) if ends else end)
    return [start for start, _ in ranges], ends


def _range(array: Array) -> tuple[int, int]:
    """Return the addresses from which and up to which an array was given."""
    size = int(array.owner.nbytes) // array.n_elements
    unit = size if is_torch(array.owner) else 1
    start, end = int(array.given[1]), int(array.given[1]) + size
    for n, stride in zip(array.shape, array.given[2], strict=True):
        start += min((n - 1) * stride * unit, 0)
        end += max((n - 1) * stride * unit, 0)
    return start, end
