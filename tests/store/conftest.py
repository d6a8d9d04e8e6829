"""Models that tests of stores pack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import (
    write,
)
from tests.support.command import tree
from tests.support.stores import BASE, expert


@pytest.fixture(autouse=True)
def models(tmp_path: Path) -> Iterator[Path]:
    """A base and two experts ``a`` and ``b``, which no test may change."""
    root = tmp_path / "models"
    for name, model in {"base": BASE, "a": expert(1), "b": expert(2)}.items():
        write(root / name, model)
    before = tree(root)
    yield root
    assert tree(root) == before
