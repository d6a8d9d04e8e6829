"""The command sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.reference.ties import ties_model
from tests.support.checkpoints import assert_holds, read
from tests.support.command import tree
from tests.support.command_line import BASE, EXPERTS, TIES, printed, refused

SET = ("--set", "density=0.5,1", "--set", "lambda=1,2")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ties.yml", "out", *SET),
        ("ties.yml", *SET, "--out", "out"),
        (*TIES, "out", *SET),
        (*TIES, "--out", "out", *SET, "--threads", "1", "--max-memory", "64KiB", "--sync"),
    ],
)
def test_all_forms(models: Path, arguments: Sequence[str]) -> None:
    text = printed("sweep", *arguments)
    expected = [(0.5, 1), (0.5, 2), (1, 1), (1, 2)]
    for number, (density, scale) in enumerate(expected, 1):
        out = models / f"out/{number:04}"
        assert_holds(out, ties_model(BASE, EXPERTS, density, scale=scale))
        assert (out / "config.json").read_bytes() == (models / "base/config.json").read_bytes()
        assert f"density={density}, lambda={scale}: kept " in text
        assert "hash " in text
    assert "sweep of 4 candidates" in text


def test_values_are_yaml(models: Path) -> None:
    report = json.loads(
        printed("sweep", "ties.yml", "out", "--json", "--set", "models.a.weight=[0,1],-2,1e-1")
    )
    found = [one["settings"]["models.a.weight"] for one in report["candidates"]]
    assert found == [[0, 1], -2, "1e-1"]
    assert report["candidates"][2]["report"]["experts"][0]["parameters"]["weight"] == 0.1


def test_the_grid_completes_the_recipe(models: Path) -> None:
    arguments = ("sweep", "ties.yml", "out", "--semantics", "peft")
    (models / "ties.yml").write_text(
        "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
    )
    refused((*arguments, "--set", "lambda=1,2"), "'density' is missing")
    refused((*arguments, "--set", "lambda=1,2", "--set", "seed=x"), "'density' is missing")
    text = printed(*arguments, "--set", "density=0.5,1")
    assert "sweep of 2 candidates" in text
    merge = ("merge", "ties.yml", "one", "--semantics", "peft", "--set", "density=0.5")
    printed(*merge)
    merged = [(models / at / "model.safetensors").read_bytes() for at in ("one", "out/0001")]
    assert merged[0] == merged[1]


def test_the_plan_writes_nothing(models: Path) -> None:
    before = tree(models)
    text = printed("sweep", "ties.yml", "out", *SET, "--plan")
    for word in ("0004", "density=1, lambda=2", "reads", "writes", "of disk", "out"):
        assert word in text
    found = json.loads(printed("sweep", "ties.yml", *SET, "--dry-run", "--json"))
    assert len(found["candidates"]) == 4
    one = json.loads(printed("plan", "ties.yml", "--json"))
    assert found["bytes_read"] == one["bytes_read"]
    assert found["bytes_written"] == 4 * found["candidates"][0]["bytes_written"]
    assert found["bytes_needed"] > found["bytes_written"]
    assert tree(models) == before


def test_methods_that_read_other_bytes_are_told(models: Path) -> None:
    text = printed("sweep", "ties.yml", "out", "--plan", "--set", "merge_method=ties,breadcrumbs")
    assert "does not suffice" not in text
    arguments = ("sweep", "--method", "linear", "--base", "base", "--model", "a", "--model", "b")
    text = printed(*arguments, "--plan", "--set", "merge_method=linear,task_arithmetic")
    assert "one read does not suffice for all" in text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ["the grid has no key", "density=0.1,0.2"]),
        (("--set", "densty=1"), ["'densty' is not known", "did you mean 'density'"]),
        (("--set", "density="), ["'density'", "no value"]),
        (("--set", "density"), ["key=value"]),
        (("--set", "density=0.1,0.1"), ["0.1 is there twice"]),
        (("--set", "density=0.1", "--set", "density=0.2"), ["given twice"]),
        (("--set", "density=0.1,2"), ["candidate 2 (density=2)", "from 0 to 1"]),
        (("--set", "density=1", "--set", "parameters.density=1,0"), ["are one parameter"]),
        (("--set", "lambda=1", "--set", "scale=1,2"), ["are one parameter"]),
        (("--set", "weight=1,1.0"), ["twice"]),
        (("--set", "weight=1,'1'"), ["are the same merge"]),
        (("--set", "base_model=a,b"), ["base_model", "same models, tensors and dtypes"]),
        (("--set", "dtype=float16,float32"), ["dtype", "same models, tensors and dtypes"]),
        (("--set", "models.c.weight=1"), ["'c'"]),
        (("--set", "models.a.weight=1", "--set", "models.0.weight=1,2"), ["are one parameter"]),
        (("--set", "models.a.scale=1", "--set", "models.a.parameters.lambda=1"), ["one parameter"]),
        (("--set", f"seed={','.join(map(str, range(1001)))}"), ["1001 candidates", "1000"]),
        (("--set", "density=1", "--adapter-rank", "4"), ["adapter_rank"]),
    ],
)
def test_refusals(models: Path, arguments: Sequence[str], parts: Sequence[str]) -> None:
    before = tree(models)
    refused(("sweep", "ties.yml", "out", *arguments), *parts)
    assert tree(models) == before


def test_a_place_that_is_no_earlier_sweep_is_refused(models: Path) -> None:
    refused(("sweep", "ties.yml", "base", *SET), "base")
    refused(("sweep", "ties.yml", "base/in", *SET), "lies inside the input")
    refused(("sweep", "ties.yml", *SET), "output is missing")
    printed("sweep", "ties.yml", "out", *SET)
    refused(("sweep", "ties.yml", "out", *SET), "--overwrite")
    before = read(models / "out/0001")
    (models / "out/0001/mine.txt").write_text("mine")
    refused(("sweep", "ties.yml", "out", *SET, "--overwrite"), "mine.txt")
    (models / "out/0001/mine.txt").unlink()
    printed("sweep", "ties.yml", "out", *SET, "--overwrite", "--quiet")
    assert_holds(models / "out/0001", before)
