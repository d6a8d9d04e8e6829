"""The functions of ``peft.utils.merge_utils``: merges of the tensors of one module."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._seam import HandOver, Original
from ._tensors import check, check_finite, check_order, largest, number_of, reason_against

if TYPE_CHECKING:
    from torch import Tensor

# PEFT multiplies by float32 weights, so that its sums are float32 for these too.
HALF = ("float16", "bfloat16")
VOTES = {"total": "unweighted_sum", "frequency": "unweighted_count"}


@dataclass(frozen=True)
class Task:
    """A merge of the tensors of one module, all of whose arguments are checked."""

    tensors: Sequence[Tensor]
    weights: Sequence[float]
    density: float | None = None
    """The share of entries to keep; None where nothing is trimmed."""
    trimmed: Sequence[int] = ()
    """The tensors that are trimmed already."""
    vote: str = "none"


def task_of(
    exact: bool, tensors: Any, weights: Any, density: Any = None, method: Any = None
) -> Task:
    """Return the checked arguments of a call, and raise HandOver for those that are the host's.

    Args:
        exact: True where the result has to have the host's bits.
        tensors: One tensor for each adapter.
        weights: float32 [N].
        density: The share of entries to keep; None for all of them.
        method: The way to elect signs; None for none.
    """
    import torch

    if not isinstance(tensors, (list, tuple)):
        raise HandOver("arguments")
    check(tensors, HALF)
    n, n_elements = len(tensors), tensors[0].numel()
    if not isinstance(weights, torch.Tensor) or weights.shape != (n,):
        raise HandOver("weights")
    if weights.requires_grad or reason_against([weights]):
        raise HandOver("weights")
    if method is not None and method not in VOTES:
        raise HandOver("arguments")
    if density is not None and not 0 <= number_of(density) < 1:
        # The host warns or fails.
        raise HandOver("density")
    if exact:
        check_order(tensors)
    factors = weights.tolist()
    if not all(map(math.isfinite, factors)):
        raise HandOver("weights")
    # An entry that is left out is multiplied by zero there: NaN, if it or its product is infinite.
    trims_all = density is not None and int(density * n_elements) == 0
    if trims_all or method == "frequency" or (method and max(map(abs, factors)) > 1):
        limit = torch.finfo(torch.float32).max
        for tensor, factor in zip(tensors, factors, strict=True):
            if not largest(tensor) * max(1.0, abs(factor)) < limit:
                raise HandOver("not finite")
    return Task(tensors, factors, density, vote=VOTES[method] if method else "none")


def merged(exact: bool, tasks: Sequence[Task]) -> list[Tensor | str]:
    """Merge many modules in one call.

    Args:
        exact: True where the results have to have the host's bits.
        tasks: Merges that all vote alike, and all trim or all do not.

    Returns:
        For each task the float32 tensor, or the reason why the host has to merge it.
    """
    results: list[Tensor | str] = []
    equal = []
    for number, (tensor, left_out, overflow) in enumerate(_combined(tasks)):
        if left_out and exact:
            equal.append(number)
        results.append("not finite" if overflow else tensor)
    if equal:
        # PEFT keeps neither the first nor the last of equal magnitudes: it trims those itself.
        trimmed = [_trimmed(tasks[number]) for number in equal]
        for number, (tensor, _, overflow) in zip(equal, _combined(trimmed), strict=True):
            results[number] = "not finite" if overflow else tensor
    return results


def _combined(tasks: Sequence[Task]) -> Iterator[tuple[Tensor, int, bool]]:
    """Yield merged tensors, how many equal magnitudes each left out, and whether it overflows."""
    import torch

    from .. import torch as ours

    vote = tasks[0].vote
    trims = tasks[0].density is not None
    densities = [
        [1.0 if i in task.trimmed else task.density for i in range(len(task.tensors))]
        for task in tasks
    ]
    found = ours.combine_many(
        None,
        [task.tensors for task in tasks],
        vote=vote,
        blend="sum" if vote == "none" else "mean_of_agreeing",
        density=densities if trims else None,
        weights=[task.weights for task in tasks],
        zero="positive",
        equal="first",
        dtype=torch.float32,
    )
    return zip(found.tensors, found.left_out.tolist(), found.overflow.tolist(), strict=True)


def _trimmed(task: Task) -> Task:
    """Let PEFT trim the tensors of which ours would leave out some of equal magnitudes."""
    from peft.utils.merge_utils import prune

    from .. import torch as ours

    tensors, trimmed = list(task.tensors), []
    for i, tensor in enumerate(tensors):
        k = int(number_of(task.density) * tensor.numel())
        above, equal = ours.kth_magnitude_counted(tensor.detach(), k)[1].tolist() if k else (0, 0)
        if above + equal != k:
            tensors[i] = prune(tensor, task.density, method="magnitude")
            trimmed.append(i)
    return Task(tensors, task.weights, task.density, trimmed, task.vote)


def one(exact: bool, task: Task) -> Tensor:
    """Merge one module, or raise HandOver."""
    (result,) = merged(exact, [task])
    if isinstance(result, str):
        raise HandOver(result)
    return result


def task_arithmetic(original: Original, task_tensors: Any, weights: Any) -> Tensor:
    """Add up weighted tensors."""
    return one(original.exact, task_of(original.exact, task_tensors, weights))


def magnitude_prune(original: Original, task_tensors: Any, weights: Any, density: Any) -> Tensor:
    """Trim each tensor and add them up."""
    if density is None:
        raise HandOver("density")
    return one(original.exact, task_of(original.exact, task_tensors, weights, density))


def ties(
    original: Original,
    task_tensors: Any,
    weights: Any,
    density: Any,
    majority_sign_method: Any = "total",
) -> Tensor:
    """Trim each tensor, elect signs of the sums without weights, average what agrees."""
    if density is None:
        raise HandOver("density")
    exact = original.exact
    return one(exact, task_of(exact, task_tensors, weights, density, majority_sign_method))


def dare_linear(original: Original, task_tensors: Any, weights: Any, density: Any) -> Tensor:
    """Add up weighted tensors of which the host has dropped entries."""
    return _drawn(original, task_tensors, weights, density, None)


def dare_ties(
    original: Original,
    task_tensors: Any,
    weights: Any,
    density: Any,
    majority_sign_method: Any = "total",
) -> Tensor:
    """Elect signs and average what agrees, among entries that the host has not dropped."""
    return _drawn(original, task_tensors, weights, density, majority_sign_method)


def pruned(tensors: Sequence[Any], density: Any) -> list[Any]:
    """Return tensors of which PEFT has dropped entries, with its own draws."""
    from peft.utils.merge_utils import prune

    return [prune(tensor, density, method="random", rescale=True) for tensor in tensors]


def _drawn(original: Original, tensors: Any, weights: Any, density: Any, method: Any) -> Tensor:
    import torch

    task_of(original.exact, tensors, weights, None, method)
    if not 0 < number_of(density) < 1:
        raise HandOver("density")
    state = torch.get_rng_state()
    try:
        left = pruned(tensors, density)
        return one(original.exact, task_of(original.exact, left, weights, None, method))
    except Exception:
        # The host draws the same numbers once more.
        torch.set_rng_state(state)
        raise


def magnitude_based_pruning(original: Original, tensor: Any, density: Any) -> Tensor:
    """Keep the entries of largest magnitude; the selection alone is ours."""
    from .. import torch as ours

    check([tensor.detach()], HALF)
    k = int(number_of(density) * tensor.numel())
    if not 0 <= k <= tensor.numel():
        raise HandOver("density")
    if k == 0:
        return tensor * tensor.new_zeros(())  # type: ignore[no-any-return]
    values = tensor.detach()
    threshold, counts = ours.kth_magnitude_counted(values, k)
    above, equal = counts.tolist()
    if above + equal != k and float(threshold) != 0:
        if original.exact:
            raise HandOver("equal magnitudes")
        if tensor.requires_grad:
            raise HandOver("gradients")
        return ours.trim(values, density, equal="first")
    return tensor * (values.abs() >= threshold.to(values.dtype))  # type: ignore[no-any-return]


def calculate_majority_sign_mask(original: Original, tensor: Any, method: Any = "total") -> Tensor:
    """Elect the sign of each element, and tell which entries have it."""
    import torch

    from .. import torch as ours

    rows = _rows(tensor, HALF)
    if method not in VOTES:
        raise HandOver("arguments")
    if original.exact:
        check_order(tensor)
    if method == "frequency":
        check_finite(tensor)
    vote = "sum" if method == "total" else "count"
    positive = ours.elect_signs(rows, vote=vote, zero="positive") > 0
    return torch.where(positive, tensor > 0, tensor < 0)


def disjoint_merge(original: Original, task_tensors: Any, majority_sign_mask: Any) -> Tensor:
    """Average the entries that a mask has."""
    import torch

    from .. import torch as ours

    rows = _rows(task_tensors, () if original.exact else HALF)
    mask = majority_sign_mask
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        raise HandOver("arguments")
    check([mask], ("bool",))
    if mask.shape != task_tensors.shape:
        raise HandOver("shapes")
    if original.exact:
        check_order(task_tensors)
    check_finite(task_tensors)
    result = ours.masked_mean(rows, list(mask.unbind(0)))
    check_finite(result)
    return result


def _rows(tensor: Any, dtypes: Sequence[str]) -> list[Tensor]:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.dim() < 2:
        raise HandOver("shapes")
    check([tensor], dtypes)
    rows = list(tensor.unbind(0))
    check(rows, dtypes)
    return rows
