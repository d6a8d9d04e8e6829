"""A directory with a base, two experts and a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import write
from tests.support.command_line import BASE, EXPERTS


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a base and two experts to the current directory; the base has a file more."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base", BASE, config={"model_type": "tiny"})
    for name, expert in zip("ab", EXPERTS, strict=True):
        write(tmp_path / name, expert)
    (tmp_path / "ties.yml").write_text(
        "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n- model: b\n"
        "parameters: {density: 0.5}\n"
    )
    return tmp_path
