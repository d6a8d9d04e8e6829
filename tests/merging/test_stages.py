"""Recipes of several documents: stages whose results later ones take."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tallies
from tallies import InputError, StorageError
from tallies.checkpoint.locks import lock_file
from tallies.merging import staging
from tests.reference.ties import ties_model
from tests.support.checkpoints import assert_holds, data_bytes, write
from tests.support.command import tree

RNG = np.random.default_rng(15)
NAMES = ("model.embed.weight", "model.layers.0.up.weight", "model.layers.1.up.weight")
MODELS = {
    name: {key: RNG.standard_normal((6, 5)).astype(np.float32) for key in NAMES}
    for name in ("base", "a", "b", "c")
}
MEAN = {key: (MODELS["a"][key] + MODELS["b"][key]) / np.float32(2) for key in NAMES}
EXPECTED = ties_model(MODELS["base"], [MEAN, MODELS["c"]], 0.5)

MIDDLE: dict[str, Any] = {"name": "mid", "merge_method": "linear", "models": ["a", "b"]}
LAST: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "base",
    "models": ["mid", "c"],
    "parameters": {"density": 0.5},
    "semantics": "paper",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, tensors in MODELS.items():
        write(tmp_path / name, tensors, config={"model_type": "toy", "name": name})
    return tmp_path


def documents(path: Path, *recipes: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump_all(recipes))
    return path


@pytest.mark.parametrize(
    "order", [(MIDDLE, LAST), (LAST, MIDDLE), ({**LAST, "name": "end"}, MIDDLE)]
)
@pytest.mark.parametrize("max_memory", ["1GiB", 64])
def test_a_stage_takes_the_result_of_another(
    here: Path, order: tuple[dict[str, Any], ...], max_memory: str | int
) -> None:
    report = tallies.merge(documents(here / "two.yml", *order), here / "out", max_memory=max_memory)
    assert_holds(here / "out", EXPECTED)
    assert [one.path for one in report.experts] == ["mid", "c"]
    assert report.stages["mid"]["method"] == "linear"
    assert report.stages["mid"]["output"]["fingerprint"] == report.experts[0].fingerprint
    assert "stage  mid" in " ".join(str(report).split()) or "mid: linear" in str(report)
    assert {path.name for path in here.iterdir()} == {*MODELS, "two.yml", "out"}


def test_the_bytes_are_those_of_two_merges(here: Path) -> None:
    tallies.merge(documents(here / "two.yml", MIDDLE, LAST), here / "out")
    tallies.merge({**MIDDLE, "name": "x"}, here / "mid")
    tallies.merge(LAST, here / "apart")
    assert data_bytes(here / "out") == data_bytes(here / "apart")
    assert (here / "out/config.json").read_bytes() == (here / "apart/config.json").read_bytes()


@pytest.mark.parametrize("file", ["tallies.json", "mergekit_config.yml"])
def test_a_result_repeats_itself(here: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tallies.merge(documents(here / "two.yml", MIDDLE, LAST), here / "out")
    monkeypatch.chdir("/")
    tallies.merge(here / "out" / file, here / "again")
    assert data_bytes(here / "again") == data_bytes(here / "out")


def test_a_name_wins_over_a_path_and_adapters_follow_it(here: Path) -> None:
    write(here / "mid", MODELS["c"])
    tallies.merge(documents(here / "two.yml", MIDDLE, LAST), here / "out")
    assert_holds(here / "out", EXPECTED)


def test_the_plan_shows_all_stages_and_writes_nothing(here: Path) -> None:
    recipe = documents(here / "two.yml", MIDDLE, LAST)
    before = tree(here)
    made = tallies.plan(recipe)
    assert [name for name, _ in made.stages] == ["mid"]
    assert "stage mid: linear" in str(made)
    assert made.to_json_dict()["stages"]["mid"]["method"] == "linear"
    assert tree(here) == before


def test_three_stages_in_a_row(here: Path) -> None:
    second = {"name": "more", "merge_method": "linear", "models": ["mid", "mid"]}
    last = {**LAST, "models": ["more", "c"]}
    tallies.merge(documents(here / "three.yml", last, second, MIDDLE), here / "out")
    assert_holds(here / "out", EXPECTED)


def test_semantics_hold_for_all_stages(here: Path) -> None:
    weighted = {**LAST, "parameters": {"density": 0.5, "weight": 1}}
    report = tallies.merge(
        documents(here / "two.yml", {**MIDDLE, "parameters": {"weight": 1}}, weighted),
        here / "out",
        semantics="mergekit",
    )
    assert report.semantics == report.stages["mid"]["semantics"] == "mergekit"


def test_stages_of_a_mapping(here: Path) -> None:
    tallies.merge({**LAST, "stages": [MIDDLE]}, here / "out")
    assert_holds(here / "out", EXPECTED)


def test_one_file_as_result(here: Path) -> None:
    tallies.merge(documents(here / "two.yml", MIDDLE, LAST), here / "out.safetensors")
    assert (here / "out.safetensors").is_file()


def test_a_stage_that_nothing_takes_is_left_out(here: Path) -> None:
    other = {**MIDDLE, "name": "other"}
    report = tallies.merge(documents(here / "two.yml", MIDDLE, other, LAST), here / "out")
    assert "stage 'other': nothing takes its result: left out" in report.warnings
    assert list(report.stages) == ["mid"]


@pytest.mark.parametrize(
    ("recipes", "words"),
    [
        ([MIDDLE, LAST, LAST], "holds 2 documents without a name"),
        ([MIDDLE, MIDDLE, LAST], "stages: two have the name 'mid'"),
        (
            [{**MIDDLE, "models": ["mid", "a"]}, LAST],
            "two.yml: stages: 'mid' takes its own result; each",
        ),
        (
            [{**MIDDLE, "models": ["two"]}, {**MIDDLE, "name": "two", "models": ["mid"]}, LAST],
            "stages: 'mid' takes 'two', and 'two' takes 'mid'; each stage takes models",
        ),
        (
            [
                {**MIDDLE, "models": ["z"]},
                {**LAST, "name": "y", "models": ["z", "c"]},
                {**MIDDLE, "name": "z", "models": ["y", "mid"]},
            ],
            "stages: 'mid' takes 'z', and 'z' takes 'mid'|'z' takes 'y', and 'y' takes 'z'",
        ),
        (
            [{**MIDDLE, "models": ["two"]}, {**MIDDLE, "name": "two", "models": ["mid"]}],
            "stages: 'mid' takes 'two', and 'two' takes 'mid'",
        ),
        ([{**MIDDLE, "name": "../mid"}, LAST], r"stages\[0\]: name: found '../mid'"),
        ([{**MIDDLE, "name": "ä" * 101}, LAST], r"stages\[0\]: name: .* at most 200 bytes"),
        ([{**MIDDLE, "name": "a/" * 11}, LAST], r"stages\[0\]: name: .* at most 10 parts"),
        ([{**MIDDLE, "name": "lock"}, LAST], r"found 'lock', .* neither of lock, new-lock"),
        ([{**MIDDLE, "merge_method": "linaer"}, LAST], "stage 'mid': merge_method: .*linear"),
        ([{**MIDDLE, "models": ["a", "z"]}, LAST], "stage 'mid': .*z: no such"),
        ([MIDDLE, {**LAST, "models": ["mid", "z"]}], "z: no such"),
        (
            [{**MIDDLE, "name": "x"}, {**LAST, "name": "y", "models": ["c"]}],
            "no other stage takes 'x' and 'y', expected one such stage, the result; leave out",
        ),
        (
            [MIDDLE, {**LAST, "models": ["a", "midd"]}],
            r"models\[1\]: 'midd' is neither a stage.*did you mean 'mid'",
        ),
        (
            [MIDDLE, {**LAST, "models": ["midl+x", "mid"]}],
            r"models\[0\]: 'midl' is neither.* 'mid'",
        ),
        (
            [
                {**MIDDLE, "base_model": "las"},
                {**LAST, "name": "last"},
                {**LAST, "models": ["mid", "last"]},
            ],
            "stage 'mid': base_model: 'las' is neither a stage .* did you mean 'last'",
        ),
        ([MIDDLE, "text"], "document 2: found 'text', expected a recipe"),
        ([{**MIDDLE, "adapter_rank": 4}, LAST], "stage 'mid': .*adapter_rank"),
        ([MIDDLE, {**LAST, "adapter_rank": 4}], "stages: .*adapter_rank"),
        ([{**MIDDLE, "stages": [LAST]}, LAST], "stages: stands in a file of one document"),
    ],
)
def test_refusals(here: Path, recipes: list[Any], words: str) -> None:
    recipe = documents(here / "two.yml", *recipes)
    before = tree(here)
    with pytest.raises(InputError, match=words):
        tallies.merge(recipe, here / "out")
    with pytest.raises(InputError, match=words):
        tallies.plan(recipe)
    assert tree(here) == before


def test_the_output_is_checked_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "out").mkdir()
    (here / "out/mine").touch()
    recipe = documents(here / "two.yml", MIDDLE, LAST)
    before = tree(here)
    with pytest.raises(InputError, match="is not empty; pass --overwrite"):
        tallies.merge(recipe, here / "out")
    with pytest.raises(InputError, match="is or contains the input"):
        tallies.merge(recipe, here / "a", overwrite=True)
    assert tree(here) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_goes_on_behind_its_finished_stages(
    here: Path, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = documents(here / "two.yml", MIDDLE, LAST)
    calls: list[int] = []

    def stop(done: int, whole: int) -> None:
        calls.append(whole)
        if done > whole // 2:
            raise OSError(28, "No space left on device")

    with pytest.raises((StorageError, OSError)):
        tallies.merge(recipe, here / "out", resume=resume, progress=stop)
    assert len(set(calls)) == 1
    left = here / ".out.tallies-stages"
    assert left.exists() == resume
    if resume:
        stamp = (left / "mid/tallies.json").stat().st_mtime_ns
        monkeypatch.setattr(staging.shutil, "rmtree", lambda *_, **__: None)
        tallies.merge(recipe, here / "out", resume=True)
        assert (left / "mid/tallies.json").stat().st_mtime_ns == stamp
    else:
        tallies.merge(recipe, here / "out")
        assert not left.exists()
    assert_holds(here / "out", EXPECTED)


def test_progress_counts_all_stages(here: Path) -> None:
    seen: list[tuple[int, int]] = []
    tallies.merge(
        documents(here / "two.yml", MIDDLE, LAST),
        here / "out",
        progress=lambda done, whole: seen.append((done, whole)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert len({whole for _, whole in seen}) == 1


def test_the_card_and_the_recipe_have_all_stages(here: Path) -> None:
    tallies.merge(documents(here / "two.yml", MIDDLE, LAST), here / "out")
    text = (here / "out/mergekit_config.yml").read_text()
    assert "mergekit-multi reads this file as well" in text.replace("\n# ", " ")
    found = list(yaml.safe_load_all((here / "out/mergekit_config.yml").read_text()))
    assert [one.get("name") for one in found] == ["mid", None]
    card = (here / "out/README.md").read_text()
    assert "name: mid" in card and "| mid | merged |" in card
    assert "left out" not in str(tallies.merge(here / "out/tallies.json", here / "again"))
    assert str(here) not in (here / "out/tallies.json").read_text()
    assert json.loads((here / "out/tallies.json").read_text())["stages"]["mid"]


def test_licences_go_through_the_stages(here: Path) -> None:
    for name, text in (("a", "license: mit"), ("b", "license: mit"), ("c", "license: mit")):
        (here / name / "README.md").write_text(f"---\n{text}\n---\n")
    tallies.merge(documents(here / "two.yml", MIDDLE, {**LAST, "base_model": "a"}), here / "out")
    assert "license: mit" in (here / "out/README.md").read_text()
    (here / "b/README.md").write_text("---\nlicense: gpl-3.0\n---\n")
    tallies.merge(documents(here / "two.yml", MIDDLE, {**LAST, "base_model": "a"}), here / "other")
    assert "license: other" in (here / "other/README.md").read_text()


def test_what_a_killed_run_left_in_memory_is_removed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_MEMORY", here / "memory")
    for name in ("left", "busy"):
        place = here / "memory" / f"{staging.PREFIX}{name}"
        place.mkdir(parents=True)
        (place / "lock").touch()
    with open(here / f"memory/{staging.PREFIX}busy/lock") as busy:
        lock_file(busy.fileno())
        tallies.merge(documents(here / "two.yml", MIDDLE, LAST), here / "out")
    assert [one.name for one in (here / "memory").iterdir()] == [f"{staging.PREFIX}busy"]


def test_the_longest_name(here: Path) -> None:
    name = "ä" * 100
    last = {**LAST, "models": [name, "c"]}
    recipe = documents(here / "two.yml", {**MIDDLE, "name": name}, last)
    for memory in ("1GiB", 64):
        tallies.merge(recipe, here / "out", max_memory=memory, overwrite=True)
        assert_holds(here / "out", EXPECTED)


def test_skeletons_of_killed_runs_are_removed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
    killed = "import os, tallies\nmade = tallies.plan('two.yml')\nos.kill(os.getpid(), 9)\n"
    recipe = documents(here / "two.yml", MIDDLE, LAST)
    ended = subprocess.run(
        [sys.executable, "-c", killed], env={**os.environ, "TMPDIR": str(here / "tmp")}, check=False
    )
    (left,) = (here / "tmp").iterdir()
    assert ended.returncode == -9 and left.name.startswith(staging.PREFIX)
    first = tallies.plan(recipe)
    (own,) = (here / "tmp").iterdir()
    assert own != left
    second = tallies.plan(recipe)
    assert own.exists() and len(list((here / "tmp").iterdir())) == 2
    del first, second
    gc.collect()
    assert not list((here / "tmp").iterdir())


def test_two_runs_do_not_share_a_directory(here: Path) -> None:
    recipe = documents(here / "two.yml", MIDDLE, LAST)
    (here / ".out.tallies-stages").mkdir()
    with open(here / ".out.tallies-stages/lock", "w") as busy:
        lock_file(busy.fileno())
        with pytest.raises(InputError, match="another run merges its stages there"):
            tallies.merge(recipe, here / "out", max_memory=64)
    assert (here / ".out.tallies-stages/lock").exists()
    tallies.merge(recipe, here / "out", max_memory=64)
    assert not (here / ".out.tallies-stages").exists()
