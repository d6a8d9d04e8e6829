"""Fixtures of the tests of checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a file that every test writes anew."""
    return tmp_path_factory.mktemp("scratch") / "model.safetensors"
