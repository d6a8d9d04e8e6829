"""Going on from where a run stopped: the same bytes as in one go, and nothing done twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tallies import MergeReport, merge
from tests.support.checkpoints import data_bytes
from tests.support.killable import Killer
from tests.support.resuming import FILES, Recipe, Run, crash, what_it_says, workspace
from tests.support.stages import OPTIONS


def test_in_one_go(recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path) -> None:
    run = Run(recipe, out)
    assert run.report is not None
    assert (run.surveyed, run.combined) == (True, FILES)
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


# Killed, then resumed.


@pytest.mark.parametrize("resumed_before", [False, True])
def test_resumed_after_a_kill_at_every_moment(
    killer: Killer,
    recipe: Recipe,
    done: MergeReport,
    result: dict[str, bytes],
    out: Path,
    resumed_before: bool,
) -> None:
    out.parent.mkdir()
    for moment in range(resumed_before, 1000, 1 + resumed_before):
        answer = killer.run(die_at=moment, config=recipe, out=str(out), **OPTIONS)
        if resumed_before and not out.exists():
            # Killed again while it goes on.
            request = {"config": recipe, "out": str(out), "resume": True, **OPTIONS}
            answer = killer.run(die_at=moment // 2, **request)
        if not answer["killed"] and "n_moments" in answer and answer["n_moments"] <= moment:
            break
        if not out.exists():
            report = merge(recipe, out, resume=True, **OPTIONS)
            assert what_it_says(report) == what_it_says(done)
        assert data_bytes(out) == result
        merge(recipe, out, overwrite=True, **OPTIONS)
        assert os.listdir(out.parent) == ["out"]
        shutil.rmtree(out)
    assert moment > 30


@pytest.mark.parametrize("n_finished", range(6))
def test_what_is_finished_is_not_done_again(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path, n_finished: int
) -> None:
    crash(recipe, out, n_finished if n_finished < 5 else "repair")
    new = workspace(out) / "new"
    names = sorted(path.name for path in new.glob("*.safetensors"))
    inodes = {name: (new / name).stat().st_ino for name in names}
    run = Run(recipe, out)
    assert run.report is not None
    assert (run.surveyed, run.combined) == (False, FILES[n_finished:])
    assert {name: (out / name).stat().st_ino for name in names} == inodes
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


def test_crashed_in_the_survey(recipe: Recipe, result: dict[str, bytes], out: Path) -> None:
    crash(recipe, out, "survey")
    run = Run(recipe, out)
    assert (run.surveyed, run.combined) == (True, FILES)
    assert data_bytes(out) == result


def test_crashed_again_and_again(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    for i in range(3):
        assert crash(recipe, out, 1).combined == [FILES[i]]
    run = Run(recipe, out)
    assert run.combined == FILES[3:]
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result


def test_resumed_with_other_threads_and_memory(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    crash(recipe, out, 2)
    run = Run(recipe, out, threads=3, max_memory="1GiB")
    assert (run.surveyed, run.combined) == (False, FILES[2:])
    assert data_bytes(out) == result
    assert run.report is not None
    assert run.report.output.fingerprint == done.output.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"density": 0.6, "scope": "tensor"}},
        {"parameters": {"density": 0.5, "equal": "first", "scope": "tensor"}},
        {"semantics": "mergekit"},
        {"merge_method": "task_arithmetic", "parameters": {"scale": 0.5}},
        {"merge_method": "linear", "parameters": {}},
        {"merge_method": "metagpt", "parameters": {}},
        {"merge_method": "model_stock", "parameters": {"filter_wise": True}},
        {
            "merge_method": "task_arithmetic",
            "parameters": {},
            "drop_layers": {"score": "cosine", "ratio": 0.5, "unit": "tensor"},
        },
        {"merge_method": "pcb", "parameters": {"ratio": 0.3}},
        {"merge_method": "ramplus", "parameters": {"scope": "model"}},
        {"merge_method": "sce", "parameters": {"select_topk": 0.5}},
        {"out_dtype": "bfloat16"},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_every_method_resumes(recipe: Recipe, out: Path, change: Recipe) -> None:
    other = {**recipe, **change}
    report = merge(other, out.parent / "whole", **OPTIONS)
    n_files = len(report.output.files)
    if n_files == 5:
        assert Run(other, out, 2).combined == FILES[:2]
        run = Run(other, out)
        assert run.combined == FILES[2:]
    else:
        Run(other, out, 1)
        run = Run(other, out)
        assert len(run.combined) == n_files - 1
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(report)
    assert data_bytes(out) == data_bytes(out.parent / "whole")
