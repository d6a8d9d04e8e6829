"""The reason why operators have no CUDA kernels is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tallies.torch import arguments, ops


def test_a_cuda_tensor_without_kernels_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class There(Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("cuda", 0)

    x = torch.ones(3).as_subclass(There)
    monkeypatch.setattr(ops, "CUDA_PROBLEM", "the reason")
    refused = arguments.refusal(NotImplementedError(), {"x": x, "density": 0.5})
    assert str(refused) == (
        "x: found a tensor on cuda:0, expected one on the CPU: the reason; move it with .cpu()"
    )
    monkeypatch.setattr(ops, "CUDA_PROBLEM", None)
    assert arguments.refusal(NotImplementedError(), {"x": x, "density": 0.5}) is None


def test_a_torch_without_cuda_gets_no_operators_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert ops.load_for_cuda(Path()) == f"torch {torch.__version__} is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert ops.load_for_cuda(Path()).startswith("tallies.torch: _torch_cuda.so is missing")  # type: ignore[union-attr]
