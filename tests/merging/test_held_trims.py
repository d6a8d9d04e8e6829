"""Trims by tensor whose inputs fit into memory: read once, with the bytes of any other way."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest

from tallies import MergePlan, MergeReport, merge, plan
from tallies.engine import passes, surveyor
from tallies.engine.surveyor import Surveyor
from tests.reference.ties import ties_model
from tests.support import misleading
from tests.support.checkpoints import Model, data_bytes, read, write
from tests.support.everywhere import assert_same_bits
from tests.support.killable import Killer
from tests.support.merges import request
from tests.support.misleading import DELTAS, DTYPES
from tests.support.resuming import Recipe, Run, what_it_says
from tests.support.sampling import not_held

DENSITY = 0.1
ROOMY: dict[str, Any] = {"max_memory": "256MiB", "threads": 2}
PARAMETERS: dict[str, dict[str, Any]] = {
    "keep": {"scope": "tensor", "equal": "keep"},
    "first": {"scope": "tensor", "equal": "first"},
}


def recipe_of(models: list[Model], root: Path, **keys: Any) -> Recipe:
    base, *experts = (write(root / f"m{i}", one) for i, one in enumerate(models))
    parameters = {"density": DENSITY, "scope": "tensor", **keys.pop("parameters", {})}
    return request("ties", experts, base=base, parameters=parameters, **keys)


def merged(recipe: Recipe, out: Path, **options: Any) -> MergeReport:
    return merge(recipe, out, nonfinite="propagate", **{**ROOMY, **options})


def size(models: list[Model]) -> int:
    return sum(array.nbytes for model in models for array in model.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("equal", PARAMETERS)
@pytest.mark.parametrize("kind", DELTAS)
def test_each_byte_is_read_once(tmp_path: Path, kind: str, equal: str, dtype: str) -> None:
    models = misleading.models(kind, by_tensor=True, dtype=DTYPES[dtype])
    report = merged(recipe_of(models, tmp_path, parameters=PARAMETERS[equal]), tmp_path / "out")
    found = read(tmp_path / "out")
    expected = ties_model(models[0], models[1:], DENSITY, scope="tensor", equal=equal)
    for name, values in expected.items():
        assert_same_bits(found[name], values)
    assert report.bytes_read == size(models)
    assert report.reads is None or (report.reads["sampled"], report.reads["settled"]) == (0, 0)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_bytes", [1, 1_000_000, 1 << 24])
def test_batches_and_threads_change_nothing(tmp_path: Path, batch_bytes: int, threads: int) -> None:
    models = misleading.models("smooth", by_tensor=True)
    recipe = recipe_of(models, tmp_path, max_shard_size=700_000)
    with not_held():
        merged(recipe, tmp_path / "guessed")
    with mock.patch.object(surveyor, "_HELD_BATCH_BYTES", batch_bytes):
        report = merged(recipe, tmp_path / "out", threads=threads)
    assert data_bytes(tmp_path / "out") == data_bytes(tmp_path / "guessed")
    assert report.bytes_read == size(models)


@pytest.mark.parametrize("equal", PARAMETERS)
def test_tensors_without_room_are_guessed(tmp_path: Path, equal: str) -> None:
    models = misleading.models("smooth", by_tensor=True)
    recipe = recipe_of(models, tmp_path, parameters=PARAMETERS[equal])
    expected = ties_model(models[0], models[1:], DENSITY, scope="tensor", equal=equal)
    sampled = []
    # Room for every tensor; for all but the largest, or but the two largest; for the small one.
    for memory in ("24MiB", "4700KiB", "4MiB", "2MiB", "64KiB"):
        report = merged(recipe, tmp_path / memory, max_memory=memory, threads=1)
        found = read(tmp_path / memory)
        for name, values in expected.items():
            assert_same_bits(found[name], values)
        sampled.append(report.reads["sampled"] if report.reads else 0)
    assert sampled[0] == 0 < sampled[-1]
    assert sampled == sorted(sampled)
    assert len(set(sampled)) >= 3


class Watched(Surveyor):
    """A surveyor that notes the tensors which it holds."""

    holds: ClassVar[list[int]] = []

    def _hold(self, jobs: Sequence[int]) -> list[int]:
        self.holds.extend(jobs)
        return super()._hold(jobs)


@pytest.mark.parametrize("equal", PARAMETERS)
@pytest.mark.parametrize("kept", ["all", "of b and d"])
def test_tensors_without_a_rank_are_not_held(tmp_path: Path, equal: str, kept: str) -> None:
    models = misleading.models("smooth", by_tensor=True)
    density: Any = [{"filter": "b", "value": 1}, {"filter": "d", "value": 1}, {"value": DENSITY}]
    parameters = {**PARAMETERS[equal], "density": 1 if kept == "all" else density}
    recipe = recipe_of(models, tmp_path, parameters=parameters)
    Watched.holds.clear()
    with mock.patch.object(passes, "Surveyor", Watched):
        report = merged(recipe, tmp_path / "out")
    assert Watched.holds == ([] if kept == "all" else [0, 2])
    assert report.bytes_read == size(models)
    found = read(tmp_path / "out")
    for name in models[0]:
        own = 1 if kept == "all" or name in "bd" else DENSITY
        part = [{name: model[name]} for model in models]
        expected = ties_model(part[0], part[1:], own, scope="tensor", equal=equal)
        assert_same_bits(found[name], expected[name])
    made = plan(recipe)
    assert isinstance(made, MergePlan)
    assert made.bytes_surveyed == 0
    assert ("sample" in str(made)) is (kept != "all")


def test_inputs_that_cannot_be_held_are_guessed(tmp_path: Path) -> None:
    """Half of one tensor is left out, as are the scales of numbers in eight bits."""
    models = misleading.models("smooth", by_tensor=True)
    recipe = recipe_of(models, tmp_path)
    merged(recipe, tmp_path / "held")
    hold = surveyor.Surveyor._hold

    def some(self: surveyor.Surveyor, jobs: Any) -> list[int]:
        held = hold(self, jobs)
        return [n // 2 if job == 0 else n for job, n in zip(jobs, held, strict=True)]

    with mock.patch.object(surveyor.Surveyor, "_hold", some):
        report = merged(recipe, tmp_path / "out")
    assert report.reads is not None
    assert report.reads["sampled"] > 0
    assert data_bytes(tmp_path / "out") == data_bytes(tmp_path / "held")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    models = misleading.models("smooth", by_tensor=True)
    return recipe_of(models, tmp_path_factory.mktemp("models"), max_shard_size=700_000)


OPTIONS: dict[str, Any] = {"max_shard_size": None, **ROOMY}
FILES = [["a"], ["b"], ["c", "d"]]
"""The merged tensors of each file."""


@pytest.fixture(scope="module")
def done(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> MergeReport:
    """The merge of ``recipe`` when nothing happens meanwhile."""
    report = merge(recipe, tmp_path_factory.mktemp("result") / "out", **OPTIONS)
    assert len(report.output.files) == len(FILES)
    assert report.reads is None or report.reads["sampled"] == 0
    return report


@pytest.mark.parametrize("n_finished", [1, 2])
def test_a_run_goes_on_behind_finished_files(
    recipe: Recipe, done: MergeReport, out: Path, n_finished: int
) -> None:
    Run(recipe, out, n_finished, **OPTIONS)
    run = Run(recipe, out, **OPTIONS)
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == data_bytes(Path(done.output.path))
    assert run.combined == FILES[n_finished:]
    assert run.report.reads is None or run.report.reads["sampled"] == 0


def test_a_run_that_stops_between_the_tensors_of_a_file(
    recipe: Recipe, done: MergeReport, out: Path
) -> None:
    """Held arrays end with their run, and the file is merged from its beginning."""
    hold, held = surveyor.Surveyor._hold, []

    def ending(self: surveyor.Surveyor, jobs: Any) -> list[int]:
        held.extend(jobs)
        if len(held) == 4:
            raise KeyboardInterrupt
        return hold(self, jobs)

    with (
        mock.patch.object(surveyor, "_HELD_BATCH_BYTES", 1),
        mock.patch.object(surveyor.Surveyor, "_hold", ending),
        pytest.raises(KeyboardInterrupt),
    ):
        Run(recipe, out, **OPTIONS)
    run = Run(recipe, out, **OPTIONS)
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == data_bytes(Path(done.output.path))
    assert run.combined == FILES[2:]


def test_killed_at_every_moment(
    killer: Killer, recipe: Recipe, done: MergeReport, out: Path
) -> None:
    out.parent.mkdir()
    for moment in range(1000):
        answer = killer.run(die_at=moment, config=recipe, out=str(out), **OPTIONS)
        if not answer["killed"] and answer["n_moments"] <= moment:
            break
        if not out.exists():
            report = merge(recipe, out, resume=True, **OPTIONS)
            assert what_it_says(report) == what_it_says(done)
        assert data_bytes(out) == data_bytes(Path(done.output.path))
        shutil.rmtree(out)
    assert moment > 30
