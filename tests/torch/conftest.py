"""A seed for every test of tensors, and a module with a store of its tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tallies import Store
from tallies.torch import from_files, staging
from tests.support.switching import Net, copies, packed


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def store(tmp_path: Path, model: Net) -> Store:
    return packed(tmp_path, copies(model), "tall")


@pytest.fixture(params=[1, 300, 1 << 20])
def by_way_of_the_host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the CPU as if they were a device's, in batches of so many bytes."""
    monkeypatch.setattr(staging, "on_host", lambda _: False)
    monkeypatch.setattr(staging, "_pinned", lambda n: torch.full((n,), 165, dtype=torch.uint8))
    monkeypatch.setattr(from_files, "_STAGED_BYTES", request.param)
