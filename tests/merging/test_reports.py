"""Reports of merges, plans, and the requests that both repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies import InputError, merge, plan
from tests.support.checkpoints import Model, data_bytes, read, write
from tests.support.merges import GRADIENT, request, same_for_all

# The report, and the recipe in it.


def test_the_report_beside_the_result_repeats_the_merge(
    layers: tuple[list[Model], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths = layers
    monkeypatch.chdir(paths[0].parent)
    recipe = {
        "merge_method": "ties",
        "base_model": "0",
        "models": [
            {"model": "1", "parameters": {"weight": GRADIENT, "density": 0.9}},
            {"model": "2"},
        ],
        "parameters": {"lambda": 0.7, "normalize": False, "weight": 1.0},
        "out_dtype": "bfloat16",
        "files_from": "1",
    }
    first = merge(
        recipe,
        tmp_path / "first",
        max_shard_size=500,
        semantics="mergekit",
        seed=7,
        nonfinite="propagate",
    )
    monkeypatch.chdir(tmp_path)
    relative = [os.path.relpath(path, tmp_path / "first") for path in paths]
    assert first.recipe == {
        "merge_method": "ties",
        "semantics": "mergekit",
        "base_model": relative[0],
        "models": [
            {"model": relative[1], "parameters": {"weight": GRADIENT, "density": 0.9}},
            {"model": relative[2], "parameters": {}},
        ],
        "parameters": {
            "density": 1.0,
            "weight": 1.0,
            "scale": 0.7,
            "normalize": False,
            "rescale": "none",
            "integers": "equal",
        },
        "out_dtype": "BF16",
        "seed": 7,
        "nonfinite": "propagate",
        "files_from": relative[1],
        "max_shard_size": 500,
        "card": True,
        "missing": "error",
        "extra": "error",
        "embeddings": "error",
        "tied": "as-base",
        "adapter_space": "full",
    }
    said = json.loads((tmp_path / "first" / "tallies.json").read_text())
    assert said == json.loads(first.to_json())
    again = merge(tmp_path / "first" / "tallies.json", tmp_path / "again", threads=1)
    assert data_bytes(tmp_path / "again") == data_bytes(tmp_path / "first")
    assert len(first.output.files) == 4
    assert again.recipe == first.recipe
    assert same_for_all(again) == same_for_all(first)


def test_keywords_replace_what_the_recipe_says(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    _, (base, *experts) = layers
    recipe = request("ties", experts, base=base, seed=3, semantics="mergekit", max_shard_size="1KB")
    kept = merge(recipe, tmp_path / "kept").recipe
    assert (kept["seed"], kept["semantics"], kept["max_shard_size"]) == (3, "mergekit", "1KB")
    recipe["semantics"] = "paper"
    replaced = merge(
        recipe, tmp_path / "replaced", seed=4, semantics="mergekit", max_shard_size="2KB"
    ).recipe
    assert {**kept, "seed": 4, "max_shard_size": "2KB"} == replaced


@pytest.mark.parametrize(
    ("key", "stated", "default"),
    [
        ("seed", 7, 0),
        ("semantics", "mergekit", "paper"),
        ("nonfinite", "warn", "error"),
        ("max_shard_size", "1KB", "5GB"),
    ],
)
def test_a_keyword_wins_even_where_it_is_the_default_of_recipes(
    layers: tuple[list[Model], list[Path]],
    tmp_path: Path,
    key: str,
    stated: object,
    default: object,
) -> None:
    _, (base, *experts) = layers
    recipe = request("ties", experts, base=base, **{key: stated})
    assert merge(recipe, tmp_path / "kept").recipe[key] == stated
    options: dict[str, Any] = {key: default}
    assert merge(recipe, tmp_path / "given", **options).recipe[key] == default
    options = {key: None}
    assert merge(recipe, tmp_path / "none", **options).recipe[key] == stated


def test_a_refusal_asked_for_wins_over_a_recipe_that_warns(tmp_path: Path) -> None:
    base = write(tmp_path / "base", {"w": np.zeros(3, np.float32)})
    bad = write(tmp_path / "bad", {"w": np.float32([1, np.nan, 2])})
    recipe = request("task_arithmetic", [bad], base=base, nonfinite="warn")
    assert any("1 NaN or infinite" in one for one in merge(recipe, tmp_path / "out").warnings)
    with pytest.raises(InputError, match="'w' has 1 NaN or infinite values"):
        merge(recipe, tmp_path / "refused", nonfinite="error")
    assert not (tmp_path / "refused").exists()


def test_the_report_says_how_it_went(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    _, (base, *experts) = layers
    report = merge(request("ties", experts, base=base), tmp_path / "out", threads=2)
    n_bytes = sum(array.nbytes for array in layers[0][0].values())
    # A model as small as this one is read whole by the sample.
    assert report.bytes_read == 2 * 3 * n_bytes
    assert report.threads == 2
    assert report.target == tallies.cpu.target()
    assert report.seconds > 0
    moved = report.bytes_read + report.bytes_written
    assert report.gb_per_second == pytest.approx(moved / 1e9 / report.seconds)
    assert report.peak_memory_bytes > 10_000_000
    text = str(report)
    for part in (*(str(path) for path in experts), report.output.fingerprint, "in conflict"):
        assert part in text


def test_progress_ends_where_it_said(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    _, (base, *experts) = layers
    for method in ("linear", "ties"):
        seen: list[tuple[int, int]] = []
        merge(
            request(method, experts, base=base),
            tmp_path / method,
            progress=lambda done, whole, seen=seen: seen.append((done, whole)),  # type: ignore[misc]
        )
        done = [one for one, _ in seen]
        assert done == sorted(done)
        assert {whole for _, whole in seen} == {done[-1]}


# Plans.


def test_a_plan_of_anything_that_merges(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    _, (base, *experts) = layers
    recipe = request("ties", experts, base=base, max_shard_size=600)
    file = tmp_path / "recipe.yml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    plans = [plan(form) for form in (recipe, file, str(file), tallies.MergeConfig.load(recipe))]
    for made in plans:
        assert made.to_json_dict() == plans[0].to_json_dict()
        assert str(made) == str(plans[0])
    assert list(tmp_path.iterdir()) == [file]
    report = merge(recipe, tmp_path / "out")
    said = json.loads(json.dumps(plans[0].to_json_dict()))
    assert said["recipe"]["models"] == [
        {"model": str(expert), "parameters": {}} for expert in experts
    ]
    assert {**said["recipe"], "base_model": None, "models": None} == {
        **report.recipe,
        "base_model": None,
        "models": None,
    }
    assert said["n_parameters"] == report.parameters
    assert report.reads is not None
    assert said["bytes_read"] == report.bytes_read - report.reads["sampled"]
    assert said["bytes_written"] == report.bytes_written
    assert {shard["name"] for shard in said["shards"]} == report.output.files.keys()
    found = read(tmp_path / "out")
    assert said["tensors"].keys() == found.keys()
    for name, tensor in said["tensors"].items():
        assert tensor["action"] == "merge"
        assert tensor["shape"] == list(found[name].shape)
        assert tensor["n_bytes"] == found[name].nbytes
        assert (tensor["weight"], tensor["density"], tensor["scale"]) == ([1, 1], [0.2, 0.2], 1)


def sparse_model(path: Path, name: str, dtype: str, n_bytes: int, n_elements: int) -> Path:
    """A file with one tensor that takes no room on disk: all of it reads as zeros."""
    entry = {"dtype": dtype, "shape": [n_elements], "data_offsets": [0, n_bytes]}
    header = json.dumps({name: entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + n_bytes)
    return path


def test_a_plan_reads_no_tensor_data(tmp_path: Path) -> None:
    # A terabyte each: whoever reads it does not come back in time.
    models = [sparse_model(tmp_path / f"{i}.safetensors", "w", "F32", 2**40, 2**38) for i in "abc"]
    options = ["--method=ties", f"--base={models[0]}", *(f"--model={one}" for one in models[1:])]
    command = [sys.executable, "-m", "tallies", "plan", "--json", *options]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    said = json.loads(done.stdout)
    assert said["n_parameters"] == 2**38
    assert said["bytes_read"] == 3 * 2**40
    assert said["bytes_written"] > 2**40
    assert [shard["name"] for shard in said["shards"]] == ["model.safetensors"]
