"""Whole merges of one NumPy array: TIES, and any combination of gate, vote and blend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tallies._core as native

from ..engine.jobs import Work
from ..engine.limits import limits_in_memory
from ..engine.passes import Passes
from ..errors import InputError
from ..merging.state_dicts import merge_state_dicts
from ..messages import show
from ..spec.choices import PAPER, Equal
from ..spec.rules import Blend, Gate, Rule, Vote, Zero, trimmed
from . import arguments
from .arguments import Array, Deltas, Weights, place


def ties(
    base: Array,
    experts: Deltas,
    *,
    density: float | Sequence[float],
    scale: float = 1.0,
    weights: Weights = None,
    equal: str = "keep",
    semantics: str = "paper",
    threads: int | None = None,
) -> Array:
    """Merge one array by TIES: trim each task vector, elect signs, average what agrees.

    y_t = w_t trim(f_t - base); s = sign(sum_t y_t); out = base + scale * mean{y_t : sign(y_t) = s}.
    Sums of exactly zero take the majority sign over the array. Zeros never agree. NaN and
    infinities that survive the trim reach the result.

    Args:
        base: The base.
        experts: N arrays in the shape of the base, or one array [N, ...]; dtypes may differ.
        density: The share of each task vector to keep, from 0 to 1, for all or one per expert.
        scale: The factor on the merged task vector.
        weights: A finite number for each expert; 1 by default.
        equal: The treatment of equal magnitudes, as in ``trim``.
        semantics: "paper", or "mergekit" for the result of that tool.
        threads: The number of threads; by default, all cores.

    Returns:
        A new array of the shape and dtype of the base.

    Raises:
        InputError: Shapes differ, or an argument is out of range.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> base, experts = np.zeros(4, np.float32), np.float32([[4, 1, -2, 0], [2, -3, 1, 0]])
    >>> ties(base, experts, density=0.5)
    array([ 3., -3., -2.,  0.], dtype=float32)
    """
    template = arguments.array("base", base)
    rows = arguments.arrays("experts", experts, one_dtype=False)
    arguments.same_shape("experts[0]", rows[0], "base", template)
    # The other semantics have no such parameter, and say so when it is given.
    options: dict[str, Any] = {} if equal == Equal.KEEP else {"equal": equal}
    merged: Array = merge_state_dicts(
        {"base": template},
        [{"base": row} for row in rows],
        method="ties",
        weights=arguments.weights(weights, len(rows)),
        semantics=semantics,
        nonfinite="propagate",
        threads=threads,
        density=density,
        scale=scale,
        **options,
    )["base"]
    # mergekit's semantics promotes mixed dtypes; an array keeps that of its base.
    with np.errstate(over="ignore", invalid="ignore"):
        return merged.astype(template.dtype, copy=False)


def combine(
    base: Array | None,
    experts: Deltas,
    *,
    gate: str = "magnitude",
    vote: str = "sum",
    blend: str = "mean_of_agreeing",
    density: float | Sequence[float] | None = None,
    weights: Weights = None,
    scale: float = 1.0,
    zero: str = "majority",
    equal: str = "keep",
    threads: int | None = None,
) -> Array:
    """Merge one array by any gate, vote and blend that is compiled: out = base + scale * merged.

    y_t = w_t gate(f_t - base); the vote elects a sign s; the blend makes one value of the y_t of an
    element, or of the y_t that agree with s. Zeros never agree. NaN and infinities that pass the
    gate reach the result.

    Args:
        base: The base. With None the experts are task vectors, and the result is scale * merged.
        experts: N arrays of one shape, or one array [N, ...]; dtypes may differ.
        gate: "magnitude" trims by ``density``, "all" keeps every entry.
        vote: "none", "sum" or "count", as in ``elect_signs``.
        blend: The blend; "mean" and "fused_mean" divide by the sum of the weights; fused ones
            add each product with one rounding.
        density: The share of each task vector to keep, for all or one per expert; None where the
            gate keeps everything.
        weights: A finite number for each expert; 1 by default.
        scale: The factor on the merged task vector.
        zero: The sign where a vote is exactly zero, as in ``elect_signs``.
        equal: The treatment of equal magnitudes, as in ``trim``.
        threads: The number of threads; by default, all cores.

    Returns:
        A new array of the shape and dtype of the base, or else of the first expert.

    Raises:
        InputError: Shapes differ, an argument is out of range, or the combination is not compiled;
            the message lists those that are.

    >>> experts = np.float32([[4, 1, -2, 0], [2, -3, 1, 0]])
    >>> combine(np.ones(4, np.float32), experts, density=1.0, vote="count",
    ...         blend="largest_agreeing")
    array([ 4., -3., -2.,  0.], dtype=float32)
    >>> combine(None, experts, gate="all", vote="none", blend="sum", scale=0.5)
    array([ 3. , -1. , -0.5,  0. ], dtype=float32)
    """
    rule = _compiled_rule(gate, vote, blend, zero, equal)
    rows = arguments.arrays("experts", experts, one_dtype=False)
    template = rows[0] if base is None else arguments.array("base", base)
    if base is not None:
        arguments.same_shape("experts[0]", rows[0], "base", template)
    out = np.empty_like(template)
    inputs = rows if base is None else [template, *rows]
    work = Work(
        name="base",
        n_elements=template.size,
        inputs=tuple(place(values) for values in inputs),
        outputs=(place(out),),
        weights=tuple(arguments.weights(weights, len(rows))),
        densities=_densities(gate, density, len(rows)),
        scale=arguments.number("scale", scale),
        n_input_bytes=0,
    )
    limits = limits_in_memory(threads)
    labels = [f"experts[{i}]" for i in range(len(rows))]
    has_base = base is not None
    passes = Passes(
        *(native.Plan(has_base), [work], rule, PAPER, limits),
        labels=labels,
        has_base=has_base,
        in_memory=True,
    )
    if passes.by_model:
        passes.survey_model()
    passes.combine([0])
    passes.settle_majority()
    return out


def _compiled_rule(gate: str, vote: str, blend: str, zero: str, equal: str) -> Rule:
    known = native.rules()
    if (gate, vote, blend) not in known:
        raise InputError(
            f"gate, vote and blend: found {show(f'{gate} {vote} {blend}')}, expected one of: "
            f"{', '.join(map(' '.join, known))}"
        )
    policy = Zero(arguments.choice("zero", zero, [choice.value for choice in Zero]))
    among_equal = Equal(arguments.choice("equal", equal, Equal))
    if Gate(gate) is Gate.MAGNITUDE:
        return trimmed(Vote(vote), Blend(blend), policy, equal=among_equal)
    return Rule(Gate(gate), Vote(vote), Blend(blend), policy)


def _densities(
    gate: str, density: float | Sequence[float] | None, n_experts: int
) -> tuple[float, ...]:
    if Gate(gate) is Gate.ALL:
        if density is not None:
            raise InputError(
                "density: found one, expected none: gate 'all' ranks nothing; leave it out"
            )
        return ()
    if density is None:
        raise InputError(
            f"density: missing, and gate {gate!r} needs a share from 0 to 1, or one for each expert"
        )
    if not isinstance(density, Sequence | np.ndarray):
        return (arguments.number("density", density, 0, 1),) * n_experts
    if len(density) != n_experts:
        raise InputError(
            f"density: found {len(density)} values, expected one for each of the {n_experts} "
            "experts"
        )
    return tuple(arguments.number(f"density[{i}]", one, 0, 1) for i, one in enumerate(density))
