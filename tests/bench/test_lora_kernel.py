"""The benchmark of the kernel of adapters runs, and refuses a kernel that is wrong."""

from __future__ import annotations

import pytest

from bench import lora_kernel
from tallies import _core, cpu


def test_rows() -> None:
    before = cpu.target()
    rows = lora_kernel.run([3], 8, 40, rounds=2)
    assert cpu.target() == before
    cases = [(row.case["target"], row.case["kernel"]) for row in rows]
    kernels = ("peak", "low_rank float32", "low_rank bfloat16")
    assert cases == [(target, kernel) for target in cpu.targets() for kernel in kernels]
    assert all(row.facts["share_of_peak"] > 0 for row in rows)
    assert [row.facts["n_flops"] for row in rows[1:3]] == [2 * 8 * 3 * 40] * 2
    assert "100%" in lora_kernel.show(rows)


def test_a_wrong_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "low_rank", lambda *arguments: None)
    with pytest.raises(RuntimeError, match="differ from the reference"):
        lora_kernel.run([3], 8, 40, rounds=1)
