"""Checkpoints and a store that the tests of benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.support import checkpoints
from tallies import pack
from tests.support.tiny_llama import TINY


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return checkpoints.ensure(tmp_path_factory.mktemp("models"), TINY, shard_bytes=60_000)


@pytest.fixture
def packed(models: list[Path], tmp_path: Path) -> Path:
    base, *experts = models
    out = tmp_path / "store"
    pack(base, {f"task-{i}": path for i, path in enumerate(experts, 1)}, out)
    return out
