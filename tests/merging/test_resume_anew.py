"""Runs that must not go on from where another stopped."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from unittest import mock

import pytest

from tallies import StorageError, merge
from tallies.engine.passes import Passes
from tallies.merging import journal
from tests.support import stages
from tests.support.checkpoints import FILE, data_bytes
from tests.support.resuming import FILES, Recipe, Run, crash, what_it_says, workspace
from tests.support.stages import OPTIONS

# Files that a resumed run must not take over.


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"density": 0.5}},
        {"parameters": {"density": 0.6, "scale": 0.5}},
        {"semantics": "mergekit"},
        {"merge_method": "task_arithmetic", "parameters": {}},
        {"out_dtype": "float32"},
        {"nonfinite": "warn"},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_another_plan_starts_anew(recipe: Recipe, out: Path, change: Recipe) -> None:
    crash(recipe, out, 3)
    other = {**recipe, **change}
    run = Run(other, out)
    report = merge(other, out.parent / "whole", **OPTIONS)
    assert list(chain.from_iterable(run.combined)) == list(chain.from_iterable(FILES))
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(report)
    assert data_bytes(out) == data_bytes(out.parent / "whole")


def test_fewer_files_than_the_last_time(recipe: Recipe, out: Path) -> None:
    crash(recipe, out, 3)
    Run(recipe, out, max_shard_size="5GB")
    assert sorted(os.listdir(out)) == [
        *("README.md", "config.json", "journal", "mergekit_config.yml"),
        *(FILE, "tallies.json", "tokenizer"),
    ]


def touch(path: Path) -> None:
    when = path.stat().st_mtime + 1
    os.utime(path, (when, when))


@pytest.mark.parametrize("model", ["base", "y"])
def test_a_changed_input_starts_anew(tmp_path: Path, out: Path, model: str) -> None:
    recipe = stages.models(tmp_path / "models")
    crash(recipe, out, 3)
    file = next((tmp_path / "models" / model).glob("*00001*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    touch(file)
    run = Run(recipe, out)
    assert (run.surveyed, run.combined) == (True, FILES)
    merge(recipe, out.parent / "whole", **OPTIONS)
    assert data_bytes(out) == data_bytes(out.parent / "whole")


def test_an_input_that_changes_meanwhile_starts_anew_the_next_time(
    tmp_path: Path, out: Path
) -> None:
    recipe = stages.models(tmp_path / "models")
    file = next((tmp_path / "models/z").glob("*00001*"))
    settle = Passes.settle_majority

    def touching(passes: Passes) -> None:
        settle(passes)
        touch(file)

    with (
        mock.patch.object(Passes, "settle_majority", touching),
        pytest.raises(StorageError, match="changed while it was being read"),
    ):
        merge(recipe, out, resume=True, **OPTIONS)
    assert Run(recipe, out).combined == FILES


def test_another_version_starts_anew(recipe: Recipe, out: Path) -> None:
    with mock.patch.object(journal, "__version__", "0.0.0"):
        crash(recipe, out, 3)
    assert Run(recipe, out).combined == FILES


def test_without_resume_nothing_is_taken_over(
    recipe: Recipe, result: dict[str, bytes], out: Path
) -> None:
    crash(recipe, out, 3)
    for file in (workspace(out) / "new").iterdir():
        file.write_bytes(b"?" * file.stat().st_size)
    (workspace(out) / "new/more").mkdir()
    (workspace(out) / "new/more/junk").touch()
    merge(recipe, out, **OPTIONS)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]
