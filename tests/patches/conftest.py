"""Models that tests of patches share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import Model, write
from tests.support.patches import pair


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Model, Model]:
    """Two models, ``old`` and ``new`` in the working directory."""
    old, new = pair()
    write(tmp_path / "old", old)
    write(tmp_path / "new", new)
    monkeypatch.chdir(tmp_path)
    return old, new
