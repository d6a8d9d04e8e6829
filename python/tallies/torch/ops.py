"""The operators ``torch.ops.tallies.*``: their schemas, CPU kernels and shapes.

Every operator checks its arguments before a kernel reads an address, so that one called directly is
as safe as its function. Results are new tensors without a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import _core, methods
from ..arguments import choice, number, whole
from ..methods._spec import Blend, Gate, Rule, Vote, Zero
from ..native import BLEND_CODES, BLENDS_OF_AGREEING, INFINITY_BITS, KEEP_ALL, ZERO_SIGNS
from ..passes import Passes, Work
from ..state_dicts import limits_in_memory, merge_state_dicts
from . import arguments
from .arguments import laid_out, narrowed, place, widened

LIBRARY: Final[Any] = torch.library.Library("tallies", "DEF")  # type: ignore[no-untyped-call]

# Elements that block_dots widens at a time: 512 KiB of float32 for the two sides.
TILE: Final = 1 << 16

ZEROS: Final = tuple(zero.value for zero in Zero)
BLENDS: Final = tuple(BLENDS_OF_AGREEING)
EQUALS: Final = ("keep", "first")
SEMANTICS: Final = tuple(methods.get("ties").semantics)

Kernel = TypeVar("Kernel", bound=Callable[..., Tensor])


def operator(schema: str, shape: Callable[..., Tensor]) -> Callable[[Kernel], Kernel]:
    """Registers a CPU kernel; ``shape`` makes its result for tensors that hold no values."""

    def register(kernel: Kernel) -> Kernel:
        name = schema.partition("(")[0]
        LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
        LIBRARY.impl(name, kernel, "CPU")
        # Without it torch would hang a node that only warns on every result.
        LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
        torch.library.register_fake(f"tallies::{name}", shape, lib=LIBRARY)
        return kernel

    return register


def _like_first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.new_empty(x.shape)


def _like_rows(rows: Sequence[Tensor], *_: Any, **__: Any) -> Tensor:
    return rows[0].new_empty(rows[0].shape)


def _packed_like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8)


@operator(
    "kth_magnitude(Tensor x, SymInt k) -> Tensor",
    lambda x, k: x.new_empty((), dtype=torch.float32),
)
def kth_magnitude(x: Tensor, k: int) -> Tensor:
    values = laid_out(arguments.tensor("x", x))
    at = arguments.rank(values, k)
    plan = _core.Plan(False)
    plan.add_job(values.numel(), [place(values)], [])
    ((found,),) = plan.select([_core.Unit([0], [at])], False, limits_in_memory(None))
    if found.bits > INFINITY_BITS:
        return torch.tensor(math.nan, dtype=torch.float32)
    return torch.tensor(found.bits, dtype=torch.int32).view(torch.float32)


@operator('trim(Tensor x, float density, *, str equal="keep") -> Tensor', _like_first)
def trim(x: Tensor, density: float, *, equal: str = "keep") -> Tensor:
    values = laid_out(arguments.tensor("x", x))
    share = number("density", density, 0, 1)
    choice("equal", equal, EQUALS)
    out = torch.empty(values.shape, dtype=values.dtype)
    work = Work(
        name="x",
        n_elements=values.numel(),
        inputs=(place(values),),
        outputs=(place(out),),
        weights=(1.0,),
        densities=(share,),
        scale=1.0,
        n_input_bytes=0,
    )
    rule = Rule(Gate.MAGNITUDE, Vote.NONE, Blend.SUM, equal=equal)
    passes = Passes(_core.Plan(False), [work], rule, "paper", limits_in_memory(None), labels=["x"])
    passes.survey_model()
    passes.combine([0])
    (found,) = passes.survey
    if found.floor == KEEP_ALL:
        # Only here do zeros stay, and the kernel's sums, which start at +0, have lost their sign.
        n_kept = values.numel() if found.last_job is None else found.last_count
        entries, kept = values.view(-1)[:n_kept], out.view(-1)[:n_kept]
        kept.copy_(torch.where(entries == 0, entries, kept))
    return out


@operator("magnitude_mask(Tensor x, float threshold) -> Tensor", _packed_like)
def magnitude_mask(x: Tensor, threshold: float) -> Tensor:
    values = widened(arguments.tensor("x", x))
    least = arguments.threshold(threshold)
    if math.isnan(least):
        floor = INFINITY_BITS
    else:
        with np.errstate(over="ignore"):
            rounded = np.float32(least)
        floor = int(np.abs(rounded).view(np.int32)) - 1
    out = _empty_mask(values.numel())
    _core.magnitude_mask(values.data_ptr(), floor, out.data_ptr(), values.numel())
    return out


@operator("tall_mask(Tensor expert_delta, Tensor merged_delta, float lam) -> Tensor", _packed_like)
def tall_mask(expert_delta: Tensor, merged_delta: Tensor, lam: float) -> Tensor:
    x = arguments.tensor("expert_delta", expert_delta)
    m = arguments.tensor("merged_delta", merged_delta)
    arguments.same_shape("merged_delta", m, "expert_delta", x)
    factor = number("lam", lam, 0)
    wide = widened(x), widened(m)
    out = _empty_mask(x.numel())
    _core.tall_mask(wide[0].data_ptr(), wide[1].data_ptr(), factor, out.data_ptr(), x.numel())
    return out


@operator(
    "consensus_mask(Tensor[] packed_masks, SymInt n, SymInt k) -> Tensor",
    lambda packed_masks, n, k: packed_masks[0].new_empty((n + 7) // 8),
)
def consensus_mask(packed_masks: list[Tensor], n: int, k: int) -> Tensor:
    n_elements, at_least = whole("n", n, 0, 2**62), whole("k", k, 0, 2**31 - 1)
    masks = [laid_out(mask) for mask in arguments.packed_masks(packed_masks, n_elements)]
    out = _empty_mask(n_elements)
    _core.consensus_mask([mask.data_ptr() for mask in masks], at_least, out.data_ptr(), n_elements)
    return out


@operator("pack_bits(Tensor mask) -> Tensor", _packed_like)
def pack_bits(mask: Tensor) -> Tensor:
    bits = arguments.tensor("mask", mask, (torch.bool,)).contiguous()
    return torch.from_numpy(np.packbits(bits.numpy(), bitorder="little"))


@operator(
    "unpack_bits(Tensor packed, SymInt n) -> Tensor",
    lambda packed, n: packed.new_empty(n, dtype=torch.bool),
)
def unpack_bits(packed: Tensor, n: int) -> Tensor:
    n_elements = whole("n", n, 0, 2**62)
    bits = arguments.packed("packed", packed, n_elements).contiguous()
    unpacked = np.unpackbits(bits.numpy(), count=n_elements, bitorder="little")
    return torch.from_numpy(unpacked.view(np.bool_))


@operator(
    "apply_mask(Tensor base, Tensor shared, Tensor packed, float scale=1.0) -> Tensor", _like_first
)
def apply_mask(base: Tensor, shared: Tensor, packed: Tensor, scale: float = 1.0) -> Tensor:
    origin, added = arguments.tensor("base", base), arguments.tensor("shared", shared)
    arguments.same_shape("shared", added, "base", origin)
    mask = laid_out(arguments.packed("packed", packed, origin.numel()))
    factor = number("scale", scale)
    wide = widened(origin), widened(added)
    out = torch.empty(origin.shape, dtype=torch.float32)
    _core.apply_mask(
        wide[0].data_ptr(),
        wide[1].data_ptr(),
        mask.data_ptr(),
        factor,
        out.data_ptr(),
        out.numel(),
    )
    return narrowed(out, origin.dtype)


@operator(
    'elect_signs(Tensor[] deltas, float[]? weights=None, *, str vote="sum", str zero="majority") '
    "-> Tensor",
    lambda deltas, *_, **__: deltas[0].new_empty(deltas[0].shape, dtype=torch.int8),
)
def elect_signs(
    deltas: list[Tensor],
    weights: list[float] | None = None,
    *,
    vote: str = "sum",
    zero: str = "majority",
) -> Tensor:
    rows = arguments.tensors("deltas", deltas)
    factors = arguments.weights(weights, len(rows))
    by_count = choice("vote", vote, ("sum", "count")) == "count"
    policy = Zero(choice("zero", zero, ZEROS))
    wide = [widened(row) for row in rows]
    out = torch.empty(rows[0].shape, dtype=torch.int8)

    def elect(zero_sign: int) -> int:
        places = [row.data_ptr() for row in wide]
        return _core.elect_signs(places, factors, by_count, zero_sign, out.data_ptr(), out.numel())

    if elect(ZERO_SIGNS[policy]) > 0 and policy is Zero.MAJORITY:
        elect(1)
    return out


@operator(
    'disjoint_merge(Tensor[] deltas, Tensor signs, float[]? weights=None, *, str blend="mean") '
    "-> Tensor",
    _like_rows,
)
def disjoint_merge(
    deltas: list[Tensor],
    signs: Tensor,
    weights: list[float] | None = None,
    *,
    blend: str = "mean",
) -> Tensor:
    rows = arguments.tensors("deltas", deltas)
    factors = arguments.weights(weights, len(rows))
    rule = BLENDS_OF_AGREEING[choice("blend", blend, BLENDS)]
    elected = laid_out(arguments.signs(signs, rows[0]))
    wide = [widened(row) for row in rows]
    out = torch.empty(rows[0].shape, dtype=torch.float32)
    _core.disjoint_merge(
        [row.data_ptr() for row in wide],
        factors,
        elected.data_ptr(),
        BLEND_CODES[rule],
        out.data_ptr(),
        out.numel(),
    )
    return narrowed(out, rows[0].dtype)


@operator(
    "ties(Tensor base, Tensor[] experts, *, float[] density, float scale=1.0, "
    'float[]? weights=None, str equal="keep", str semantics="paper", int? threads=None) -> Tensor',
    _like_first,
)
def ties(
    base: Tensor,
    experts: list[Tensor],
    *,
    density: list[float],
    scale: float = 1.0,
    weights: list[float] | None = None,
    equal: str = "keep",
    semantics: str = "paper",
    threads: int | None = None,
) -> Tensor:
    template = arguments.tensor("base", base)
    rows = arguments.tensors("experts", experts, one_dtype=False)
    arguments.same_shape("experts[0]", rows[0], "base", template)
    # The other semantics have no such parameter, and say so when it is given.
    options: dict[str, Any] = {} if equal == "keep" else {"equal": equal}
    merged: Tensor = merge_state_dicts(
        {"base": laid_out(template)},
        [{"base": laid_out(row)} for row in rows],
        method="ties",
        weights=arguments.weights(weights, len(rows)),
        semantics=semantics,
        nonfinite="propagate",
        threads=threads,
        density=arguments.densities(density, len(rows)),
        scale=scale,
        **options,
    )["base"]
    return merged


@operator(
    "gram(Tensor[] deltas) -> Tensor",
    lambda deltas: deltas[0].new_empty((len(deltas), len(deltas)), dtype=torch.float64),
)
def gram(deltas: list[Tensor]) -> Tensor:
    rows = [widened(row) for row in arguments.tensors("deltas", deltas)]
    products = torch.empty((len(rows), len(rows)), dtype=torch.float64)
    for i, x in enumerate(rows):
        for j, y in enumerate(rows[: i + 1]):
            products[i, j] = products[j, i] = _core.dot(x.data_ptr(), y.data_ptr(), x.numel())
    return products


@operator(
    "block_dots(Tensor grad, Tensor[] deltas) -> Tensor",
    lambda grad, deltas: grad.new_empty(len(deltas), dtype=torch.float64),
)
def block_dots(grad: Tensor, deltas: list[Tensor]) -> Tensor:
    rows = arguments.tensors("deltas", deltas, one_dtype=False)
    arguments.same_shape("grad", arguments.tensor("grad", grad), "deltas[0]", rows[0])
    sums = [0.0] * len(rows)
    flat = [laid_out(row).view(-1) for row in rows]
    along = laid_out(grad).view(-1)
    for first in range(0, along.numel(), TILE):
        x = widened(along[first : first + TILE])
        for i, row in enumerate(flat):
            y = widened(row[first : first + TILE])
            sums[i] += _core.dot(x.data_ptr(), y.data_ptr(), x.numel())
    return torch.tensor(sums, dtype=torch.float64)


def _empty_mask(n: int) -> Tensor:
    return torch.empty((n + 7) // 8, dtype=torch.uint8)
