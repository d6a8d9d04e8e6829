"""Isotropic and singular-vector merging of FusionBench, within rounding of its decompositions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..spec.choices import Semantics
from ._seam import HandOver, Original
from ._tensors import check, check_finite, number_of

if TYPE_CHECKING:
    from torch import Tensor

HALF = ("float16", "bfloat16")


class Deltas:
    """The task vectors of one matrix, as methods of matrices read them."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self._rows = [row.detach().float() for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, expert: int) -> Tensor:
        return self._rows[expert]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the matrix."""
        m, n = self._rows[0].shape
        return m, n

    def sum(self) -> Tensor:
        """Add up all task vectors in float32, in their order."""
        from .. import torch as ours

        return ours.combine(None, self._rows, gate="all", vote="none", blend="sum")

    def kept(self, expert: int) -> Tensor:
        """Return the mask of an expert's entries: all of them."""
        import torch

        return torch.ones_like(self._rows[expert], dtype=torch.bool)


def iso_c(
    original: Original, task_vectors: Any, accelerator: Any = "cuda", exclude_keys: Any = None
) -> dict[str, Any]:
    """Give all directions of the summed task vectors of a matrix the same strength."""
    from ..methods.iso_c import IsoC

    def merge(deltas: Deltas) -> Tensor:
        return IsoC.merge_matrix(deltas, {}, Semantics.FUSIONBENCH)

    return _merged(task_vectors, accelerator, exclude_keys, merge)


def iso_cts(
    original: Original,
    task_vectors: Any,
    common_space_fraction: Any,
    accelerator: Any = "cuda",
    exclude_keys: Any = None,
) -> dict[str, Any]:
    """Replace some directions of the sum by directions of the single tasks."""
    from ..methods.iso_cts import IsoCts

    fraction = number_of(common_space_fraction)
    if not 0 <= fraction <= 1:
        raise HandOver("arguments")

    def merge(deltas: Deltas) -> Tensor:
        r, n = min(deltas.shape), len(deltas)
        if round((r - int(r * fraction)) / n) * n > r:
            raise HandOver("directions")
        parameters = {"common_space_fraction": fraction}
        return IsoCts.merge_matrix(deltas, parameters, Semantics.FUSIONBENCH)

    return _merged(task_vectors, accelerator, exclude_keys, merge)


def tsv_m(
    original: Original,
    task_vectors: Any,
    exclude_keys: Any = None,
    accelerator: Any = "cpu",
    return_single_task_models: Any = False,
) -> dict[str, Any]:
    """Keep the largest directions of each task, and make those of all tasks orthogonal."""
    from ..methods.tsv_m import TsvM

    if return_single_task_models:
        raise HandOver("single models")

    def merge(deltas: Deltas) -> Tensor:
        r, n = min(deltas.shape), len(deltas)
        if int(r * (1 / n)) != r // n:
            raise HandOver("directions")
        return TsvM.merge_matrix(deltas, {}, Semantics.FUSIONBENCH)

    return _merged(task_vectors, accelerator, exclude_keys, merge, HALF)


def _merged(
    dicts: Any,
    accelerator: Any,
    excluded: Any,
    merge: Callable[[Deltas], Tensor],
    dtypes: Sequence[str] = (),
) -> dict[str, Any]:
    import torch

    from .. import torch as ours

    if not isinstance(dicts, (list, tuple)) or not dicts:
        raise HandOver("arguments")
    if any(type(one) not in (dict, OrderedDict) for one in dicts):
        raise HandOver("arguments")
    if any(one.keys() != dicts[0].keys() for one in dicts):
        raise HandOver("names")
    if torch.device(accelerator).type != "cpu":
        raise HandOver("device")
    excluded = [] if excluded is None else excluded
    result: dict[str, Any] = {}
    with torch.no_grad():
        for name in dicts[0]:
            rows = [one[name] for one in dicts]
            check(rows, dtypes)
            if rows[0].dim() == 2 and name not in excluded:
                check_finite(*rows)
                result[name] = merge(Deltas(rows)).to(rows[0].dtype)
            else:
                result[name] = ours.combine(None, rows, gate="all", vote="none", blend="mean")
    return result
