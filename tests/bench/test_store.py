"""The benchmark of stores runs, and refuses stores and tasks that are wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import sizes, store
from bench.support import checkpoints, child, harness, runs
from bench.support.store_check import check_same_content, check_store, check_unpacked
from tallies import Store
from tallies.store.codecs import registry as codecs
from tests.support.tiny_llama import TINY, settings, spoil


def test_store_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    asked = ["--dir", str(tmp_path), "--repeat", "1", "--tasks", "2", "--threads", "2", "--sizes"]
    monkeypatch.setattr(checkpoints.Llama, "resized", lambda self, n: TINY)
    monkeypatch.setattr(sizes, "TRAINED", {"a": (1000, 900), "b": (5,), "c": ()})
    monkeypatch.setattr(sizes, "FROZEN", {"d": (100, 300), "e": ()})
    store.main(asked)
    rows = json.loads((tmp_path / "results" / "store.json").read_text())["rows"]
    by_job = {(row["case"]["job"], row["case"].get("max_memory")): row for row in rows}
    assert {f"pack {name}" for name in codecs.of_models()} == {
        " ".join(job.split()[:2]) for job, budget in by_job if budget == "default"
    }
    for job, budget in by_job:
        if job.startswith(("pack ", "unpack ")) and "layer" not in job:
            row = by_job[job, budget]
            assert row["own_ratio_to_copy"] < row["ratio_to_copy"]
            assert len(row["samples"]) == len(row["report_seconds"]) == 1
            assert row["peak_bytes"] > 0
    tall, tight = by_job["pack tall", "default"], by_job["pack tall", "256MiB"]
    assert (
        tall["fingerprint"] == tight["fingerprint"] != by_job["pack emr", "default"]["fingerprint"]
    )
    assert tall["elements_checked"] == by_job["pack emr", "default"]["elements_checked"] > 0
    assert (tall["target_ratio"], by_job["unpack tall", None]["target_ratio"]) == (2.0, 1.5)
    assert tight["target_peak_bytes"] == (256 + 150) << 20
    for job in ("pack a layer", "load a layer"):
        rival = by_job[f"{job}, plain torch", None]
        own = by_job[job, None]
        assert own["times_faster"] == pytest.approx(rival["seconds"] / own["own_seconds"])
    full, half = (row for row in rows if row["case"]["job"] == "size of tall")
    assert full["formula_bits"] == (64 + 20) * 900_006 + 32 * 30_001
    assert 1 < full["of_formula"] < 1.01
    assert half["base_and_store_bits"] == pytest.approx(
        full["base_and_store_bits"] - 16 * 900_006, abs=8 * 200
    )
    assert not (tmp_path / "sizes").exists()
    assert not (tmp_path / "out").exists()


def test_store_refuses_another_result(tmp_path: Path) -> None:
    found = runs.Runs(settings(tmp_path))
    found.expect_same("unpack", "a")
    found.expect_same("load", "b")
    with pytest.raises(RuntimeError, match="unpack: this run gives b, the first one gave a"):
        found.expect_same("unpack", "b")


def test_sizes_are_those_of_clip() -> None:
    assert sizes.n_parameters(sizes.TRAINED) == 87_849_216
    assert sizes.n_parameters(sizes.FROZEN) == 25_599_489


@pytest.mark.parametrize("file", ["shared.safetensors", "tasks/task-2.safetensors"])
def test_check_refuses_a_wrong_store(models: list[Path], packed: Path, file: str) -> None:
    assert check_store(packed, models) > 0
    spoil(packed / file, "model.norm.weight")
    with pytest.raises(RuntimeError, match=r"'model.norm.weight': 1 of \d+ elements differ"):
        check_store(packed, models)


def test_check_refuses_a_wrong_unpacked_task(
    models: list[Path], packed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    Store.open(packed).unpack("task-1", out)
    assert check_unpacked(packed, "task-1", models[0], out) > 0
    spoil(out, "model.norm.weight")
    with pytest.raises(RuntimeError, match=r"'model.norm.weight': 1 of \d+ elements differ"):
        check_unpacked(packed, "task-1", models[0], out)


def test_check_refuses_another_result_of_the_plain_program(
    models: list[Path], packed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plain"
    child.run([sys.executable, "-m", "bench.rivals.plain", "pack", *map(str, [out, *models])])
    check_same_content(packed, out)
    spoil(out / "tasks" / "task-3.safetensors", "model.norm.weight")
    with pytest.raises(RuntimeError, match=r"task-3.*'model.norm.weight' differs"):
        check_same_content(packed, out)
