"""mergekit's calls at the borders of what is merged here: layouts, dtypes, weights, commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from mergekit.merge_methods import merge_tensors

from tallies import merge_state_dicts
from tallies.integrations import mergekit as seam


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    seam.uninstall()


def tensors_of(n_models: int, shape: tuple[int, ...], seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(n_models)]


def both(tensors: list[Any], method: str, reason: str, **parameters: Any) -> None:
    theirs = merge_tensors(tensors, method, parameters=parameters, base_index=0)
    with seam.installed():
        ours = merge_tensors(tensors, method, parameters=parameters, base_index=0)
    assert seam.calls() == {"ours": 0} | {reason: 1}
    assert torch.equal(ours.nan_to_num(1.5), theirs.nan_to_num(1.5))
    assert ours.dtype == theirs.dtype


def test_rescaling_in_the_order_of_other_strides_is_the_host_s() -> None:
    for seed in range(10):
        tensors = tensors_of(3, (8, 4, 3, 3), seed)
        tensors = [x.contiguous(memory_format=torch.channels_last) for x in tensors]
        given = {"weight": 0.5, "density": 0.6}
        both(tensors, "breadcrumbs", "layout", **given, rescale=True)
        both(tensors, "breadcrumbs", "ours", **given, rescale=False)


def test_sums_of_many_experts_of_other_strides_are_the_host_s() -> None:
    tensors = [x.t() for x in tensors_of(7, (32, 4))]
    both(tensors, "task_arithmetic", "order of sums", weight=0.3)


def test_a_share_that_divides_by_no_entry_is_the_host_s() -> None:
    (base,) = tensors_of(1, (40,))
    both([base, base.clone(), base.clone()], "ramplus_tl", "arguments", epsilon=0.0)


def test_results_that_depend_on_the_default_dtype_are_the_host_s() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        for method in ("linear", "task_arithmetic"):
            both([x.float() for x in tensors_of(3, (40,))], method, "default dtype", weight=0.3)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("method", "shape"), [("karcher", ()), ("ramplus_tl", (8, 4))])
def test_inexact_results_of_halves_have_the_host_s_dtype(
    method: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensors = [x.abs().to(dtype) for x in tensors_of(3, shape)]
    theirs = merge_tensors(tensors, method, parameters={}, base_index=0)
    with seam.installed(exact=False):
        ours = merge_tensors(tensors, method, parameters={}, base_index=0)
    assert seam.calls() == {"ours": 1}
    assert ours.dtype == theirs.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2)


def test_a_mean_of_equal_tensors_without_a_tolerance_is_the_tensor() -> None:
    models = [{"x": torch.tensor([0.3])}] * 2
    merged = merge_state_dicts(None, models, method="karcher", max_iter=1, tol=0.0)
    assert torch.equal(merged["x"], models[0]["x"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--inexact] [--force"),
        (["mergekit-mult", "x", "y"], "mergekit-mult: no command, did you mean mergekit-multi?"),
    ],
)
def test_a_wrong_command_line_is_told_what_to_write(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        seam.main(arguments)
    assert text in capsys.readouterr().err


def test_options_of_the_host_go_through_before_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Any] = []
    command = ModuleType("command")
    command.main = lambda args, prog_name: found.append(args)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "command", command)
    monkeypatch.setitem(seam.COMMANDS, "mergekit-yaml", "command")
    given = ["--no-copy-tokenizer", "--lora-merge-cache", "folder", "config.yml", "out"]
    assert seam.main(["--inexact", *given]) == 0
    assert found == [given]
