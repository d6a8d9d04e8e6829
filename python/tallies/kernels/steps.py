"""The steps of a merge on NumPy arrays: select, trim, elect, blend, inner products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import tallies._core as native

from ..engine.codes import BLEND_CODES, INFINITY_BITS, KEEP_ALL, ZERO_SIGNS
from ..engine.jobs import Work
from ..engine.limits import limits_in_memory
from ..engine.passes import Passes
from ..errors import InputError
from ..spec.choices import PAPER, Equal
from ..spec.rules import BLENDS_OF_AGREEING, Blend, Vote, Zero, trimmed
from . import arguments
from .arguments import Array, Deltas, Weights, narrowed, place, widened


def kth_magnitude(x: Array, k: int) -> np.float32:
    """Return the k-th largest magnitude |x|, exact for any size, on all cores.

    Equal magnitudes take one place each, both zeros are equal, and NaN ranks above infinity.

    Args:
        x: An array of any shape.
        k: The rank, from 1 to x.size.

    Returns:
        The magnitude, float32.

    Raises:
        InputError: The array has no elements, or k is out of range.

    >>> float(kth_magnitude(np.float32([1, -3, 2, -3]), 2))
    3.0
    """
    values = arguments.array("x", x)
    if values.size == 0:
        raise InputError("x: found no elements, expected at least one to rank")
    rank = arguments.whole("k", k, 1, values.size)
    plan = native.Plan(False)
    plan.add_job(values.size, [place(values)], [])
    unit = native.Unit(jobs=[0], ranks=[rank])
    ((found,),) = plan.select(units=[unit], locate=False, limits=limits_in_memory(None))
    if found.bits > INFINITY_BITS:
        return np.float32(np.nan)
    return np.int32(found.bits).view(np.float32)


def trim(x: Array, density: float, *, equal: str = "keep") -> Array:
    """Keep the entries of largest magnitude and set the others to +0: the trim of TIES.

    Let k = int(x.size * density). Density 1 keeps everything, density 0 nothing. Kept zeros keep
    their sign, and NaN ranks above infinity.

    Args:
        x: An array of any shape.
        density: The share of entries to keep, from 0 to 1.
        equal: "keep" keeps every entry that reaches the (k + 1)-th largest magnitude, as the
            authors' code does: k + 1 entries, and more where magnitudes are equal. "first" keeps
            exactly k, among equal magnitudes the first in row-major order.

    Returns:
        A new array of the shape and dtype of ``x``.

    Raises:
        InputError: The density is out of range, or the word is unknown.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> trim(np.float32([1, -4, 2, -3, 0]), 0.2)
    array([ 0., -4.,  0., -3.,  0.], dtype=float32)
    >>> trim(np.float32([1, -4, 2, -4, 0]), 0.2, equal="first")
    array([ 0., -4.,  0.,  0.,  0.], dtype=float32)
    """
    values = arguments.array("x", x)
    share = arguments.number("density", density, 0, 1)
    among_equal = Equal(arguments.choice("equal", equal, Equal))
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
    rule = trimmed(Vote.NONE, Blend.SUM, equal=among_equal)
    limits = limits_in_memory(None)
    passes = Passes(native.Plan(False), [work], rule, PAPER, limits, labels=["x"], has_base=False)
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
    """Elect the sign of each element from the entries y_t = weight_t * delta_t.

    A sum that is NaN elects 0. A count takes a NaN entry as neither positive nor negative.

    Args:
        deltas: Task vectors of one shape and dtype.
        weights: A finite number for each task vector; 1 by default.
        vote: "sum" elects the sign of the sum of y_t, "count" the sign of the number of positive
            y_t minus the number of negative ones.
        zero: The sign where a vote is exactly zero: "positive", "negative", "drop" (0), or
            "majority", the sign of the sum of all other elected signs, negative if that sum is
            zero too.

    Returns:
        int8 of -1, 0 and 1 in the shape of one delta.

    Raises:
        InputError: Shapes or dtypes differ, or an argument is out of range.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> elect_signs([np.float32([1, -3, 2]), np.float32([-1, -1, -1])])
    array([-1, -1,  1], dtype=int8)
    """
    rows = [widened(row) for row in arguments.arrays("deltas", deltas)]
    factors = arguments.weights(weights, len(rows))
    by_count = Vote(arguments.choice("vote", vote, ("sum", "count"))) is Vote.COUNT
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
    """Blend the entries y_t = weight_t * delta_t that agree with each element's elected sign.

    An entry agrees when it is not zero and has the sign. The result is +0 where nothing agrees, and
    NaN where the sum of all y_t is NaN: one of them is, or both infinities are among them.

    Args:
        deltas: Task vectors of one shape and dtype.
        signs: The elected signs, int8 in the shape of one delta.
        weights: A finite number for each task vector; 1 by default.
        blend: "mean" divides the sum of the agreeing y_t by their number, "sum" does not divide,
            "max" takes the y_t of largest magnitude, and "weighted_mean" divides by the sum of the
            agreeing weights; a divisor of exactly 0 counts as 1.

    Returns:
        A new array of the shape and dtype of one delta.

    Raises:
        InputError: Shapes or dtypes differ, or an argument is out of range.

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


def gram(deltas: Deltas) -> npt.NDArray[np.float64]:
    """Return the inner products of task vectors, G[s, t] = sum of x_s * x_t over all elements.

    A product of two float32 values is exact in float64. Each stretch of 2048 elements is summed in
    eight interleaved parts, then 32 stretches in order, then all such sums in order. So the sum
    over n elements is off by at most (n / 65536 + 290) * 2**-53 times the sum of |x_s * x_t|. NaN
    and infinities reach the result.

    Args:
        deltas: Task vectors of one shape and dtype.

    Returns:
        float64 [N, N], exactly symmetric.

    Raises:
        InputError: Shapes or dtypes differ.

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
