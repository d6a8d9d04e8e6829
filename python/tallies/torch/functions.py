"""The functions on tensors, with the names and arguments of ``tallies.kernels``.

Tensors are float32, float16 or bfloat16, dense, on the CPU, of any shape and strides, and are never
changed. The bits are those of ``tallies.kernels``, as are equal magnitudes, zeros and NaN; sums run
in float32 in the order of the experts. Results carry no gradient.

``deltas`` are N tensors of one shape and dtype, or one tensor [N, ...]. Arguments are checked
first: InputError names the one that is wrong, what was found and expected. Each function is one
operator ``torch.ops.tallies.NAME``, which ``torch.compile`` takes whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import choice, number, whole
from . import arguments, ops

Deltas = Sequence[Tensor] | Tensor
Weights = Sequence[float] | Tensor | None

_OPS = torch.ops.tallies


def kth_magnitude(x: Tensor, k: int) -> Tensor:
    """The k-th largest magnitude |x|, counted from 1: a float32 tensor of no dimension.

    Equal magnitudes take one place each, both zeros are equal, and NaN counts as larger than
    infinity. Raises InputError for a tensor without elements and for k outside 1 to x.numel().

    >>> kth_magnitude(torch.tensor([1.0, -3.0, 2.0, -3.0]), 2)
    tensor(3.)
    """
    values = arguments.tensor("x", x)
    found: Tensor = _OPS.kth_magnitude(values, arguments.rank(values, k))
    return found


def trim(x: Tensor, density: float, *, equal: str = "keep") -> Tensor:
    """The entries of ``x`` of largest magnitude, and +0 elsewhere: the trim of TIES.

    With k = int(x.numel() * density), ``equal="keep"`` keeps every entry that reaches the
    (k + 1)-th largest magnitude, ``equal="first"`` exactly k, the first in row-major order among
    equal ones. Density 1 keeps everything, density 0 nothing; NaN counts as the largest magnitude.
    Returns the shape and dtype of ``x``. Raises InputError for a density outside 0 to 1.

    >>> trim(torch.tensor([1.0, -4.0, 2.0, -3.0, 0.0]), 0.2)
    tensor([ 0., -4.,  0., -3.,  0.])
    """
    values = arguments.tensor("x", x)
    share = number("density", density, 0, 1)
    kept: Tensor = _OPS.trim(values, share, equal=choice("equal", equal, ops.EQUALS))
    return kept


def magnitude_mask(x: Tensor, threshold: float | Tensor) -> Tensor:
    """Packed |x| >= threshold, the threshold rounded to float32: uint8 [(n + 7) // 8].

    Entries equal to the threshold are in, so that 0 takes everything. NaN reaches every threshold,
    and only NaN reaches NaN. The threshold may be what ``kth_magnitude`` returns; as a tensor it
    breaks a compiled graph. Raises InputError for a negative threshold.

    >>> unpack_bits(magnitude_mask(torch.tensor([1, -2, 3, -0.5]), 2), 4)
    tensor([False,  True,  True, False])
    """
    values = arguments.tensor("x", x)
    mask: Tensor = _OPS.magnitude_mask(values, arguments.threshold(threshold))
    return mask


def tall_mask(expert_delta: Tensor, merged_delta: Tensor, lam: float) -> Tensor:
    """Packed |x| > lam * |m - x|: where the merged task vector stands for one expert's own.

    x is the expert's task vector, m the merged one, of the same shape; dtypes may differ. Where
    both sides are equal, as where x and m are zero, or either is NaN, the bit is clear. Raises
    InputError for shapes that differ and for lam below 0.

    >>> x, m = torch.tensor([0.1, 1, 0]), torch.tensor([1.0, 1, 0])
    >>> unpack_bits(tall_mask(x, m, 0.4), 3)
    tensor([False,  True, False])
    """
    x = arguments.tensor("expert_delta", expert_delta)
    m = arguments.tensor("merged_delta", merged_delta)
    arguments.same_shape("merged_delta", m, "expert_delta", x)
    mask: Tensor = _OPS.tall_mask(x, m, number("lam", lam, 0))
    return mask


def consensus_mask(packed_masks: Sequence[Tensor] | Tensor, n: int, k: int) -> Tensor:
    """Packed: the elements that at least ``k`` of the masks contain.

    ``packed_masks`` are N packed masks of ``n`` elements, or one tensor [N, (n + 7) // 8]; bits
    past the n-th are ignored. k = 0 takes every element, k above N none. Raises InputError for
    masks of another length.

    >>> masks = [pack_bits(torch.tensor([True, True])), pack_bits(torch.tensor([True, False]))]
    >>> unpack_bits(consensus_mask(masks, 2, 2), 2)
    tensor([ True, False])
    """
    n_elements, at_least = whole("n", n, 0, 2**62), whole("k", k, 0, 2**31 - 1)
    masks = arguments.packed_masks(packed_masks, n_elements)
    found: Tensor = _OPS.consensus_mask(masks, n_elements, at_least)
    return found


def pack_bits(mask: Tensor) -> Tensor:
    """A boolean tensor of any shape as a packed mask, in row-major order.

    Bit i % 8 of byte i // 8 is element i; the bits after the last are zero. Raises InputError for
    another dtype.

    >>> pack_bits(torch.tensor([True, False, False, True]))
    tensor([9], dtype=torch.uint8)
    """
    packed: Tensor = _OPS.pack_bits(arguments.tensor("mask", mask, (torch.bool,)))
    return packed


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The ``n`` elements of a packed mask as a boolean tensor [n].

    Raises InputError for a mask of another length.

    >>> unpack_bits(torch.tensor([9], dtype=torch.uint8), 4)
    tensor([ True, False, False,  True])
    """
    n_elements = whole("n", n, 0, 2**62)
    mask: Tensor = _OPS.unpack_bits(arguments.packed("packed", packed, n_elements), n_elements)
    return mask


def apply_mask(base: Tensor, shared: Tensor, packed: Tensor, scale: float = 1.0) -> Tensor:
    """base + scale * (shared where the mask is set, +0 elsewhere): one expert reconstructed.

    ``base`` and ``shared`` have one shape, their dtypes may differ; the result has the shape and
    dtype of ``base``. Product and sum are rounded in float32, the result once. A NaN or infinity of
    ``shared`` counts only where the mask is set. Raises InputError for shapes that differ and a
    mask of another length.

    >>> packed = torch.tensor([5], dtype=torch.uint8)
    >>> apply_mask(torch.ones(3), torch.tensor([2.0, 4, 6]), packed, 0.5)
    tensor([2., 1., 4.])
    """
    origin, added = arguments.tensor("base", base), arguments.tensor("shared", shared)
    arguments.same_shape("shared", added, "base", origin)
    mask = arguments.packed("packed", packed, origin.numel())
    rebuilt: Tensor = _OPS.apply_mask(origin, added, mask, number("scale", scale))
    return rebuilt


def elect_signs(
    deltas: Deltas, weights: Weights = None, *, vote: str = "sum", zero: str = "majority"
) -> Tensor:
    """The elected sign of each element, int8 of -1, 0 and 1 in the shape of one delta.

    With y_t = weight_t * delta_t, ``vote="sum"`` takes the sign of the in-order sum of y_t,
    ``vote="count"`` that of the number of positive y_t minus the number of negative ones. A vote of
    exactly zero takes the sign that ``zero`` says: "positive", "negative", "drop" (0), or
    "majority": that of the sum of all signs elected without it, negative if that is zero too. A sum
    that is NaN elects 0. Raises InputError for shapes or dtypes that differ.

    >>> elect_signs([torch.tensor([1.0, -3, 2]), torch.tensor([-1.0, -1, -1])])
    tensor([-1, -1,  1], dtype=torch.int8)
    """
    rows = arguments.tensors("deltas", deltas)
    factors = None if weights is None else arguments.weights(weights, len(rows))
    choice("vote", vote, ("sum", "count"))
    choice("zero", zero, ops.ZEROS)
    signs: Tensor = _OPS.elect_signs(rows, factors, vote=vote, zero=zero)
    return signs


def disjoint_merge(
    deltas: Deltas, signs: Tensor, weights: Weights = None, *, blend: str = "mean"
) -> Tensor:
    """One value per element from the entries that agree with its elected sign.

    ``signs`` is int8 in the shape of one delta; y_t = weight_t * delta_t agrees when it is not zero
    and has the sign. Over the agreeing entries, in order: "mean": sum of y_t over their number;
    "sum": sum of y_t; "max": the y_t of largest magnitude; "weighted_mean": sum of y_t over the sum
    of their weights, a divisor of exactly 0 counting as 1. +0 where nothing agrees, NaN where the
    sum of all y_t is. Returns the shape and dtype of one delta. Raises InputError for shapes or
    dtypes that differ.

    >>> signs = torch.tensor([1, -1], dtype=torch.int8)
    >>> disjoint_merge(torch.tensor([[1.0, -2], [3, 4]]), signs)
    tensor([ 2., -2.])
    """
    rows = arguments.tensors("deltas", deltas)
    elected = arguments.signs(signs, rows[0])
    factors = None if weights is None else arguments.weights(weights, len(rows))
    choice("blend", blend, ops.BLENDS)
    merged: Tensor = _OPS.disjoint_merge(rows, elected, factors, blend=blend)
    return merged


def ties(
    base: Tensor,
    experts: Deltas,
    *,
    density: float | Sequence[float] | Tensor,
    scale: float = 1.0,
    weights: Weights = None,
    equal: str = "keep",
    semantics: str = "paper",
    threads: int | None = None,
) -> Tensor:
    """TIES of one tensor: trim each task vector, elect signs, average what agrees.

    y_t = w_t trim(f_t - base); s = sign(sum_t y_t); out = base + scale * mean{y_t : sign(y_t) = s}.

    ``experts`` are N tensors in the shape of ``base``, or one tensor [N, ...]; dtypes may differ,
    and the result has the base's. ``density`` is one share from 0 to 1 or one per expert. Equal
    magnitudes are treated as ``trim`` does, zero sums take the majority over the tensor, zeros
    never agree, and NaN and infinities reach the result where they stay. ``semantics="mergekit"``
    gives that tool's result. ``threads`` defaults to all cores. Raises InputError for shapes that
    differ and numbers out of range.

    >>> experts = torch.tensor([[4.0, 1, -2, 0], [2, -3, 1, 0]])
    >>> ties(torch.zeros(4), experts, density=0.5)
    tensor([ 3., -3., -2.,  0.])
    """
    template = arguments.tensor("base", base)
    rows = arguments.tensors("experts", experts, one_dtype=False)
    arguments.same_shape("experts[0]", rows[0], "base", template)
    merged: Tensor = _OPS.ties(
        template,
        rows,
        density=arguments.densities(density, len(rows)),
        scale=number("scale", scale),
        weights=None if weights is None else arguments.weights(weights, len(rows)),
        equal=choice("equal", equal, ops.EQUALS),
        semantics=choice("semantics", semantics, ops.SEMANTICS),
        threads=None if threads is None else whole("threads", threads, 1, 1024),
    )
    return merged


def gram(deltas: Deltas) -> Tensor:
    """Inner products of the task vectors, G[s, t] = sum of x_s * x_t over all elements.

    Returns float64 [N, N], exactly symmetric. A product of two float32 values is exact in float64;
    the sum runs in eight interleaved parts, so that for n elements it is off by at most
    (n / 8 + 4) * 2**-53 times the sum of |x_s * x_t|. NaN and infinities reach the result. Raises
    InputError for shapes or dtypes that differ.

    >>> gram(torch.tensor([[1.0, 2], [3, -1]]))
    tensor([[ 5.,  1.],
            [ 1., 10.]], dtype=torch.float64)
    """
    products: Tensor = _OPS.gram(arguments.tensors("deltas", deltas))
    return products


def block_dots(grad: Tensor, deltas: Deltas) -> Tensor:
    """Inner products of one gradient with every task vector, d[t] = sum of grad * x_t: float64 [N].

    This is the gradient of a weighted sum's coefficients. ``grad`` has the shape of one delta;
    dtypes may differ. Products are exact in float64; each stretch of 65536 elements is summed in
    eight interleaved parts, and the stretches in order, without a temporary of the tensors' size
    where they are contiguous. NaN and infinities reach the result. Raises InputError for shapes
    that differ.

    >>> block_dots(torch.tensor([1.0, 2]), torch.tensor([[1.0, 2], [3, -1]]))
    tensor([5., 1.], dtype=torch.float64)
    """
    rows = arguments.tensors("deltas", deltas, one_dtype=False)
    arguments.same_shape("grad", arguments.tensor("grad", grad), "deltas[0]", rows[0])
    dots: Tensor = _OPS.block_dots(grad, rows)
    return dots
