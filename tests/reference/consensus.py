"""Consensus: of a merged task vector only the elements that enough tasks claim."""

from __future__ import annotations

from collections.abc import Sequence

from .dtype import Array
from .masks import consensus_mask
from .tall import Masks, Model, masks, shared_vector, unpack, vectors


def consensus(
    base: Model, shared: Model, task_masks: Sequence[Masks], k: int = 2, scale: float = 1.0
) -> dict[str, Array]:
    """base + scale * (shared where at least k masks are set, +0 elsewhere), in the base's dtypes.

    k = 0 keeps all of `shared`; k above the number of masks adds +0 to the base. A tensor that
    `shared` does not have is copied from the base.
    """
    chosen = {
        name: consensus_mask([bits[name] for bits in task_masks], base[name].size, k)
        for name in shared
    }
    return unpack(base, shared, chosen, scale)


def consensus_merge(
    base: Model,
    experts: Sequence[Model],
    names: Sequence[str],
    shared: str = "ta",
    lambdas: float | Sequence[float] = 0.4,
    k: int = 2,
    scale: float = 1.0,
) -> dict[str, Array]:
    """Consensus TA (`shared="ta"`) or Consensus TIES ("ties") of the tensors named.

    The TALL masks of the experts at `lambdas` vote on the unrounded shared vector. `names`, sorted
    by their bytes, also say which elements the threshold of TIES counts.
    """
    tasks = vectors(base, experts, names)
    merged = shared_vector(tasks, shared)
    return consensus(base, merged, masks(tasks, merged, lambdas), k, scale)
