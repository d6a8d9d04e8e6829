"""Steps of a merge on NumPy arrays: select, trim, elect, blend, and whole methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import tallies._core as native

from ..engine.codes import BLEND_CODES, INFINITY_BITS, KEEP_ALL, ZERO_SIGNS
from ..engine.jobs import Work
from ..engine.limits import limits_in_memory
from ..engine.passes import Passes
from ..errors import InputError
from ..merging.state_dicts import merge_state_dicts
from ..messages import show
from ..spec.choices import PAPER, Equal
from ..spec.rules import BLENDS_OF_AGREEING, Blend, Gate, Rule, Vote, Zero, trimmed
from . import arguments
from .arguments import Array, narrowed, place, widened

Deltas = Sequence[Array] | Array
Weights = Sequence[float] | npt.NDArray[np.float32] | None


def kth_magnitude(x: Array, k: int) -> np.float32:
    """The k-th largest magnitude |x|, counted from 1: exact for any size, on all cores.

    ``x`` has any shape. Equal magnitudes take one place each, both zeros are equal, and NaN counts
    as larger than infinity. Raises InputError for an array without elements and for k outside
    1 to x.size.

    >>> float(kth_magnitude(np.float32([1, -3, 2, -3]), 2))
    3.0
    """
    values = arguments.array("x", x)
    if values.size == 0:
        raise InputError("x: found no elements, expected at least one to rank")
    rank = arguments.whole("k", k, 1, values.size)
    plan = native.Plan(False)
    plan.add_job(values.size, [place(values)], [])
    ((found,),) = plan.select([native.Unit([0], [rank])], False, limits_in_memory(None))
    if found.bits > INFINITY_BITS:
        return np.float32(np.nan)
    return np.int32(found.bits).view(np.float32)


def trim(x: Array, density: float, *, equal: str = "keep") -> Array:
    """The entries of ``x`` of largest magnitude, and +0 elsewhere: the trim of TIES.

    With k = int(x.size * density), ``equal="keep"`` keeps every entry that reaches the (k + 1)-th
    largest magnitude, as the authors' code does: k + 1 entries, and more where magnitudes are
    equal. ``equal="first"`` keeps exactly k, the first in row-major order among equal ones. Density
    1 keeps everything, density 0 nothing. Zeros that stay keep their sign; NaN counts as the
    largest magnitude. Returns the shape and dtype of ``x``. Raises InputError for a density outside
    0 to 1.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> trim(np.float32([1, -4, 2, -3, 0]), 0.2)
    array([ 0., -4.,  0., -3.,  0.], dtype=float32)
    >>> trim(np.float32([1, -4, 2, -4, 0]), 0.2, equal="first")
    array([ 0., -4.,  0.,  0.,  0.], dtype=float32)
    """
    values = arguments.array("x", x)
    share = arguments.number("density", density, 0, 1)
    arguments.choice("equal", equal, ("keep", "first"))
    out = np.empty_like(values)
    work = Work(
        name="x",
        n_elements=values.size,
        inputs=(place(values),),
        outputs=(place(out),),
        weights=(1.0,),
        densities=(share,),
        scale=1.0,
        n_input_bytes=0,
    )
    rule = trimmed(Vote.NONE, Blend.SUM, equal=Equal(equal))
    limits = limits_in_memory(None)
    passes = Passes(native.Plan(False), [work], rule, PAPER, limits, labels=["x"])
    passes.survey_model()
    passes.combine([0])
    (found,) = passes.model.trims
    if found.floor == KEEP_ALL:
        # Only here do zeros stay, and the kernel's sums, which start at +0, have lost their sign.
        n_kept = values.size if found.last_job is None else found.last_count
        entries, kept = values.reshape(-1)[:n_kept], out.reshape(-1)[:n_kept]
        with np.errstate(invalid="ignore"):  # comparing a signalling NaN
            np.copyto(kept, entries, where=entries == 0)
    return out


def elect_signs(
    deltas: Deltas, weights: Weights = None, *, vote: str = "sum", zero: str = "majority"
) -> npt.NDArray[np.int8]:
    """The elected sign of each element, int8 of -1, 0 and 1 in the shape of one delta.

    ``vote="sum"``: the sign of the in-order sum of y_t; ``vote="count"``: that of the number of
    positive y_t minus the number of negative ones. A vote of exactly zero takes the sign that
    ``zero`` says: "positive", "negative", "drop" (0), or "majority": that of the sum of all signs
    elected without it, negative if that is zero too. A sum that is NaN elects 0; a NaN entry is
    neither positive nor negative when entries are counted. Raises InputError for shapes or dtypes
    that differ.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> elect_signs([np.float32([1, -3, 2]), np.float32([-1, -1, -1])])
    array([-1, -1,  1], dtype=int8)
    """
    rows = [widened(row) for row in arguments.arrays("deltas", deltas)]
    factors = arguments.weights(weights, len(rows))
    by_count = arguments.choice("vote", vote, ("sum", "count")) == "count"
    policy = Zero(arguments.choice("zero", zero, [choice.value for choice in Zero]))
    out = np.empty(rows[0].shape, np.int8)

    def elect(zero_sign: int) -> int:
        deltas = [row.ctypes.data for row in rows]
        return native.elect_signs(deltas, factors, by_count, zero_sign, out.ctypes.data, out.size)

    if elect(ZERO_SIGNS[policy]) > 0 and policy is Zero.MAJORITY:
        elect(1)
    return out


def disjoint_merge(
    deltas: Deltas,
    signs: npt.NDArray[np.int8],
    weights: Weights = None,
    *,
    blend: str = "mean",
) -> Array:
    """One value per element from the entries that agree with its elected sign.

    ``signs`` is int8 in the shape of one delta; y_t agrees when it is not zero and has the sign.
    Over the agreeing entries, in order: "mean": sum of y_t over their number; "sum": sum of y_t;
    "max": the y_t of largest magnitude; "weighted_mean": sum of y_t over the sum of their weights,
    a divisor of exactly 0 counting as 1. +0 where nothing agrees. Where the sum of all y_t is NaN
    (a NaN, or both infinities) so is the result. Returns the shape and dtype of one delta. Raises
    InputError for shapes or dtypes that differ.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> disjoint_merge(np.float32([[1, -2], [3, 4]]), np.int8([1, -1]))
    array([ 2., -2.], dtype=float32)
    """
    rows = arguments.arrays("deltas", deltas)
    factors = arguments.weights(weights, len(rows))
    rule = BLENDS_OF_AGREEING[arguments.choice("blend", blend, BLENDS_OF_AGREEING)]
    if not isinstance(signs, np.ndarray) or signs.dtype != np.int8:
        found = signs.dtype if isinstance(signs, np.ndarray) else type(signs).__name__
        raise InputError(f"signs: found {found}, expected a NumPy array of int8")
    arguments.same_shape("signs", signs, "deltas[0]", rows[0])
    elected = arguments.contiguous(signs)
    wide = [widened(row) for row in rows]
    out = np.empty(rows[0].shape, np.float32)
    native.disjoint_merge(
        [row.ctypes.data for row in wide],
        factors,
        elected.ctypes.data,
        BLEND_CODES[rule],
        out.ctypes.data,
        out.size,
    )
    return narrowed(out, rows[0].dtype)


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
    """TIES of one array: trim each task vector, elect signs, average what agrees.

    y_t = w_t trim(f_t - base); s = sign(sum_t y_t); out = base + scale * mean{y_t : sign(y_t) = s}.

    ``experts`` are N arrays in the shape of ``base``, or one array [N, ...]; dtypes may differ, and
    the result has the base's. ``density`` is one share or one per expert. Equal magnitudes are
    treated as ``trim`` does, zero sums take the majority over the array, zeros never agree, and NaN
    and infinities reach the result where they stay. ``semantics="mergekit"`` gives that tool's
    result. ``threads`` defaults to all cores. Raises InputError for shapes that differ and numbers
    out of range.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> base, experts = np.zeros(4, np.float32), np.float32([[4, 1, -2, 0], [2, -3, 1, 0]])
    >>> ties(base, experts, density=0.5)
    array([ 3., -3., -2.,  0.], dtype=float32)
    """
    template = arguments.array("base", base)
    rows = arguments.arrays("experts", experts, one_dtype=False)
    arguments.same_shape("experts[0]", rows[0], "base", template)
    # The other semantics have no such parameter, and say so when it is given.
    options: dict[str, Any] = {} if equal == "keep" else {"equal": equal}
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
    return merged


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
    """Any gate, vote and blend that is compiled, on one array: out = base + scale * merged.

    y_t = w_t gate(f_t - base); s is the sign that the vote elects; the blend makes one value of the
    y_t of an element, or of those that agree with s. ``base`` may be None: the experts are then
    task vectors, and the result is scale * merged in the shape and dtype of the first.

    ``gate="magnitude"`` needs a ``density`` as ``ties`` does and treats equal magnitudes as
    ``trim`` does; ``gate="all"`` takes none. A vote of exactly zero takes the sign that ``zero``
    says, as in ``elect_signs``; ``vote="none"`` elects none. ``blend="mean"`` divides by the sum of
    the weights. Zeros never agree; NaN and infinities reach the result where they stay. Arguments
    are otherwise those of ``ties``. Raises InputError for shapes that differ, numbers out of range,
    and combinations that are not compiled, with a list of those that are.

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
    passes = Passes(native.Plan(base is not None), [work], rule, PAPER, limits, labels=labels)
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
    arguments.choice("equal", equal, ("keep", "first"))
    if Gate(gate) is Gate.MAGNITUDE:
        return trimmed(Vote(vote), Blend(blend), policy, equal=Equal(equal))
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


def gram(deltas: Deltas) -> npt.NDArray[np.float64]:
    """Inner products of the task vectors, G[s, t] = sum of x_s * x_t over all elements.

    Returns float64 [N, N], exactly symmetric. A product of two float32 values is exact in float64;
    each stretch of 2048 elements is summed in eight interleaved parts, 32 stretches in order, and
    what they make in order, so that the sum over n elements is off by at most
    (n / 65536 + 290) * 2**-53 times that of |x_s * x_t|. Raises InputError for shapes or dtypes
    that differ.

    >>> gram(np.float32([[1, 2], [3, -1]]))
    array([[ 5.,  1.],
           [ 1., 10.]])
    """
    rows = [widened(row) for row in arguments.arrays("deltas", deltas)]
    products = np.empty((len(rows), len(rows)))
    for i, x in enumerate(rows):
        for j, y in enumerate(rows[: i + 1]):
            dot = native.dot(x.ctypes.data, y.ctypes.data, x.size)
            products[i, j] = products[j, i] = dot
    return products
