"""mergekit's eight methods on task vectors, by one pass of ours for each tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from ._seam import HandOver, Original
from ._tensors import check, check_finite, check_order, number_of

if TYPE_CHECKING:
    from torch import Tensor

# The elements of a task vector that are chosen among in the time in which a thread starts.
WORTH_A_THREAD: Final = 2**16
# Lengths that std::sort takes by insertion, by one and by many partitions.
TRIED_LENGTHS: Final = (12, 300, 20_000)


def merge_group(original: Original, method: Any, group: Any, /, **parameters: Any) -> Tensor:
    """Merge a group of tensors in place of ``GeneralizedTaskArithmeticMerge.merge_group``.

    Args:
        original: The host's function, and how close the result has to be.
        method: The host's method: its sparsification and its consensus.
        group: The host's group of tensors of one shape and dtype.
        parameters: The host's, bound to this group.

    Returns:
        The merged tensor, in the dtype of the base.

    Raises:
        HandOver: The host has to merge this group itself.
    """
    import torch

    from ..torch.many import merge_task_vectors

    entries = group.non_base
    if group.base is None or not entries:
        raise HandOver("no experts")
    base, experts = group.base.tensor, [entry.tensor for entry in entries]
    check([base, *experts], () if original.exact else ("float16", "bfloat16"))
    if original.exact:
        check_order(experts, base)
    merge = functools.partial(
        merge_task_vectors,
        base,
        weights=[number_of(parameters["weight"][entry.id]) for entry in entries],
        consensus=None if method.consensus_method is None else method.consensus_method.value,
        normalize=parameters["normalize"],
        scale=number_of(parameters["lambda"]),
    )
    densities = [number_of(parameters["density"][entry.id]) for entry in entries]
    if method.sparsification_method is None or min(densities) >= 1:
        found = merge(experts)
    elif method.sparsification_method.value == "magnitude" and not parameters["rescale"]:
        found = merge(experts, density=[min(max(one, 0.0), 1.0) for one in densities])
        if original.exact and found.left_out:
            found = merge(_sparsified(original, method, group, parameters), deltas=True)
    else:
        before = torch.get_rng_state()
        found = merge(_sparsified(original, method, group, parameters), deltas=True)
        if original.exact and found.overflow:
            torch.set_rng_state(before)
    if original.exact and found.overflow:
        raise HandOver("not finite")
    return found.tensor


def _sparsified(
    original: Original, method: Any, group: Any, parameters: dict[str, Any]
) -> list[Tensor]:
    """Return the task vectors with the entries that the host keeps; where it draws, it draws."""
    keep = _KEEP.get(method.sparsification_method.value)
    rows = [
        functools.partial(
            _host_s if keep is None or (original.exact and not sorts_alike()) else _ours,
            *(entry.tensor, group.base.tensor, method.sparsification_method, original.exact),
            parameters["rescale"],
            density=parameters["density"][entry.id],
            **{key: parameters[key][entry.id] for key in ("gamma", "epsilon") if key in parameters},
        )
        for entry in group.non_base
    ]
    if keep is None or group.base.tensor.numel() < WORTH_A_THREAD:
        return [row() for row in rows]
    import torch

    with ThreadPoolExecutor(min(torch.get_num_threads(), len(rows))) as threads:
        return list(threads.map(lambda row: row(), rows))


def _host_s(
    expert: Tensor, base: Tensor, kind: Any, _exact: bool, rescale: bool, **options: float
) -> Tensor:
    from mergekit.sparsify import RescaleNorm, sparsify

    norm = RescaleNorm.l1 if rescale else None
    return sparsify(expert - base, method=kind, rescale_norm=norm, **options).float()  # type: ignore[no-any-return]


def _ours(
    expert: Tensor, base: Tensor, kind: Any, exact: bool, rescale: bool, **options: float
) -> Tensor:
    delta = expert.detach().float() - base.detach().float()
    if exact:
        check_finite(delta)
        if rescale and not delta.is_contiguous():
            # The host adds up the magnitudes that are left in the order of the strides.
            raise HandOver("layout")
    if options["density"] >= 1:
        return delta
    kept: Tensor = _KEEP[kind.value](delta, **options)
    return _rescaled(delta, kept) if rescale else kept


def _keep_largest(delta: Tensor, density: float, **_: Any) -> Tensor:
    """Keep as many entries as the host's trim does, and the same ones among equal magnitudes."""
    n_kept = max(1, int(density * delta.numel())) if density > 0 else 0
    return _kept(delta, 0, n_kept, descending=True)


def _keep_band(delta: Tensor, density: float, gamma: float, **_: Any) -> Tensor:
    """Keep the entries between the smallest and the largest, as the host's breadcrumbs do."""
    n = delta.numel()
    n_kept, n_above = int(density * n), int(gamma * n)
    first = max(0, n - n_kept - n_above)
    return _kept(delta, first, min(first + n_kept, n), descending=False)


_KEEP: Final[dict[str, Callable[..., Any]]] = {
    "magnitude": _keep_largest,
    "magnitude_outliers": _keep_band,
}


def _kept(delta: Tensor, first: int, last: int, *, descending: bool) -> Tensor:
    import torch

    from ..kernels.sorting import keep_sorted_range

    values = delta.detach().contiguous()
    out = torch.empty_like(values)
    keep_sorted_range(
        values.numpy().reshape(-1),
        first,
        max(first, last),
        descending=descending,
        out=out.numpy().reshape(-1),
    )
    return out


def _rescaled(delta: Tensor, kept: Tensor) -> Tensor:
    """Scale what is kept to the sum of magnitudes of all, as the host does."""
    before, after = delta.abs().sum(), kept.abs().sum()
    if before < 1e-7 or after < 1e-7:
        return kept
    return kept * (before / after)


@functools.cache
def sorts_alike() -> bool:
    """Tell whether the sort of torch keeps the same ones of equal magnitudes as ours, by trying."""
    import torch

    for n in TRIED_LENGTHS:
        values = (torch.arange(n, dtype=torch.float32) * 7919) % 31
        for descending in (True, False):
            order = torch.sort(values, descending=descending).indices[n // 5 : n // 2]
            expected = torch.zeros_like(values)
            expected[order] = values[order]
            found = _kept(values, n // 5, n // 2, descending=descending)
            if not torch.equal(found, expected):
                return False
    return True
