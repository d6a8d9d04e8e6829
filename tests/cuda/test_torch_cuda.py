"""The operators on CUDA tensors give the bits of those on the processor's.

On the emulator (tests/emulator) the operators of CUDA tensors take the processor's, whose memory
the emulated kernels read: which kernels are called in which order, with what workspaces, and what
one leaves in device memory for the next is held to the operators of the CPU, bit for bit. A call
that copies, waits or allocates by itself is an error there. Streams, the caching allocator and
speed need a device: ``pytest -m cuda`` runs the same tests there, and those that only a device
can answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tallies.torch as functions
from bench import cuda_torch
from tallies import InputError, cuda
from tallies.torch import arguments, from_files, ops
from tests.project.test_bench import TINY
from tests.support import strategies
from tests.support.everywhere import assert_same_bits
from tests.support.operators import CASES, array_of, tensor_of
from tests.support.strategies import KERNEL_DTYPES
from tests.support.switching import TASKS, Net, assert_is, copies, packed

CELL = 1 << 16
"""Elements over which sums of products are added up before they are added to the others."""

WIDENED = 1 << 22
"""Elements of all rows together that are widened at a time."""

examples = settings(settings.get_profile("tallies"), max_examples=40)


@dataclass
class Place:
    """Where the operators that are tested run."""

    operators: Any
    device: str

    def moved(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self.moved(one) for one in value)
        return value.to(self.device) if isinstance(value, Tensor) else value

    def check(self, name: str, *given: Any, **keywords: Any) -> None:
        """The operator gives the CPU's bits, and leaves its inputs as they are."""
        expected = getattr(torch.ops.tallies, name)(*given, **keywords)
        there = self.moved(given)
        before = bytes_in(there)
        found = getattr(self.operators, name)(*there, **keywords)
        assert found.device.type == self.device
        assert_same_bits(array_of(found.cpu()), array_of(expected))
        assert bytes_in(there) == before


def bytes_in(value: Any) -> list[bytes]:
    """The bits of all tensors."""
    if isinstance(value, (list, tuple)):
        return [one for item in value for one in bytes_in(item)]
    return [array_of(value.cpu().contiguous()).tobytes()] if isinstance(value, Tensor) else []


def skip_without_device() -> None:
    problem = ops.CUDA_PROBLEM or cuda.problem()
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture(scope="module", params=["emulated", pytest.param("device", marks=pytest.mark.cuda)])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "emulated":
        library = request.getfixturevalue("emulator") / "libtorch_emulated.so"
        ops.load(library, "tallies_torch_emulated_register")
        return Place(torch.ops.tallies_emulated, "cpu")
    skip_without_device()
    return Place(torch.ops.tallies, "cuda")


# Inputs


def lengths() -> st.SearchStrategy[int]:
    """A few chunks of a thread, or several blocks."""
    return strategies.sizes(0, 70) | st.sampled_from([2047, 2048, 2049, 20_001])


@st.composite
def arranged(draw: st.DrawFn, x: Tensor) -> Tensor:
    """The elements of ``x`` with other strides, or behind an aligned address."""
    kind = draw(st.sampled_from(["plain", "plain", "strided", "behind"]))
    if kind == "strided":
        return x.repeat_interleave(2)[::2]
    return torch.cat([x[:1], x])[1:] if kind == "behind" and x.numel() else x


@st.composite
def groups(draw: st.DrawFn, mixed: bool = True) -> tuple[Tensor, list[Tensor]]:
    """A base and experts of one shape, of one or of several dtypes."""
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    group = draw(strategies.groups(dtype))
    length = draw(lengths()) if group.base.size else 0
    experts = []
    for expert in group.experts:
        kind = draw(st.sampled_from(KERNEL_DTYPES)) if mixed and draw(st.booleans()) else dtype
        with np.errstate(all="ignore"):
            grown = np.resize(expert, length).astype(kind)
        experts.append(draw(arranged(tensor_of(grown))))
    return draw(arranged(tensor_of(np.resize(group.base, length)))), experts


@st.composite
def masks(draw: st.DrawFn, n: int) -> Tensor:
    """A packed mask; bits past the n-th may be set."""
    seed = draw(st.integers(0, 99))
    mask = np.random.default_rng(seed).integers(0, 256, (n + 7) // 8, np.uint8)
    return tensor_of(mask)


EQUAL = st.sampled_from(["keep", "first"])
ZERO = st.sampled_from(["majority", "positive", "negative", "drop"])


# Values


@examples
@given(groups(), st.data())
def test_kth_magnitude(place: Place, group: tuple[Tensor, list[Tensor]], data: Any) -> None:
    x = group[1][0]
    if x.numel():
        place.check("kth_magnitude", x, data.draw(st.integers(1, x.numel())))


@examples
@given(groups(), strategies.densities(), EQUAL)
def test_trim(place: Place, group: tuple[Tensor, list[Tensor]], density: float, equal: str) -> None:
    for x in group[1]:
        place.check("trim", x, density, equal)


@examples
@given(groups(), strategies.densities(), EQUAL, st.data())
def test_ties(
    place: Place,
    group: tuple[Tensor, list[Tensor]],
    density: float,
    equal: str,
    data: st.DataObject,
) -> None:
    base, experts = group
    n = len(experts)
    semantics = data.draw(st.sampled_from(["paper", "paper", "mergekit"]))
    place.check(
        "ties",
        base,
        experts,
        [density, *data.draw(st.lists(strategies.densities(), min_size=n - 1, max_size=n - 1))],
        data.draw(strategies.scales()),
        data.draw(strategies.weights(n)),
        equal if semantics == "paper" else "keep",
        semantics,
    )


@examples
@given(groups(), st.booleans(), st.data())
def test_combine(
    place: Place, group: tuple[Tensor, list[Tensor]], has_base: bool, data: st.DataObject
) -> None:
    base, experts = group
    n = len(experts)
    options = data.draw(strategies.rules(n))
    if isinstance(options.get("density"), (float, int)):
        options["density"] = [options["density"]] * n
    place.check("combine", base if has_base else None, experts, **options)


@examples
@given(groups(), st.floats(0, 3, width=32) | st.sampled_from([0.0, np.inf, np.nan]))
def test_magnitude_mask(place: Place, group: tuple[Tensor, list[Tensor]], threshold: float) -> None:
    place.check("magnitude_mask", group[0], threshold)


@examples
@given(groups(), st.floats(0, 3, width=32))
def test_tall_mask(place: Place, group: tuple[Tensor, list[Tensor]], lam: float) -> None:
    place.check("tall_mask", group[0], group[1][0], lam)


@examples
@given(lengths(), st.integers(1, 9), st.integers(0, 600), st.data())
def test_consensus_mask(place: Place, n: int, n_masks: int, k: int, data: st.DataObject) -> None:
    rows = [data.draw(masks(n)) for _ in range(n_masks)]
    place.check("consensus_mask", rows, n, k % (n_masks + 2) if k < 500 else k)


@examples
@given(lengths(), st.data())
def test_pack_bits_and_back(place: Place, n: int, data: st.DataObject) -> None:
    mask = data.draw(masks(n))
    place.check("unpack_bits", mask, n)
    place.check("pack_bits", data.draw(arranged(functions.unpack_bits(mask, n))))


@examples
@given(groups(), strategies.scales(), st.data())
def test_apply_mask(
    place: Place, group: tuple[Tensor, list[Tensor]], scale: float, data: st.DataObject
) -> None:
    base, experts = group
    place.check("apply_mask", base, experts[0], data.draw(masks(base.numel())), scale)


@examples
@given(groups(mixed=False), st.sampled_from(["sum", "count"]), ZERO, st.data())
def test_elect_signs(
    place: Place, group: tuple[Tensor, list[Tensor]], vote: str, zero: str, data: st.DataObject
) -> None:
    place.check("elect_signs", group[1], data.draw(strategies.weights(len(group[1]))), vote, zero)


@examples
@given(groups(mixed=False), st.sampled_from(["mean", "sum", "max", "weighted_mean"]), st.data())
def test_disjoint_merge(
    place: Place, group: tuple[Tensor, list[Tensor]], blend: str, data: st.DataObject
) -> None:
    rows = group[1]
    signs = torch.from_numpy(
        np.random.default_rng(rows[0].numel()).integers(-1, 2, rows[0].numel(), np.int8)
    )
    place.check("disjoint_merge", rows, signs, data.draw(strategies.weights(len(rows))), blend)


@examples
@given(groups(mixed=False))
def test_gram(place: Place, group: tuple[Tensor, list[Tensor]]) -> None:
    place.check("gram", group[1])


@examples
@given(groups())
def test_block_dots(place: Place, group: tuple[Tensor, list[Tensor]]) -> None:
    place.check("block_dots", *group)


# Sizes at which something changes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inner_products_of_several_cells(place: Place, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 2 * CELL + 3, generator=generator).to(dtype)
    place.check("gram", [*rows])
    place.check("block_dots", rows[0].half(), [*rows[1:]])


def test_rows_of_several_types_are_widened_in_parts(place: Place) -> None:
    generator = torch.Generator().manual_seed(0)
    n, n_rows = CELL + 4321, WIDENED // CELL
    rows = torch.randn(n_rows, n, generator=generator).bfloat16()
    place.check("block_dots", rows[0].half(), [*rows])
    large = torch.randn(WIDENED // 2 + 1234, generator=generator)
    mask = torch.randint(0, 256, ((large.numel() + 7) // 8,), dtype=torch.uint8)
    place.check("apply_mask", large, large.bfloat16(), mask, 0.3)
    place.check("apply_mask", large.bfloat16(), large, mask, 0.3)
    place.check("tall_mask", large, large.flip(0).half(), 0.4)


@pytest.mark.parametrize("equal", ["keep", "first"])
@pytest.mark.parametrize("density", [0.2, 0.98])
def test_equal_magnitudes_and_either_majority(place: Place, density: float, equal: str) -> None:
    # Sixteenths: full of equal magnitudes, of zeros and of votes that cancel.
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-40, 41, (3, 20_011), generator=generator) / 16
    place.check("trim", rows[0], density, equal)
    for sign in (1, -1):
        one_sided = [sign * rows[0].abs(), sign * rows[1].abs(), -sign * rows[0].abs()]
        for experts in (one_sided, [x.bfloat16() for x in one_sided]):
            place.check("combine", None, experts, density=[density] * 3, equal=equal)
            place.check("combine", rows[2], experts, density=[density, 1.0, 0.0], equal=equal)
            place.check("elect_signs", experts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cut_offs_at_every_place(place: Place, dtype: torch.dtype) -> None:
    n = 33
    experts = [torch.full((n,), value, dtype=dtype) for value in (2.0, -3.0, 1.0)]
    for k in range(n + 1):
        kept = [(k * step % (n + 1) + 0.5) / n for step in (1, 7, 13)]
        place.check("trim", experts[0], min(kept[0], 1.0), "first")
        densities = [min(share, 1.0) for share in kept]
        place.check("combine", None, experts, density=densities, equal="first")


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1, 1), (2, 3, 4)])
def test_any_shape(place: Place, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, -2.0, dtype=torch.bfloat16)
    place.check("trim", x, 0.5)
    place.check("ties", x, [x, x.float()], [0.5, 1.0])
    place.check("magnitude_mask", x, 0.0)
    place.check("elect_signs", [x, x])
    place.check("gram", [x, x])
    place.check("block_dots", x, [x, x])


@pytest.mark.parametrize("name", CASES)
def test_every_operator(place: Place, name: str) -> None:
    given_, keywords = CASES[name]
    place.check(name, *given_, **keywords)


@pytest.mark.parametrize("is_right", [True, False])
def test_the_benchmark_runs_and_checks(place: Place, is_right: bool) -> None:
    operators = place.operators if is_right else SimpleNamespace(kth_magnitude=lambda x, k: x[0])
    rows = cuda_torch.run(cuda_torch.Place(operators, place.device), 10_000, 1)
    if is_right:
        assert [row.samples[0] > 0 for row in rows] == [True] * 15
        return
    with pytest.raises(RuntimeError, match="kth_magnitude: not the result of the processor"):
        next(rows)


def test_the_benchmark_switches_tasks(tmp_path: Path) -> None:
    rows = list(cuda_torch.switches("cpu", tmp_path, 1, TINY))
    assert [row.case["kernel"] for row in rows] == [
        "task switch, preload=True",
        "task switch, preload='device'",
    ]
    assert all(row.n_bytes > 0 and row.samples for row in rows)


# What is said where there is no device


def test_a_cuda_tensor_without_kernels_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class There(Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("cuda", 0)

    x = torch.ones(3).as_subclass(There)
    monkeypatch.setattr(ops, "CUDA_PROBLEM", "the reason")
    refused = arguments.refusal(NotImplementedError(), functions.trim, (x, 0.5), {})
    assert str(refused) == (
        "x: found a tensor on cuda:0, expected one on the CPU: the reason; move it with .cpu()"
    )
    monkeypatch.setattr(ops, "CUDA_PROBLEM", None)
    assert arguments.refusal(NotImplementedError(), functions.trim, (x, 0.5), {}) is None


def test_a_torch_without_cuda_gets_no_operators_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert ops.load_for_cuda(Path()) == f"torch {torch.__version__} is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert ops.load_for_cuda(Path()).startswith("tallies.torch: _torch_cuda.so is missing")  # type: ignore[union-attr]


# What only a device can answer


@pytest.fixture
def device() -> Place:
    skip_without_device()
    return Place(torch.ops.tallies, "cuda")


@contextmanager
def no_waiting() -> Iterator[None]:
    """A call that waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.parametrize("name", CASES)
def test_nothing_waits_for_the_device(device: Place, name: str) -> None:
    given_, keywords = CASES[name]
    there = device.moved(given_)
    with no_waiting():
        found = getattr(torch.ops.tallies, name)(*there, **keywords)
    expected = getattr(torch.ops.tallies, name)(*given_, **keywords)
    assert_same_bits(array_of(found.cpu()), array_of(expected))


@pytest.mark.cuda
@pytest.mark.parametrize("name", CASES)
def test_opcheck(device: Place, name: str) -> None:
    given_, keywords = CASES[name]
    operator = getattr(torch.ops.tallies, name).default
    torch.library.opcheck(operator, device.moved(given_), keywords)


@pytest.mark.cuda
@pytest.mark.parametrize("name", CASES)
def test_compile_without_graph_breaks(device: Place, name: str) -> None:
    given_, keywords = CASES[name]
    function: Callable[..., Tensor] = getattr(functions, name)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *args: function(*args, **keywords), backend="aot_eager", fullgraph=True
    )
    there = device.moved(given_)
    assert torch.equal(compiled(*there), function(*there, **keywords))


@pytest.mark.cuda
def test_the_current_stream_is_used(device: Place) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1 << 22, generator=generator)
    expected = functions.trim(2 * x, 0.3, equal="first")
    stream = torch.cuda.Stream()
    there = x.cuda()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # What the operator reads is not there before this has run.
        torch.cuda._sleep(50_000_000)
        found = functions.trim(there * 2, 0.3, equal="first")
    stream.synchronize()
    assert_same_bits(array_of(found.cpu()), array_of(expected))


@pytest.mark.cuda
def test_workspaces_are_used_again_in_the_order_of_the_stream(device: Place) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 1 << 18, generator=generator).bfloat16()
    there = rows.cuda()

    def merged(xs: Tensor) -> list[Tensor]:
        pairs = zip(xs, xs.flip(0), strict=True)
        return [functions.ties(x, [y, y.half()], density=0.3) for x, y in pairs]

    for found, expected in zip(merged(there), merged(rows), strict=True):
        assert_same_bits(array_of(found.cpu()), array_of(expected))


@pytest.mark.cuda
def test_tensors_of_several_devices_are_refused(device: Place) -> None:
    x = torch.ones(3)
    with pytest.raises(InputError, match="another device, expected all on one CUDA device"):
        functions.ties(x.cuda(), [x], density=1.0)


@pytest.mark.cuda
def test_a_device_other_than_the_current_one(device: Place) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device, and this needs two")
    x = torch.randn(5000)
    with torch.cuda.device(0):
        found = functions.trim(x.to("cuda:1"), 0.3)
        assert torch.cuda.current_device() == 0
    assert found.device.index == 1
    assert torch.equal(found.cpu(), functions.trim(x, 0.3))


@pytest.mark.cuda
@pytest.mark.parametrize("n_blocks", [1, 3])
def test_weighted_merge(device: Place, n_blocks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(70, 1001, generator=generator).bfloat16()}
    deltas = [{"w": torch.randn(70, 1001, generator=generator).half()} for _ in range(3)]
    coefficients = torch.randn(3, 1, n_blocks, generator=generator, dtype=torch.float64)
    seed = torch.randn(70, 1001, generator=generator).bfloat16()

    def run(place: str, coefficients_at: str) -> tuple[Tensor, Tensor]:
        given_ = coefficients.clone().to(coefficients_at).requires_grad_()
        there = [{"w": one["w"].to(place)} for one in deltas]
        merged = functions.weighted_merge({"w": base["w"].to(place)}, there, given_)["w"]
        merged.backward(seed.to(place))
        assert given_.grad is not None and merged.device.type == place
        return merged.detach().cpu(), given_.grad.cpu()

    expected, expected_grad = run("cpu", "cpu")
    for coefficients_at in ("cpu", "cuda"):
        found, grad = run("cuda", coefficients_at)
        assert_same_bits(array_of(found), array_of(expected))
        assert torch.allclose(grad, expected_grad, rtol=0, atol=1e-7)


@pytest.mark.cuda
def test_a_module_is_trained(device: Place) -> None:
    module = torch.nn.Linear(9, 5).cuda()
    base = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    merged = functions.MergedModule(module, base, [base, base], per_tensor=True)
    merged(torch.ones(3, 9, device="cuda")).sum().backward()
    assert merged.coefficients.grad is not None and bool((merged.coefficients.grad != 0).all())


@pytest.mark.cuda
@pytest.mark.parametrize("preload", [True, False, "device"])
def test_a_model_switches_tasks(
    device: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preload: Any
) -> None:
    monkeypatch.setattr(from_files, "_STAGED_BYTES", 300)
    model = Net()
    base = copies(model)
    store = packed(tmp_path, base, "tall")
    switcher = functions.TaskSwitcher(model.cuda(), store, preload=preload)
    stream = torch.cuda.Stream()
    for task in (*TASKS, "math"):
        # What is queued before reads the task before, on whichever stream.
        with torch.cuda.stream(stream):
            before = model.embed.weight.detach().clone()
            torch.cuda._sleep(10_000_000)
            again = model.embed.weight.detach().clone()
        switcher.activate(task)
        assert torch.equal(before, again)
        assert_is(copy.deepcopy(model).cpu(), store.load(task, framework="torch"))
    switcher.deactivate()
    assert_is(copy.deepcopy(model).cpu(), base)
