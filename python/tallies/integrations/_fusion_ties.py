"""TIES and masks of FusionBench: functions of flat task vectors [N, D]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._seam import HandOver, Original
from ._tensors import check, check_finite, check_order, number_of, reason_against

if TYPE_CHECKING:
    from torch import Tensor

BLENDS = {"mean": "mean_of_agreeing", "sum": "sum_of_agreeing", "max": "largest_agreeing"}
HALF = ("float16", "bfloat16")


def ties_merging(
    original: Original, flat_task_checks: Any, reset_thresh: Any = None, merge_func: Any = ""
) -> Tensor:
    """Merge flat task vectors by TIES, without the lines that the host prints."""
    from .. import torch as ours

    rows = _rows(flat_task_checks, () if original.exact else HALF)
    n, d = flat_task_checks.shape
    blend = BLENDS.get(merge_func.split("-")[-1] if isinstance(merge_func, str) else "")
    if blend is None:
        raise HandOver("arguments")
    density = _density(reset_thresh, d)
    if original.exact:
        check_order(n, d)
    if blend == BLENDS["max"]:
        merged = _largest(rows, density)
    else:
        merged = ours.combine(None, rows, density=density, vote="sum", blend=blend)
    check_finite(merged)
    return merged


def topk_values_mask(original: Original, M: Any, K: Any = 0.7, return_mask: Any = False) -> Any:
    """Keep the entries of each row that reach its threshold; the selection alone is ours."""
    import torch

    from .. import torch as ours

    if not isinstance(M, torch.Tensor) or M.dim() not in (1, 2):
        raise HandOver("shapes")
    values = M.unsqueeze(0) if M.dim() == 1 else M
    reason = reason_against([values.detach()], HALF)
    if reason is not None:
        raise HandOver(reason)
    kept = _kept(K, values.shape[1])
    thresholds = torch.stack([ours.kth_magnitude(row, kept + 1) for row in values.detach()])
    mask = values.abs() >= thresholds.to(values.dtype).unsqueeze(1)
    final = mask.squeeze() if M.shape == values.squeeze().shape else mask
    result = (values * final, final.float().mean(dim=1))
    return (*result, final) if return_mask else result


def generate_task_masks(
    original: Original,
    tv_flat_checks: Any,
    flat_ft: Any,
    flat_ptm: Any,
    tv: Any = None,
    tall_mask_lambda: Any = 1.0,
) -> Tensor:
    """Compare each task vector with its distance to the merged one; equal away from the border."""
    import torch

    from .. import torch as ours

    rows = _rows(tv_flat_checks)
    if tv is None:
        tv = ours.combine(None, rows, gate="all", vote="none", blend="sum")
    check([*rows, tv])
    for weights in (flat_ft, flat_ptm):
        check([weights])
    factor = number_of(tall_mask_lambda)
    if factor < 0 or flat_ft.shape != tv_flat_checks.shape:
        raise HandOver("arguments")
    d = tv.numel()
    masks = torch.stack([ours.unpack_bits(ours.tall_mask(row, tv, factor), d) for row in rows])
    return masks.squeeze() if flat_ft.shape == tv_flat_checks.squeeze().shape else masks


def _rows(flat: Any, dtypes: tuple[str, ...] = ()) -> list[Tensor]:
    import torch

    if not isinstance(flat, torch.Tensor) or flat.dim() != 2:
        raise HandOver("shapes")
    check([flat], dtypes)
    rows = list(flat.unbind(0))
    check(rows, dtypes)
    return rows


def _kept(share: Any, d: int) -> int:
    """Return how many of d entries stay for certain; the host fails where all or more do."""
    share = number_of(share)
    kept = int(d * (share / 100 if share > 1 else share))
    if not 0 <= kept < d:
        raise HandOver("density")
    return kept


def _density(share: Any, d: int) -> float:
    """Return the density that keeps as many, and the largest entry alone where that is none."""
    kept = _kept(share, d)
    return (share / 100 if share > 1 else share) if kept else 0.5 / d


def _largest(rows: list[Tensor], density: float) -> Tensor:
    """Return the largest entries of the elected signs, and a zero of that sign where none is."""
    from .. import torch as ours

    trimmed = [ours.trim(row, density) for row in rows]
    signs = ours.elect_signs(trimmed, zero="drop")
    total = int(signs.sum())
    if total == 0 and not signs.all():
        # The host elects no sign there, and its maximum is 0.
        raise HandOver("no majority")
    signs.masked_fill_(signs == 0, 1 if total > 0 else -1)
    return ours.disjoint_merge(trimmed, signs, blend="max").abs_().mul_(signs)
