"""The commands merge and plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support.checkpoints import FILE, assert_holds, data_bytes, read, write
from tests.support.command import tree
from tests.support.command_line import BASE, EXPERTS, TIES, f32, printed, refused
from tests.support.outputs import record

EXPECTED = ties_model(BASE, EXPERTS, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ties.yml", "out"),
        ("ties.yml", "--out", "out"),
        ("--out", "out", "ties.yml"),
        (*TIES, "--param", "density=0.5", "--out", "out"),
        (*TIES, "--param=density=0.5", "out"),
        ("out", *TIES, "--param", "density=0.5"),
        (*TIES[:4], "--model", "a:density=0.5", "--model", "b:weight=1,density=0.5", "out"),
        ("ties.yml", "out", "--threads", "1", "--max-memory", "64KiB", "--device", "cpu", "--sync"),
    ],
)
def test_all_forms_of_a_merge(models: Path, arguments: Sequence[str]) -> None:
    text = printed("merge", *arguments)
    assert_holds(models / "out", EXPECTED)
    assert (models / "out/config.json").read_bytes() == (models / "base/config.json").read_bytes()
    assert "ties (paper semantics) of 2 models" in text
    assert json.loads((models / "out/tallies.json").read_text())["output"]["fingerprint"] in text


def test_parameters_of_models_and_of_all(models: Path) -> None:
    arguments = ["--model", "a:weight=0.5", "--model", "b:weight=[2,2]", "--param", "lambda=0.3"]
    printed("merge", "--method", "task_arithmetic", "--base", "base", *arguments, "--out", "out")
    assert_holds(
        models / "out",
        {
            name: task_arithmetic(BASE[name], [e[name] for e in EXPERTS], [0.5, 2.0], 0.3)
            for name in BASE
        },
    )


def test_options_of_the_recipe(models: Path) -> None:
    report = json.loads(
        printed(
            *("merge", "ties.yml", "out", "--json", "--out-dtype", "bfloat16", "--seed", 7),
            *("--semantics", "mergekit", "--nonfinite", "propagate"),
            *("--max-shard-size", 8, "--files-from", "a"),
        )
    )
    recipe = report["recipe"]
    assert recipe["out_dtype"] == "BF16"
    assert recipe["seed"] == 7
    assert recipe["semantics"] == report["semantics"] == "mergekit"
    assert recipe["nonfinite"] == "propagate"
    assert recipe["max_shard_size"] == "8"
    assert recipe["files_from"] == "../a"
    assert report == json.loads((models / "out/tallies.json").read_text())
    assert len(report["output"]["files"]) == 2
    assert not (models / "out/config.json").exists()
    assert {tensor.dtype.name for tensor in read(models / "out").values()} == {"bfloat16"}


def test_a_result_repeats_itself(models: Path) -> None:
    printed("merge", "ties.yml", "out", "--max-shard-size", "4")
    printed("merge", "out/tallies.json", "again")
    assert data_bytes(models / "again") == data_bytes(models / "out")


def test_a_result_repeats_itself_elsewhere_and_after_a_move(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed("merge", "ties.yml", "out", "--files-from", "a")
    whole = models.with_name("moved")
    models.rename(whole)
    decoy = whole / "here" / "in"
    decoy.mkdir(parents=True)
    for name in ("base", "a", "b"):
        write(whole / "here" / name, {"w": f32(7), "v": f32(7)})
    monkeypatch.chdir(decoy)
    printed("merge", whole / "out" / "tallies.json", whole / "again")
    assert data_bytes(whole / "again") == data_bytes(whole / "out")
    recipe = json.loads((whole / "out" / "tallies.json").read_text())["recipe"]
    assert str(models) not in json.dumps(recipe)


def test_the_report_is_json_where_thresholds_are_infinite(models: Path) -> None:
    write(models / "odd", {"w": f32([[np.inf, np.nan], [1, 2]]), "v": f32([np.nan])})
    arguments = ["--method", "ties", "--base", "base", "--model", "odd", "--param", "scope=tensor"]
    text = printed("merge", *arguments, "--nonfinite", "propagate", "--json", "out")

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    report = json.loads(text, parse_constant=refuse)
    assert report["thresholds"] == {"v": [None], "w": [None]}


def test_quiet_prints_nothing(models: Path) -> None:
    assert printed("merge", "ties.yml", "out", "--quiet", "--progress") == ""
    assert_holds(models / "out", EXPECTED)
    assert printed("merge", "ties.yml", "--quiet", "--dry-run") == ""


def test_options_win_over_the_recipe(models: Path) -> None:
    stated = {"seed": 7, "semantics": "mergekit", "nonfinite": "warn", "out_dtype": "float16"}
    recipe = "".join(f"{key}: {value}\n" for key, value in stated.items())
    (models / "stated.yml").write_text((models / "ties.yml").read_text() + recipe)
    for given in ([], ["--seed", 0], ["--semantics", "paper"], ["--nonfinite", "error"]):
        plan = json.loads(printed("plan", "stated.yml", "--json", *given))["recipe"]
        wanted = {key: str(value) for key, value in stated.items()} | {"out_dtype": "F16"}
        wanted |= {given[0].removeprefix("--"): str(given[1])} if given else {}
        assert {key: str(plan.get(key, "0")) for key in stated} == wanted


def test_overwrite_replaces_what_is_there(models: Path) -> None:
    (models / "out").mkdir()
    (models / "out/mine.txt").write_text("x")
    before = sorted(models.iterdir())
    refused(["merge", "ties.yml", "out"], "output 'out'", "--overwrite")
    assert (models / "out/mine.txt").read_text() == "x"
    refused(["merge", "ties.yml", "out", "--overwrite"], "output 'out': holds 'mine.txt'")
    record(models / "out")
    printed("merge", "ties.yml", "out", "--overwrite")
    assert_holds(models / "out", EXPECTED)
    assert not (models / "out/mine.txt").exists()
    assert sorted(models.iterdir()) == before


def test_resume_without_anything_to_resume_is_a_merge(models: Path) -> None:
    printed("merge", "ties.yml", "out", "--resume")
    assert_holds(models / "out", EXPECTED)
    assert {*data_bytes(models / "out")} == {FILE, "config.json"}


# plan


@pytest.mark.parametrize("arguments", [("ties.yml",), (*TIES, "--param", "density=0.5")])
def test_a_plan_and_a_dry_run_are_the_same(models: Path, arguments: Sequence[str]) -> None:
    before = tree(models)
    text = printed("plan", *arguments)
    assert text == printed("merge", *arguments, "--dry-run")
    assert printed("plan", *arguments, "out") == printed("merge", *arguments, "out", "--dry-run")
    for part in ("ties (paper semantics) of 2 models", "2 merged (5 parameters)", "sample"):
        assert part in text
    said = json.loads(printed("plan", *arguments, "--json"))
    assert said == json.loads(printed("merge", *arguments, "--dry-run", "--json"))
    assert said["tensors"]["w"] == {
        "action": "merge",
        "dtype": "F32",
        "shape": [2, 2],
        "file": FILE,
        "n_bytes": 16,
        "density": [0.5, 0.5],
        "weight": [1.0, 1.0],
        "scale": 1.0,
        "scope": "model",
        "equal": "keep",
        "normalize": True,
    }
    assert tree(models) == before
