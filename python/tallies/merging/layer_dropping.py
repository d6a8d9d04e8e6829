"""Leaves out layers of task vectors, ranked by a survey before the merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from .._core import Limits, Plan
from ..engine.files import native
from ..engine.jobs import Work
from ..engine.surveys.inner_products import inner_products
from ..linalg.gram import Gram
from ..recipe.modifiers import Modifiers


def choose(
    modifiers: Modifiers,
    plan: Plan,
    works: Sequence[Work],
    n_experts: int,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[list[str]]:
    """Return the layers that each expert loses, from one pass over all tensors.

    Args:
        modifiers: The modifiers of the merge, with ``drop_layers``.
        plan: A native plan without jobs, with a base, in which the inputs are open.
        works: The tensors.
        n_experts: The number of experts.
        limits: Threads and buffers of the pass.
        progress: Is called with the bytes moved since the last call.

    Raises:
        StorageError: Reading fails.
    """
    for work in works:
        plan.add_job(work.n_elements, [*map(native, work.inputs)], [])
    rows = [(job, max(1, work.n_elements)) for job, work in enumerate(works)]
    found = inner_products(plan, rows, n_experts, True, False, limits, progress)
    sums = {work.name: rows for work, rows in zip(works, found, strict=True)}
    sizes = {work.name: work.n_elements for work in works}
    layers = modifiers.layers(sums)
    grams = {
        layer: Gram.total(n_experts, [row for name in names for row in sums[name]])
        for layer, names in layers.items()
    }
    return modifiers.dropped(
        grams, {layer: sum(sizes[name] for name in names) for layer, names in layers.items()}
    )


def without(
    works: Sequence[Work], dropped: Sequence[Sequence[str]], layers: Mapping[str, Sequence[str]]
) -> list[Work]:
    """Return the works with the base in the place of every expert in the layers that it loses."""
    lost = [{name for layer in row for name in layers[layer]} for row in dropped]
    return [
        replace(
            work,
            inputs=(
                work.inputs[0],
                *(
                    work.inputs[0] if work.name in names else place
                    for names, place in zip(lost, work.inputs[1:], strict=True)
                ),
            ),
        )
        for work in works
    ]
