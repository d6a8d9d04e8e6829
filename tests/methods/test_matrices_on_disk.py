"""Methods of whole matrices on disk: threads, budgets, plans, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tallies import InputError, merge, merge_state_dicts, plan
from tests.support.checkpoints import data_bytes, read, write
from tests.support.matrices import MATRIX_METHODS, Array


def models(root: Path, n_experts: int = 3) -> tuple[dict[str, Any], dict[str, Array], list[Any]]:
    rng = np.random.default_rng(9)
    shapes = {f"layer.{i}.w": (20 + i, 31) for i in range(6)} | {"norm": (31,)}
    base, *experts = (
        {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
        for _ in range(n_experts + 1)
    )
    paths = [write(root / f"m{i}", one) for i, one in enumerate([base, *experts])]
    recipe = {
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
    }
    return recipe, base, experts


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_files_and_arrays_merge_to_the_same_bits_on_any_number_of_threads(
    tmp_path: Path, name: str
) -> None:
    recipe, base, experts = models(tmp_path)
    expected = merge_state_dicts(base, experts, method=name, threads=1)
    results = []
    for threads, memory in ((1, "1GiB"), (3, "1GiB"), (3, "90MiB")):
        out = tmp_path / f"{threads}-{memory}"
        report = merge(
            {"merge_method": name, **recipe},
            out,
            threads=threads,
            max_memory=memory,
            max_shard_size="6KB",
        )
        assert report.tensors_merged == 7
        results.append(data_bytes(out))
    found = read(out)
    assert all(found[n].tobytes() == expected[n].tobytes() for n in expected)
    assert results == [results[0]] * 3


def test_the_threads_of_torch_are_left_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    _, base, experts = models(tmp_path)
    merge_state_dicts(base, experts, method="iso_c", threads=3)
    assert torch.get_num_threads() == before


def test_a_matrix_beyond_the_budget_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    recipe, _, _ = models(tmp_path)
    recipe["merge_method"] = "tsv_m"
    with pytest.raises(
        InputError,
        match=r"tsv_m: tensor 'layer.0.w' \[20, 31\] is merged as a whole, .* 64MiB",
    ):
        merge(recipe, tmp_path / "out", max_memory="64MiB")
    assert not (tmp_path / "out").exists()
    recipe["parameters"] = {"exclude": "layer"}
    merge(recipe, tmp_path / "out", max_memory="64MiB")


def test_without_torch_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, base, experts = models(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputError, match=r"star: needs torch .* install torch"):
        merge({"merge_method": "star", **recipe}, tmp_path / "out")
    with pytest.raises(InputError, match=r"star: needs torch .* install torch"):
        merge_state_dicts(base, experts, method="star")


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_the_plan_says_that_matrices_are_whole(tmp_path: Path, name: str) -> None:
    recipe, _, _ = models(tmp_path)
    *survey, last = plan({"merge_method": name, **recipe}).passes()
    assert last == "matrices, one at a time, and combine of the other tensors"
    assert survey == (["survey of all matrices together"] if name == "doge" else [])


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_the_report_knows_what_went_in_and_out(tmp_path: Path, name: str) -> None:
    recipe, _, _ = models(tmp_path)
    moved: list[tuple[int, int]] = []
    report = merge(
        {"merge_method": name, **recipe},
        tmp_path / "out",
        progress=lambda *bytes_moved: moved.append(bytes_moved),
    )
    plain = merge({"merge_method": "task_arithmetic", **recipe}, tmp_path / "plain")
    assert [one.fingerprint for one in report.experts] == [one.fingerprint for one in plain.experts]
    assert report.base is not None and plain.base is not None
    assert report.base.fingerprint == plain.base.fingerprint
    assert moved[-1][0] == moved[-1][1]
