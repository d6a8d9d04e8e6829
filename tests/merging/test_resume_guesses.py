"""Going on from where a run stopped while its thresholds were guesses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import MergeReport, merge
from tallies.engine.combining import Combining
from tallies.engine.surveyor import Surveyor
from tests.reference.ties import ties_model
from tests.support import misleading
from tests.support.checkpoints import Model, data_bytes, read, write
from tests.support.everywhere import assert_same_bits
from tests.support.killable import Killer
from tests.support.merges import BF16, request
from tests.support.resuming import Crash, Recipe, Run, what_it_says, workspace

OPTIONS: dict[str, Any] = {"max_shard_size": None, "max_memory": "1MiB", "threads": 1}
KINDS: dict[str, tuple[str, Any, int]] = {
    "right": ("few values", BF16, 300_000),
    "wrong": ("smooth", np.float32, 700_000),
}
"""Models whose guesses prove right, and wrong by some elements in every file.

With these sizes of files each tensor has one of its own, but for the smallest.
"""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def models(kind: str) -> list[Model]:
    name, dtype, _ = KINDS[kind]
    return misleading.models(name, by_tensor=False, dtype=dtype)


@pytest.fixture(scope="module")
def recipe(kind: str, models: list[Model], tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("models")
    base, *experts = (write(root / str(i), one) for i, one in enumerate(models))
    parameters = {"density": 0.1}
    return request("ties", experts, base=base, parameters=parameters, max_shard_size=KINDS[kind][2])


@pytest.fixture(scope="module")
def done(
    recipe: Recipe, models: list[Model], tmp_path_factory: pytest.TempPathFactory
) -> MergeReport:
    """The merge of ``recipe`` when nothing happens meanwhile."""
    out = tmp_path_factory.mktemp("result") / "out"
    report = merge(recipe, out, **OPTIONS)
    found = read(out)
    for name, values in ties_model(models[0], models[1:], 0.1).items():
        assert_same_bits(found[name], values)
    assert len(report.output.files) == 3
    return report


@pytest.fixture(scope="module")
def result(done: MergeReport) -> dict[str, bytes]:
    return data_bytes(Path(done.output.path))


FILES = [["a"], ["b"], ["c", "d"]]
"""The merged tensors of each file."""


def resumed(recipe: Recipe, out: Path, done: MergeReport, result: dict[str, bytes]) -> Run:
    """The run that goes on, whose result must be that of a run in one go."""
    run = Run(recipe, out, **OPTIONS)
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]
    return run


def test_killed_at_every_moment(
    killer: Killer, recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    out.parent.mkdir()
    for moment in range(1000):
        answer = killer.run(die_at=moment, config=recipe, out=str(out), **OPTIONS)
        if not answer["killed"] and answer["n_moments"] <= moment:
            break
        if not out.exists():
            report = merge(recipe, out, resume=True, **OPTIONS)
            assert what_it_says(report) == what_it_says(done)
        assert data_bytes(out) == result
        shutil.rmtree(out)
    assert moment > 30


@pytest.mark.parametrize("n_finished", [1, 2])
def test_finished_files_keep_their_counts(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path, n_finished: int
) -> None:
    Run(recipe, out, n_finished, **OPTIONS)
    run = resumed(recipe, out, done, result)
    assert (run.surveyed, run.combined) == (False, FILES[n_finished:])


def test_stopped_twice(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    Run(recipe, out, 1, **OPTIONS)
    Run(recipe, out, 1, **OPTIONS)
    run = resumed(recipe, out, done, result)
    assert (run.surveyed, run.combined) == (False, FILES[2:])


def test_right_guesses_leave_finished_files_as_they_are(
    kind: str, recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    Run(recipe, out, 2, **OPTIONS)
    run = resumed(recipe, out, done, result)
    assert run.report is not None
    n_elements = misleading.N - sum(int(np.prod(misleading.SIZES[name])) for name in "cd")
    repeated = run.report.reads["repeated"] if run.report.reads else 0
    assert repeated == (0 if kind == "right" else n_elements)


def crash_in(name: str, owner: type, recipe: Recipe, out: Path) -> None:
    """Run until a function has done its work, and crash then."""
    original = getattr(owner, name)

    def ending(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise Crash

    with mock.patch.object(owner, name, ending):
        run = Run(recipe, out, **OPTIONS)
    assert run.report is None


def test_crashed_when_guesses_are_settled(
    kind: str, recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    crash_in("settle", Surveyor, recipe, out)
    run = resumed(recipe, out, done, result)
    assert not run.surveyed
    # Files that were repaired are no longer those that the journal has.
    assert run.combined == ([] if kind == "right" else FILES)


def test_crashed_when_stretches_are_combined_again(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    Run(recipe, out, 2, **OPTIONS)
    crash_in("_combine_again", Combining, recipe, out)
    assert not resumed(recipe, out, done, result).surveyed


@pytest.mark.parametrize(
    "file", ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
)
def test_a_damaged_file_is_combined_again_and_counted_once(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path, file: str
) -> None:
    Run(recipe, out, 2, **OPTIONS)
    place = workspace(out) / "new" / file
    content = bytearray(place.read_bytes())
    content[-5] ^= 1
    place.write_bytes(content)
    run = resumed(recipe, out, done, result)
    assert run.combined == [FILES["12".index(file[10])], FILES[2]]
    assert not run.surveyed


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_lost_counts_begin_anew(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path, damage: str
) -> None:
    Run(recipe, out, 2, **OPTIONS)
    (kept,) = workspace(out).glob("guess-*")
    if damage == "removed":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:-1])
    run = resumed(recipe, out, done, result)
    assert (run.surveyed, run.combined) == (True, FILES)
