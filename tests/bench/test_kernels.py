"""The benchmark of kernels runs, and refuses kernels that are wrong."""

from __future__ import annotations

import pytest

from bench import kernels
from bench.support.kernel_cases import CHECKED, Kernel, groups
from tallies import _core, cpu


def test_kernel_rows() -> None:
    rows = kernels.run(3 * CHECKED, [1, 2], "", repeat=1, n_cache_bytes=1 << 16)
    timed = [row for row in rows if "target" in row.case]
    assert {row.case["target"] for row in timed} == set(cpu.targets())
    assert {(row.case["from"], row.case["threads"]) for row in timed} == {
        ("memory", 1),
        ("memory", 2),
        ("cache", 1),
    }
    assert "apply_mask" in kernels.show(rows)


def all_kernels() -> list[Kernel]:
    return [kernel for group in groups() for kernel in group(2 * CHECKED)]


@pytest.mark.parametrize(
    "kernel", all_kernels(), ids=lambda kernel: f"{kernel.name}-{kernel.dtype}"
)
def test_kernel_check_refuses_a_kernel_that_does_nothing(kernel: Kernel) -> None:
    if kernel.out is None:
        kernel.check()
        return
    with pytest.raises(RuntimeError, match="differ from the reference"):
        kernel.check()
    kernel.run(0, 2 * CHECKED)
    kernel.check()


@pytest.mark.parametrize(("name", "wrong"), [("dot", 1e9), ("fingerprint", [0] * 8)])
def test_kernel_check_refuses_a_wrong_sum(
    name: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = next(kernel for kernel in all_kernels() if kernel.name == name)
    monkeypatch.setattr(_core, name, lambda *arguments: wrong)
    with pytest.raises(RuntimeError, match=name):
        kernel.check()
