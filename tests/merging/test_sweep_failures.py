"""Sweeps that fail on the way leave nothing, or what another run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallies import InputError, sweep
from tests.support.outputs import at_combine, fail
from tests.support.stages import OPTIONS
from tests.support.sweeps import all_files

GRID = {"density": [0.2, 0.6], "lambda": [1, 2]}


@pytest.mark.parametrize("number", [0, 5, 19])
@pytest.mark.parametrize("resume", [False, True])
def test_all_or_nothing(recipe: dict[str, Any], tmp_path: Path, number: int, resume: bool) -> None:
    """The four candidates have five files each, in turns."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), at_combine(number, fail(KeyboardInterrupt())):
        sweep(recipe, GRID, out, resume=resume, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == [".out.tallies-partial"] * resume
    sweep(recipe, GRID, out, resume=resume, **OPTIONS)
    sweep(recipe, GRID, tmp_path / "other", **OPTIONS)
    for name in ("0001", "0002", "0003", "0004"):
        assert all_files(out / name) == all_files(tmp_path / "other" / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_an_earlier_sweep_stays_until_another_is_complete(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sweep(recipe, GRID, out)
    before = {path.name: all_files(path) for path in out.iterdir() if path.is_dir()}
    with pytest.raises(InputError, match="is not known"):
        sweep(recipe, {"density": [0.1], "no": [1]}, out, overwrite=True)
    with pytest.raises(KeyboardInterrupt), at_combine(3, fail(KeyboardInterrupt())):
        sweep(recipe, {"density": [0.1, 0.3]}, out, overwrite=True, **OPTIONS)
    assert {path.name: all_files(path) for path in out.iterdir() if path.is_dir()} == before
