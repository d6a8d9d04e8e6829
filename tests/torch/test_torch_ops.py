"""The operators on tensors: the bits of tallies.kernels and of the reference, and torch's rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tallies.torch as functions
from tallies import InputError, kernels
from tests.reference import blend, combine, elect, select, ties
from tests.reference import masks as reference
from tests.reference.dtype import narrow
from tests.support import strategies
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.strategies import KERNEL_DTYPES, Group

Array = npt.NDArray[Any]

VOTES = ("sum", "count")
ZEROS = ("majority", "positive", "negative", "drop")
BLENDS = ("mean", "sum", "max", "weighted_mean")
CELL = 1 << 16
"""Elements over which sums of products are added up before they are added to the others."""
BF16 = next(dtype for dtype in KERNEL_DTYPES if dtype.name == "bfloat16")


def tensor_of(x: Array) -> Tensor:
    """The same bits as a tensor of its own."""
    if x.dtype == BF16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def array_of(x: Tensor) -> Array:
    assert x.is_contiguous() and not x.requires_grad
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(BF16)
    return x.numpy()


@st.composite
def arranged(draw: st.DrawFn, x: Array) -> Tensor:
    """The elements of ``x`` as a tensor of some strides, alignment and need of a gradient."""
    plain = tensor_of(x)
    kind = draw(st.sampled_from(["plain", "strided", "unaligned", "negated", "grad"]))
    if kind == "strided":
        return plain.repeat_interleave(2)[::2]
    if kind == "unaligned" and x.size:
        return torch.frombuffer(bytearray(b"\0" + x.tobytes()), dtype=plain.dtype, offset=1)
    if kind == "negated" and plain.dtype == torch.float32 and not np.isnan(x).any():
        return torch.complex(torch.zeros_like(plain), -plain).conj().imag
    return plain.requires_grad_(kind == "grad" and plain.is_floating_point())


@st.composite
def tensors(draw: st.DrawFn, min_size: int = 0) -> tuple[Array, Tensor]:
    """An array of the kernels' types and the tensor of the same elements."""
    x = draw(strategies.arrays(draw(st.sampled_from(KERNEL_DTYPES)), min_size))
    return x, draw(arranged(x))


@st.composite
def groups(draw: st.DrawFn, max_experts: int = 4) -> Group:
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    return draw(strategies.groups(dtype, max_experts=max_experts))


@st.composite
def deltas(draw: st.DrawFn) -> tuple[list[Array], list[Tensor] | Tensor]:
    """Task vectors as arrays and as tensors, in a list or stacked."""
    rows = list(draw(groups()).experts)
    if draw(st.booleans()):
        axis = draw(st.sampled_from([0, 1]))
        return rows, torch.stack([tensor_of(row) for row in rows], axis).movedim(axis, 0)
    return rows, [draw(arranged(row)) for row in rows]


def assert_everywhere(compute: Callable[[], Tensor], *expected: Array | np.generic) -> None:
    """Every instruction set gives the bits of all that is expected."""
    for result in on_every_target(compute).values():
        for one in expected:
            actual = array_of(result)
            assert_same_bits(actual, np.asarray(one))


# Values.


@given(tensors(min_size=1), st.data())
def test_kth_magnitude(pair: tuple[Array, Tensor], data: st.DataObject) -> None:
    x, t = pair
    k = data.draw(st.integers(1, x.size))
    assert_everywhere(
        lambda: functions.kth_magnitude(t, k),
        select.kth_magnitude(x, k),
        kernels.kth_magnitude(x, k),
    )


@given(tensors(), strategies.densities(), st.sampled_from(["keep", "first"]))
def test_trim(pair: tuple[Array, Tensor], density: float, equal: str) -> None:
    x, t = pair
    assert_everywhere(
        lambda: functions.trim(t, density, equal=equal),
        narrow(select.trim(x, density, equal), x.dtype),
        kernels.trim(x, density, equal=equal),
    )


@given(tensors(), st.data())
def test_magnitude_mask(pair: tuple[Array, Tensor], data: st.DataObject) -> None:
    x, t = pair
    own = [float(abs(value)) for value in x[:8].astype(np.float32)]
    edges: list[Any] = [0.0, -0.0, np.inf, np.nan, np.float32(np.nan), 1e-45, 1e300]
    threshold = data.draw(st.sampled_from([*own, *edges]) | st.floats(0, width=32))
    with np.errstate(over="ignore"):
        expected = reference.magnitude_mask(x, np.float32(threshold))
    assert_everywhere(
        lambda: functions.magnitude_mask(t, threshold),
        expected,
        kernels.magnitude_mask(x, threshold),
    )


@given(tensors(min_size=1), st.data())
def test_a_threshold_may_be_a_tensor(pair: tuple[Array, Tensor], data: st.DataObject) -> None:
    x, t = pair
    k = data.draw(st.integers(1, x.size))
    expected = kernels.magnitude_mask(x, kernels.kth_magnitude(x, k))
    assert_everywhere(lambda: functions.magnitude_mask(t, functions.kth_magnitude(t, k)), expected)


@given(deltas(), st.sampled_from(VOTES), st.sampled_from(ZEROS), st.data())
def test_elect_signs(
    pair: tuple[list[Array], Any], vote: str, zero: str, data: st.DataObject
) -> None:
    rows, x = pair
    weights = data.draw(strategies.weights(len(rows)))
    assert_everywhere(
        lambda: functions.elect_signs(x, weights, vote=vote, zero=zero),
        elect.elect_signs(np.stack(rows), weights, vote, zero),
        kernels.elect_signs(rows, weights, vote=vote, zero=zero),
    )


@given(deltas(), st.sampled_from(BLENDS), st.data())
def test_disjoint_merge(pair: tuple[list[Array], Any], kind: str, data: st.DataObject) -> None:
    rows, x = pair
    weights = data.draw(strategies.weights(len(rows)))
    n = rows[0].size
    raw = np.frombuffer(data.draw(st.binary(min_size=n, max_size=n)), np.int8)
    signs = raw if data.draw(st.booleans()) else raw % 3 - np.int8(1)
    elected = tensor_of(signs)
    assert_everywhere(
        lambda: functions.disjoint_merge(x, elected, weights, blend=kind),
        narrow(blend.disjoint_merge(np.stack(rows), signs, weights, kind), rows[0].dtype),
        kernels.disjoint_merge(rows, signs, weights, blend=kind),
    )


@given(groups(), strategies.scales(), st.data())
def test_ties(group: Group, scale: float, data: st.DataObject) -> None:
    n = len(group.experts)
    weights = data.draw(strategies.weights(n))
    semantics = data.draw(st.sampled_from(["paper", "mergekit"]))
    equal = data.draw(st.sampled_from(["keep", "first"])) if semantics == "paper" else "keep"
    one = strategies.densities()
    density = data.draw(one | st.lists(one, min_size=n, max_size=n))
    threads = data.draw(st.sampled_from([None, 1, 3]))
    casts = data.draw(st.lists(st.sampled_from(KERNEL_DTYPES), min_size=n, max_size=n))
    with np.errstate(all="ignore"):
        experts = [x.astype(dtype) for x, dtype in zip(group.experts, casts, strict=True)]
    base = data.draw(arranged(group.base))
    rows = [data.draw(arranged(x)) for x in experts]
    options: dict[str, Any] = {
        "density": density,
        "scale": scale,
        "weights": weights,
        "equal": equal,
        "semantics": semantics,
        "threads": threads,
    }
    assert_everywhere(
        lambda: functions.ties(base, rows, **options),
        ties.ties(group.base, experts, density, weights, scale, equal=equal, semantics=semantics),
        kernels.ties(group.base, experts, **options),
    )


@given(groups(), st.booleans(), st.data())
def test_combine(group: Group, has_base: bool, data: st.DataObject) -> None:
    n = len(group.experts)
    options = data.draw(strategies.rules(n))
    casts = data.draw(st.lists(st.sampled_from(KERNEL_DTYPES), min_size=n, max_size=n))
    with np.errstate(all="ignore"):
        experts = [x.astype(dtype) for x, dtype in zip(group.experts, casts, strict=True)]
    rows = [data.draw(arranged(x)) for x in experts]
    origin = data.draw(arranged(group.base)) if has_base else None
    base = group.base if has_base else None
    assert_everywhere(
        lambda: functions.combine(origin, rows, **options),
        combine.combine(base, experts, **options),
    )


@given(groups(max_experts=2), st.floats(0, 3, width=32) | st.sampled_from([0.1, 1e-46, 3e38]))
def test_tall_mask(group: Group, lam: float) -> None:
    x, m = group.experts[0], group.experts[-1].astype(np.float32)
    rows = tensor_of(x), tensor_of(m)
    assert_everywhere(
        lambda: functions.tall_mask(*rows, lam),
        reference.tall_mask(x, m, lam),
        kernels.tall_mask(x, m, lam),
    )


@given(strategies.sizes(max_size=300), st.data())
def test_consensus_mask(n: int, data: st.DataObject) -> None:
    n_masks = data.draw(st.integers(1, 9))
    n_bytes = (n + 7) // 8
    raw = data.draw(st.binary(min_size=n_masks * n_bytes, max_size=n_masks * n_bytes))
    # Bits past the n-th are set as well: they must not come through.
    packed = np.frombuffer(raw, np.uint8).reshape(n_masks, n_bytes)
    k = data.draw(st.integers(0, n_masks + 1))
    stacked = tensor_of(packed)
    masks = stacked if data.draw(st.booleans()) else [row[:] for row in stacked]
    assert_everywhere(
        lambda: functions.consensus_mask(masks, n, k),
        reference.consensus_mask(list(packed), n, k),
        kernels.consensus_mask(packed, n, k),
    )


@given(strategies.sizes(max_size=300), st.data())
def test_pack_bits_and_back(n: int, data: st.DataObject) -> None:
    mask = np.frombuffer(data.draw(st.binary(min_size=n, max_size=n)), np.uint8) % 2 == 1
    packed = functions.pack_bits(data.draw(arranged(mask)))
    assert_same_bits(array_of(packed), reference.pack_bits(mask))
    assert_same_bits(array_of(functions.unpack_bits(packed, n)), mask)


@given(groups(max_experts=1), strategies.scales(), st.data())
def test_apply_mask(group: Group, scale: float, data: st.DataObject) -> None:
    shared = group.experts[0].astype(np.float32)
    n_bytes = (group.base.size + 7) // 8
    packed = np.frombuffer(data.draw(st.binary(min_size=n_bytes, max_size=n_bytes)), np.uint8)
    given_ = data.draw(arranged(group.base)), data.draw(arranged(shared)), tensor_of(packed)
    assert_everywhere(
        lambda: functions.apply_mask(*given_, scale),
        reference.apply_mask(group.base, shared, packed, scale),
        kernels.apply_mask(group.base, shared, packed, scale),
    )


@given(deltas())
def test_gram(pair: tuple[list[Array], Any]) -> None:
    rows, x = pair
    assert_everywhere(lambda: functions.gram(x), kernels.gram(rows))


@given(deltas())
def test_block_dots_are_those_of_gram(pair: tuple[list[Array], Any]) -> None:
    rows, x = pair
    expected = kernels.gram(rows)[0]
    assert_everywhere(lambda: functions.block_dots(x[0], x), expected)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_inner_products_add_the_cells_in_order(dtype: np.dtype[Any]) -> None:
    n = 2 * CELL + 3
    rows = np.random.default_rng(0).standard_normal((3, n)).astype(dtype)
    grad = rows[0].astype(np.float32)
    expected = np.zeros(2)
    for first in range(0, n, CELL):
        part = rows[:, first : first + CELL].astype(np.float32)
        expected += kernels.gram(part)[0, 1:]
    deltas = [tensor_of(row) for row in rows[1:]]
    assert_everywhere(lambda: functions.block_dots(tensor_of(grad), deltas), expected)
    products = functions.gram([tensor_of(row) for row in rows])
    assert_same_bits(array_of(products)[0, 1:], expected)
    assert_same_bits(array_of(products), kernels.gram(rows))
    wide = rows.astype(np.float64)
    for found, delta in zip(expected, wide[1:], strict=True):
        bound = (n / CELL + 290) * 2**-53 * math.fsum(abs(wide[0] * delta))
        assert abs(found - math.fsum(wide[0] * delta)) <= bound


# Small tensors are merged at once on the calling thread, others by the engine.


@pytest.mark.parametrize("n", [2047, 2048, 2049, 70_001])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_tensors_of_all_sizes(n: int, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(n)
    # Sixteenths: full of equal magnitudes, of zeros and of votes that cancel.
    base, *rows = (rng.integers(-40, 41, (4, n)) / 16).astype(dtype)
    rows[1] = rows[1].astype(KERNEL_DTYPES[n % 3])
    tensors = [tensor_of(row) for row in rows]
    same_type, one_type = [rows[0], rows[2]], [tensors[0], tensors[2]]
    assert_everywhere(
        lambda: functions.kth_magnitude(tensors[0], n // 3), kernels.kth_magnitude(rows[0], n // 3)
    )
    mask = rng.integers(0, 256, (n + 7) // 8, np.uint8)
    assert_everywhere(
        lambda: functions.apply_mask(tensors[0], tensors[1], tensor_of(mask), 0.3),
        kernels.apply_mask(rows[0], rows[1], mask, 0.3),
    )
    assert_everywhere(
        lambda: functions.tall_mask(tensors[0], tensors[1], 0.4),
        kernels.tall_mask(rows[0], rows[1], 0.4),
    )
    assert_everywhere(
        lambda: functions.magnitude_mask(tensors[0], 0.5), kernels.magnitude_mask(rows[0], 0.5)
    )
    assert_everywhere(lambda: functions.elect_signs(one_type), kernels.elect_signs(same_type))
    assert_everywhere(lambda: functions.gram(one_type), kernels.gram(same_type))
    bits = rows[0] > 0
    assert_same_bits(array_of(functions.pack_bits(tensor_of(bits))), kernels.pack_bits(bits))
    for density in (0.2, 0.98, 1.0):
        for equal in ("keep", "first"):
            assert_everywhere(
                lambda density=density, equal=equal: functions.trim(
                    tensors[0], density, equal=equal
                ),
                kernels.trim(rows[0], density, equal=equal),
            )
            options: dict[str, Any] = {"density": density, "equal": equal, "scale": 0.7}
            for vote in ("sum", "count"):
                assert_everywhere(
                    lambda vote=vote, options=options: functions.combine(
                        tensor_of(base), tensors, vote=vote, **options
                    ),
                    kernels.combine(base, rows, vote=vote, **options),
                )
            # One sign for most elements, so that the majority is not the one guessed.
            for sign in (1, -1):
                one_sided = [sign * abs(row) for row in same_type] + [-sign * abs(same_type[0])]
                given_ = [tensor_of(row) for row in one_sided]
                assert_everywhere(
                    lambda given_=given_, options=options: functions.combine(
                        None, given_, **options
                    ),
                    kernels.combine(None, one_sided, **options),
                )


# Shapes and memory.


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1, 1), (2, 3, 4)])
def test_any_shape_comes_back(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, -2.0, dtype=torch.bfloat16)
    signs = functions.elect_signs([x, x])
    assert torch.equal(signs, torch.full(shape, -1, dtype=torch.int8))
    assert torch.equal(functions.disjoint_merge([x, x], signs), x)
    assert torch.equal(functions.trim(x, 1.0), x)
    assert torch.equal(functions.ties(x, [x], density=1.0), x)
    full = functions.magnitude_mask(x, 0)
    assert torch.equal(functions.unpack_bits(full, x.numel()).view(shape), x < 0)
    assert torch.equal(functions.apply_mask(x, x, full), 2 * x)
    assert functions.block_dots(x, [x, x]).tolist() == [4 * x.numel()] * 2


def test_a_transposed_tensor_counts_in_the_order_of_its_own_rows() -> None:
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).t().contiguous().t()
    assert not x.is_contiguous()
    assert functions.trim(x, 0.25, equal="first").tolist() == [[0, 2], [0, 0]]
    assert functions.pack_bits(x == 2).tolist() == [0b0110]


@pytest.mark.parametrize("name", ["trim", "apply_mask", "ties", "disjoint_merge"])
def test_results_are_new_tensors_and_inputs_stay(name: str) -> None:
    arguments, keywords = CASES[name]
    flat = [one for value in arguments for one in (value if isinstance(value, list) else [value])]
    given_ = [one for one in flat if isinstance(one, Tensor)]
    before = [one.clone() for one in given_]
    result = getattr(torch.ops.tallies, name)(*arguments, **keywords)
    assert result.data_ptr() not in {one.data_ptr() for one in given_}
    result.zero_()
    assert all(torch.equal(a, b) for a, b in zip(given_, before, strict=True))


# torch's own rules.

X = torch.tensor([1.0, -3.0, 2.0, -3.0, 0.0, 0.5, 7.0, -1.0, 4.0])
Y = torch.tensor([2.0, 3.0, -2.0, -1.0, 1.0, 0.5, -7.0, 1.0, 0.0])
SIGNS = torch.tensor([1, -1, 1, -1, 0, 1, 1, -1, 1], dtype=torch.int8)
MASK = torch.tensor([0b10101010, 1], dtype=torch.uint8)

CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "kth_magnitude": ((X, 2), {}),
    "trim": ((X, 0.3), {"equal": "first"}),
    "magnitude_mask": ((X, 2.0), {}),
    "tall_mask": ((X, Y, 0.4), {}),
    "consensus_mask": (([MASK, MASK], 9, 2), {}),
    "pack_bits": ((X > 0,), {}),
    "unpack_bits": ((MASK, 9), {}),
    "apply_mask": ((X, Y, MASK, 0.5), {}),
    "elect_signs": (([X, Y], [1.0, 2.0]), {"vote": "count"}),
    "disjoint_merge": (([X, Y], SIGNS, [1.0, 2.0]), {"blend": "max"}),
    "ties": ((X, [X + Y, Y]), {"density": [0.5, 0.5], "scale": 0.7}),
    "combine": ((None, [X, Y]), {"density": [0.5, 0.7], "vote": "count", "zero": "drop"}),
    "gram": (([X, Y],), {}),
    "block_dots": ((X, [X, Y]), {}),
}


def test_every_function_is_an_operator_and_has_a_case() -> None:
    registered = {
        name.removeprefix("tallies::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("tallies::")
    }
    assert registered == CASES.keys()
    assert registered <= set(functions.__all__)


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name: str) -> None:
    arguments, keywords = CASES[name]
    torch.library.opcheck(getattr(torch.ops.tallies, name).default, arguments, keywords)


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_compile_without_graph_breaks(name: str) -> None:
    arguments, keywords = CASES[name]
    function = getattr(functions, name)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *args: function(*args, **keywords), backend="aot_eager", fullgraph=True
    )
    assert same(compiled(*arguments), function(*arguments, **keywords))


@pytest.mark.parametrize("name", CASES)
def test_functions_and_operators_take_the_same_arguments(name: str) -> None:
    arguments, keywords = CASES[name]
    expected = getattr(torch.ops.tallies, name)(*arguments, **keywords)
    assert same(getattr(functions, name)(*arguments, **keywords), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_default_device_changes_nothing(name: str) -> None:
    arguments, keywords = CASES[name]
    for function in (getattr(functions, name), getattr(torch.ops.tallies, name)):
        expected = function(*arguments, **keywords)
        with torch.device("meta"):
            result = function(*arguments, **keywords)
        assert same(result, expected)


def test_compile_takes_tensors_of_any_size() -> None:
    torch._dynamo.reset()

    def merge(rows: list[Tensor]) -> Tensor:
        return functions.disjoint_merge(rows, functions.elect_signs(rows)) + 1

    compiled = torch.compile(merge, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (3, 5, 9):
        rows = [X[:n], Y[:n]]
        assert same(compiled(rows), merge(rows))


def test_compile_takes_any_density() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(functions.trim, backend="aot_eager", fullgraph=True)
    for density in (0.2, 0.5, 0.7, 1):
        assert same(compiled(X, density), functions.trim(X, density))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_inductor_runs_an_operator_between_its_own() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: functions.trim(x * 2, 0.3) + 1, fullgraph=True)
    assert same(compiled(X), functions.trim(X * 2, 0.3) + 1)


def test_numbers_may_come_as_tensors() -> None:
    half, ones = torch.full((2,), 0.5), torch.ones(2, dtype=torch.float64)
    assert same(
        functions.ties(X, [X, Y], density=half, weights=ones),
        functions.ties(X, [X, Y], density=0.5),
    )


def test_results_carry_no_gradient() -> None:
    x = X.clone().requires_grad_()
    for result in (functions.trim(x, 0.5), torch.ops.tallies.ties(x, [x], density=[0.5])):
        assert not result.requires_grad


# Arguments.

SHORT = torch.tensor([4.0, 5.0])

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: functions.kth_magnitude([1.0], 1), "x: found list, expected a torch tensor"),  # type: ignore[arg-type]
    (lambda: functions.kth_magnitude(X.double(), 1), "x: found dtype float64, expected one of"),
    (lambda: functions.kth_magnitude(X[:0], 1), "x: found no elements, expected at least one"),
    (lambda: functions.kth_magnitude(X, 0), "k: found 0, expected a whole number from 1 to 9"),
    (lambda: functions.kth_magnitude(X, 10), "k: found 10, expected a whole number from 1 to 9"),
    (lambda: functions.kth_magnitude(X, 1.0), "k: found 1.0, expected a whole number"),  # type: ignore[arg-type]
    (lambda: functions.trim(X.to_sparse(), 0.5), "x: found layout torch.sparse_coo, expected"),
    (lambda: functions.trim(X, 1.5), "density: found 1.5, expected a number from 0 to 1"),
    (lambda: functions.trim(X, math.nan), "density: found nan, expected a number from 0 to 1"),
    (lambda: functions.trim(X, "0.5"), "density: found '0.5', expected a number"),  # type: ignore[arg-type]
    (
        lambda: functions.trim(X, 0.5, equal="frist"),
        "equal: found 'frist', expected one of keep, first",
    ),
    (lambda: functions.magnitude_mask(X, -1), "threshold: found -1, expected a number of 0 or"),
    (lambda: functions.magnitude_mask(X, "1"), "threshold: found '1', expected a number of 0 or"),  # type: ignore[arg-type]
    (lambda: functions.magnitude_mask(X, X), r"threshold: found a tensor of shape \(9,\), expect"),
    (lambda: functions.elect_signs([]), "deltas: found 0 tensors, expected 1 to 256"),
    (lambda: functions.elect_signs(torch.ones(257, 2)), "deltas: found 257 tensors"),
    (lambda: functions.elect_signs(3), "deltas: found int, expected a list of tensors"),  # type: ignore[arg-type]
    (lambda: functions.elect_signs(torch.ones(())), "deltas: found a 0-d tensor, expected"),
    (lambda: functions.elect_signs([X, SHORT]), r"deltas\[1\]: found shape \(2,\), .*\(9,\)"),
    (
        lambda: functions.elect_signs([X, X.half()]),
        r"deltas\[1\]: found dtype float16, expected that of deltas\[0\], float32",
    ),
    (lambda: functions.elect_signs([X], [1, 2]), "weights: found 2 values, expected one for each"),
    (lambda: functions.elect_signs([X], [1e39]), r"weights\[0\]: found 1e\+39, expected a finite"),
    (
        lambda: functions.elect_signs([X], vote="cuont"),
        "vote: found 'cuont', expected one of sum, count",
    ),
    (
        lambda: functions.elect_signs([X], zero="positiv"),
        "zero: found 'positiv', expected one of majority, pos",
    ),
    (lambda: functions.disjoint_merge([X], X), "signs: found dtype float32, expected one of int8"),
    (
        lambda: functions.disjoint_merge([SHORT], SIGNS),
        r"signs: found shape \(9,\), expected .*\(2,\)",
    ),
    (
        lambda: functions.disjoint_merge([X], SIGNS, blend="maen"),
        "blend: found 'maen', expected one of mean, sum, max",
    ),
    (lambda: functions.ties(X, [SHORT], density=1), r"experts\[0\]: found shape \(2,\), .* base"),
    (lambda: functions.ties(X, [X], density=2), r"density\[0\]: found 2, expected a number from 0"),
    (lambda: functions.ties(X, [X], density=[-1]), r"density\[0\]: found -1, expected a number"),
    (lambda: functions.ties(X, [X], density=[1, 1]), "density: found 2 values, expected one"),
    (lambda: functions.ties(X, [X], density=1, weights=[]), "weights: found 0 values, expected"),
    (lambda: functions.ties(X, [X], density=1, scale=math.inf), "scale: found inf, expected a"),
    (
        lambda: functions.ties(X, [X], density=1, equal="firts"),
        "equal: found 'firts', expected one of keep, first",
    ),
    (
        lambda: functions.ties(X, [X], density=1, semantics="papr"),
        "semantics: found 'papr', expected one of paper, merg",
    ),
    (
        lambda: functions.ties(X, [X], density=1, equal="first", semantics="mergekit"),
        "parameters: equal: ties has it only in paper semantics",
    ),
    (lambda: functions.ties(X, [X], density=1, threads=0), "threads: found 0, expected a whole"),
    (
        lambda: functions.combine(X, [X], gate="all", vote="sum", blend="max"),
        "gate, vote and blend: found 'all sum max', expected one of: .*all none mean, magnitude n",
    ),
    (
        lambda: functions.combine(X, [X], gate="all", vote="given", blend="sum_of_agreeing"),
        "gate, vote and blend: found 'all given sum_of_agreeing', expected",
    ),
    (lambda: functions.combine(X, [X]), "density: missing, and gate 'magnitude' needs a share"),
    (
        lambda: functions.combine(X, [X], gate="all", vote="none", blend="sum", density=0.5),
        "density: found one, expected none: gate 'all' ranks nothing",
    ),
    (
        lambda: functions.combine(X, [SHORT], density=1),
        r"experts\[0\]: found shape \(2,\), .* base",
    ),
    (lambda: functions.combine(None, [], density=1), "experts: found 0 tensors, expected 1 to 256"),
    (lambda: functions.combine(None, [X], density=1, zero="no"), "zero: found 'no', expected one"),
    (lambda: functions.trim(X.numpy(), 0.5), "x: found ndarray, expected a torch tensor"),  # type: ignore[arg-type]
    (lambda: functions.gram([X, 3]), r"deltas\[1\]: found 3, expected a torch tensor"),  # type: ignore[list-item]
    (lambda: functions.tall_mask(X, SHORT, 1), r"merged_delta: found shape \(2,\), .* expert_del"),
    (lambda: functions.tall_mask(X, X, -1), "lam: found -1, expected a finite number of 0 or more"),
    (lambda: functions.consensus_mask([], 3, 1), "packed_masks: found 0 tensors, expected 1 to"),
    (
        lambda: functions.consensus_mask([MASK, MASK[:1]], 9, 1),
        r"packed_masks\[1\]: found 1 bytes, expected 2 for 9 elements",
    ),
    (lambda: functions.consensus_mask([MASK], 9, -1), "k: found -1, expected a whole number from"),
    (lambda: functions.pack_bits(MASK), "mask: found dtype uint8, expected one of bool"),
    (lambda: functions.unpack_bits(MASK, 17), "packed: found 2 bytes, expected 3 for 17 elements"),
    (lambda: functions.unpack_bits(MASK.view(1, 2), 9), r"packed: found shape \(1, 2\), expected"),
    (lambda: functions.apply_mask(X, SHORT, MASK), r"shared: found shape \(2,\), .* base, \(9,\)"),
    (lambda: functions.apply_mask(X, X, MASK[:1]), "packed: found 1 bytes, expected 2 for 9 elem"),
    (lambda: functions.apply_mask(X, X, MASK, math.nan), "scale: found nan, expected a finite"),
    (lambda: functions.gram([X, X.int()]), r"deltas\[1\]: found dtype int32, expected one of"),
    (lambda: functions.block_dots(SHORT, [X]), r"grad: found shape \(2,\), .* deltas\[0\], \(9,\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


UNSAFE: list[tuple[Callable[[], Any], str]] = [
    (lambda: torch.ops.tallies.kth_magnitude(X, 10), "k: found 10"),
    (lambda: torch.ops.tallies.trim(X, 1.5), "density: found 1.5"),
    (lambda: torch.ops.tallies.magnitude_mask(X, -1.0), "threshold: found -1"),
    (lambda: torch.ops.tallies.tall_mask(X, SHORT, 1.0), "merged_delta: found shape"),
    (lambda: torch.ops.tallies.consensus_mask([MASK], 99, 1), r"packed_masks\[0\]: found 2 bytes"),
    (lambda: torch.ops.tallies.pack_bits(MASK), "mask: found dtype uint8"),
    (lambda: torch.ops.tallies.unpack_bits(MASK, 99), "packed: found 2 bytes"),
    (lambda: torch.ops.tallies.apply_mask(X, SHORT, MASK), "shared: found shape"),
    (lambda: torch.ops.tallies.elect_signs([X, SHORT]), r"deltas\[1\]: found shape"),
    (lambda: torch.ops.tallies.elect_signs([X], [1.0, 1.0]), "weights: found 2 values"),
    (lambda: torch.ops.tallies.disjoint_merge([X], SIGNS[:2]), "signs: found shape"),
    (lambda: torch.ops.tallies.ties(X, [SHORT], density=[1.0]), r"experts\[0\]: found shape"),
    (lambda: torch.ops.tallies.gram([X, SHORT]), r"deltas\[1\]: found shape"),
    (lambda: torch.ops.tallies.block_dots(SHORT, [X]), "grad: found shape"),
]


@pytest.mark.parametrize(("call", "message"), UNSAFE)
def test_an_operator_called_directly_checks_as_well(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=rf"^tallies::\w+: {message}"):
        call()


@pytest.mark.parametrize("name", CASES)
def test_tensors_without_values_give_one_of_the_same_shape(name: str) -> None:
    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        return value.to("meta") if isinstance(value, Tensor) else value

    arguments, keywords = CASES[name]
    expected = getattr(functions, name)(*arguments, **keywords)
    found = getattr(functions, name)(*map(moved, arguments), **keywords)
    assert found.is_meta and found.dtype == expected.dtype and found.shape == expected.shape
