"""Keeps the tasks of a store where the model is, and restores them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from ..errors import InputError
from ..messages import show
from ..spec.dtypes import KERNEL_DTYPES
from ..store.opened import Store
from ..store.restoring.checks import refuse_damaged
from ..store.restoring.task import Restoring
from .from_files import all_of, distinct, n_bytes_of
from .loading import LoadedTensor, load_task, read_decoded, restored
from .masks import apply_mask
from .products import low_rank

_DTYPES = tuple(getattr(torch, name) for name in KERNEL_DTYPES)


@dataclass(frozen=True)
class Part:
    """One tensor of a task: its own values, the shared vector and a mask of it, or factors."""

    values: torch.Tensor | None
    mask: torch.Tensor | None = None
    scale: float = 1.0
    products: tuple[tuple[torch.Tensor, torch.Tensor, float], ...] = ()
    """The factors of products to add, and the scale of each."""

    def of(self, base: torch.Tensor) -> torch.Tensor:
        """Return the tensor of the task, in the base's shape."""
        if self.values is None:
            rows = base.reshape(len(base), -1)
            # Sums of several products are rounded once, behind the last.
            rows = rows if len(self.products) == 1 else rows.float()
            for left, right, scale in self.products:
                rows = low_rank(rows, left, right, scale)
            return rows.to(base.dtype).view_as(base)
        if self.mask is None:
            return self.values
        return apply_mask(base.view(-1), self.values.view(-1), self.mask, self.scale).view_as(base)


class Resident:
    """Keeps a copy of the base, the shared vector and the masks of all tasks on the device."""

    def __init__(self, store: Store, tensors: Mapping[str, torch.Tensor], threads: int) -> None:
        known = store.manifest.tensors
        self._base = {
            name: self._values(store, name, tensor)
            for name, tensor in tensors.items()
            if known[name].tied_to is None
        }
        self._parts: dict[str, dict[str, Part]] = {}
        shared: dict[str, torch.Tensor] = {}
        moved: dict[int, torch.Tensor] = {}
        for one in all_of(store):
            loaded = load_task(one, shared, threads)
            # Other changes than products are not made on devices: those tensors are kept whole.
            whole = [name for name, part in loaded.items() if part.changes and not part.products]
            loaded |= restored(one, whole, threads)
            self._parts[one.file] = {
                name: self._part(store, name, part, moved)
                for name, part in loaded.items()
                if name in self._base
            }

    @staticmethod
    def _values(store: Store, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of the base's tensor; of decoded values, before they are rounded."""
        info = store.base.tensors[name]
        if not info.is_decoded:
            return tensor.detach().clone(memory_format=torch.contiguous_format)
        check = partial(refuse_damaged, store.path, store.manifest, store.base)
        return read_decoded(info, check, "F32").to(tensor.device)

    def _part(
        self, store: Store, name: str, part: LoadedTensor, moved: dict[int, torch.Tensor]
    ) -> Part:
        base = self._base[name]
        if part.products and base.dtype in _DTYPES:
            factors = [array.to(base.device) for array in part.memory]
            return Part(
                None, products=tuple((factors[a], factors[b], s) for a, b, s in part.products)
            )
        if part.replaces and len(part.memory) == 1:
            return Part(part.memory[0].to(base.device))
        if part.mask_scale is None or base.dtype not in _DTYPES:
            raise InputError(
                f"preload: found 'device', and tensor {show(name)} of {store.path} is "
                f"{base.dtype}, of codec {store.manifest.codec}; expected a mask and a shared "
                "vector of float32, float16 or bfloat16; leave 'device' out, or pack with tall, "
                "emr or magnitude"
            )
        mask, vector = part.memory
        if vector.data_ptr() not in moved:
            moved[vector.data_ptr()] = vector.to(base.device)
        return Part(moved[vector.data_ptr()], mask.to(base.device), part.mask_scale)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, the base's copy included."""
        parts = [part for of_task in self._parts.values() for part in of_task.values()]
        arrays = [*self._base.values()]
        for part in parts:
            arrays += [one for one in (part.values, part.mask) if one is not None]
            arrays += [factor for *factors, _ in part.products for factor in factors]
        return n_bytes_of(iter(arrays))

    def parts(self, one: Restoring) -> Mapping[str, Part]:
        """Return the tensors of a task."""
        return self._parts[one.file]

    def write(
        self,
        tensors: Mapping[str, torch.Tensor],
        sources: Mapping[str, str],
        parts: Mapping[str, Part],
    ) -> None:
        """Write tensors of a model; arguments as for ``FromFiles.write``."""
        for name, tensor in distinct(tensors).items():
            base, part = self._base[sources[name]], parts.get(sources[name])
            tensor.copy_(base if part is None else part.of(base))
