"""The benchmark of merges runs, and refuses results that are wrong."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from bench import merge
from bench.support import checkpoints, child, harness, runs
from bench.support.jobs import JOBS, Job, check, check_shapes
from tests.support.tiny_llama import TINY, settings, spoil


def test_merge_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    rows = merge.Bench(TINY, settings(tmp_path)).run([None, "256MiB"])
    assert [row.case["job"] for row in rows] == ["copy", "copy", *2 * [job.name for job in JOBS]]
    for row in rows[2:]:
        assert row.facts["elements_checked"] > 0
        assert row.facts["peak_bytes"] > 0
        assert len(row.facts["cpu_seconds"]) == 1
        assert ("ratio_to_sum" in row.facts) == (row.case["job"] != "task_arithmetic")
        assert len(row.samples) == len(row.facts["report_seconds"]) == 1
    by_job = {(row.case["job"], row.facts.get("fingerprint")) for row in rows[2:]}
    assert len(by_job) == len(JOBS)
    assert "ties, scope=model" in runs.show(rows)
    saved = json.loads(harness.save("m", rows, {}).read_text())
    assert str(tmp_path) not in json.dumps(saved)
    assert saved["rows"][2]["case"] == rows[2].case


def test_merge_refuses_to_mix_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = merge.Bench(TINY, settings(tmp_path))
    monkeypatch.setattr(runs, "build", lambda: "another")
    with pytest.raises(RuntimeError, match="installed anew"):
        bench.run([None])


def test_scaling_removes_what_it_made(tmp_path: Path) -> None:
    sizes = [dataclasses.replace(TINY, num_hidden_layers=n) for n in (1, 2)]
    by_size = merge.scaling(settings(tmp_path), sizes)
    assert "x " in merge.show_scaling(by_size)
    assert not list(tmp_path.glob("llama-*"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_check_refuses_a_wrong_result(job: Job, models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tallies", "merge", *job.arguments(models), "--quiet"]
    child.run([*command, "--out", str(out)])
    assert check(job, models, out) > 0
    spoil(out, "model.norm.weight")
    with pytest.raises(RuntimeError, match=r"'model.norm.weight': 1 of \d+ elements differ"):
        check(job, models, out)


def test_check_shapes_refuses_other_tensors(models: list[Path], tmp_path: Path) -> None:
    check_shapes(models[0], models[1])
    fewer = checkpoints.ensure(tmp_path, dataclasses.replace(TINY, num_hidden_layers=1))
    with pytest.raises(RuntimeError, match="tensors differ"):
        check_shapes(models[0], fewer[0])
