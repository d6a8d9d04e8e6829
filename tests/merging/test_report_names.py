"""Files beside a result name no place by its absolute path, and repeat the merge anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import MergeReport, merge
from tests.support.checkpoints import data_bytes, write
from tests.support.merges import layered, request

BESIDE = ("tallies.json", "mergekit_config.yml")


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A base and two experts, of which the first is the base, in a directory of their own."""
    root = tmp_path / "home" / "alice" / "models"
    return [write(root / name, layered(seed)) for seed, name in ((0, "base"), (0, "a"), (1, "b"))]


def texts(out: Path) -> str:
    return "".join((out / name).read_text() for name in (*BESIDE, "README.md"))


def written(root: Path, models: list[Path], **keys: Any) -> tuple[Path, MergeReport]:
    """A merge of models that are given by absolute paths."""
    base, *experts = models
    out = root / "results" / "out"
    return out, merge(request("ties", experts, base=base, files_from=str(base), **keys), out)


def test_no_absolute_path_stands_beside_a_result(models: list[Path], tmp_path: Path) -> None:
    out, report = written(tmp_path, models)
    assert any(str(models[1]) in one for one in report.warnings)
    assert str(tmp_path) not in texts(out)
    said = json.loads((out / "tallies.json").read_text())
    assert said["base"]["path"] == said["recipe"]["files_from"] == "../../home/alice/models/base"
    assert [one["path"] for one in said["experts"]] == [
        one["model"] for one in said["recipe"]["models"]
    ]
    assert said["output"]["path"] == "out"
    assert any("'../../home/alice/models/a': all merged" in one for one in said["warnings"])
    assert report.output.path == str(out)
    assert report.experts[0].path == str(models[1])


def test_files_that_warnings_name_are_relative_too(tmp_path: Path) -> None:
    base = write(tmp_path / "base", {"w": np.zeros(3, np.float32)})
    bad = write(tmp_path / "bad", {"w": np.float32([1, np.nan, 2])})
    recipe = request("task_arithmetic", [bad], base=base, nonfinite="warn")
    report = merge(recipe, tmp_path / "out")
    assert any(str(bad) in one for one in report.warnings)
    said = json.loads((tmp_path / "out" / "tallies.json").read_text())["warnings"]
    assert any("../bad" in one and "NaN" in one for one in said)
    assert str(tmp_path) not in texts(tmp_path / "out")


def test_a_home_directory_is_not_named(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "alice"))
    out, _ = written(tmp_path, models)
    assert "alice" not in texts(out)
    said = json.loads((out / "tallies.json").read_text())
    assert said["base"]["path"] == "~/models/base"
    merge(out / "tallies.json", tmp_path / "again")
    assert data_bytes(tmp_path / "again") == data_bytes(out)


@pytest.mark.parametrize("file", BESIDE)
def test_it_repeats_the_merge_from_anywhere_and_after_a_move(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    out, _ = written(tmp_path, models)
    expected = data_bytes(out)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    merge(out / file, "again")
    assert data_bytes(elsewhere / "again") == expected
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("home", "results"):
        shutil.move(tmp_path / name, moved / name)
    merge(f"../moved/results/out/{file}", "once-more")
    assert data_bytes(elsewhere / "once-more") == expected
