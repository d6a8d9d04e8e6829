"""Streams, the caching allocator, devices and training: questions that only a device answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tallies.torch as functions
from tallies import InputError
from tallies.torch import from_files
from tests.support.cuda_place import Place
from tests.support.everywhere import assert_same_bits
from tests.support.operators import CASES, array_of
from tests.support.switching import TASKS, Net, assert_is, copies, packed


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
        # The operator's input is complete only after this sleep.
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
        # Work that is queued earlier reads the earlier task, on whichever stream.
        with torch.cuda.stream(stream):
            before = model.embed.weight.detach().clone()
            torch.cuda._sleep(10_000_000)
            again = model.embed.weight.detach().clone()
        switcher.activate(task)
        assert torch.equal(before, again)
        assert_is(copy.deepcopy(model).cpu(), store.load(task, framework="torch"))
    switcher.deactivate()
    assert_is(copy.deepcopy(model).cpu(), base)
