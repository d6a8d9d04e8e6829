"""The small benchmarks run: start-up, plans, switching, accuracy, matrices, operators of torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import (
    accuracy,
    checks,
    hub,
    lossless,
    matrices,
    plan,
    soup,
    startup,
    torch_ops,
    weighted,
)
from bench.support import harness
from tallies import methods
from tallies.store.codecs import registry as codecs
from tests.support.tiny_llama import TINY


def test_startup_rows() -> None:
    shown = startup.show(startup.run(1, TINY))
    assert all(name in shown for name in ("tallies --help", "tallies merge", "tallies unpack"))


def test_an_average_beside_plain_reads(tmp_path: Path) -> None:
    paths = soup.write_models(tmp_path, 3, 1)
    rows = soup.run(paths, threads=2, repeat=1, cold=False)
    assert [row.case["job"] for row in rows] == ["plain reads", "linear"]
    assert rows[0].facts["share"] == 1 and "of plain" in soup.show(rows)


def test_merges_with_and_without_checks(tmp_path: Path) -> None:
    rows = checks.run(TINY, tmp_path / "models", repeat=1)
    assert "allowed" in checks.show(rows)
    assert all(-1 < row.facts["share"] < 1 for row in rows[::2])


def test_a_plan_of_the_hub() -> None:
    (row,) = rows = hub.run(repeat=1, n_layers=3)
    assert "3 of 2 shards" in hub.show(rows)
    assert row.facts["bytes_from_the_hub"] < 600_000


def test_a_plan_of_headers() -> None:
    (row,) = rows = plan.run(repeat=1, n_layers=4)
    assert row.case["tensors"] == 3 + 4 * 6 + 3 * 3 + 1 + 257 * 3
    assert f"in {row.facts['shards']} files" in plan.show(rows)


def test_merges_and_switches(tmp_path: Path) -> None:
    rows = weighted.run(tmp_path / "models", repeat=1, n_tasks=2, n_elements=5000, llama=TINY)
    merges, switches = rows[:5], rows[5:]
    assert "tall store" in weighted.show(merges) and "activate" in weighted.show(switches)
    # The vector that tasks share, and of each task a bit for each of its parameters.
    n_parameters = TINY.n_parameters
    assert 2 * n_parameters <= switches[1].facts["held_bytes"] <= 2.4 * n_parameters


def test_accuracy_of_every_method_and_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "SCALES", (0.3,))
    rows, refused = accuracy.measure([0], base_steps=2, expert_steps=2)
    names = {str(row.case["name"]) for row in rows}
    assert names | set(refused) == {"base", "experts", *methods.names(), *codecs.of_models()}
    assert not set(refused) & set(codecs.of_models())
    lines = accuracy.table(rows).splitlines()
    assert len(lines) == 1 + len(rows)


@pytest.mark.parametrize("full", [False, True])
def test_matrices_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full: bool
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(matrices, "Llama", lambda num_hidden_layers: TINY)
    before = torch.get_num_threads()
    matrices.main(["--repeat", "1", *(["--full"] if full else [])])
    torch.set_num_threads(before)
    rows = json.loads((tmp_path / "matrices.json").read_text())["rows"]
    assert {row["case"]["formula"] for row in rows} == {"plain", "gram"}
    n_shapes = len(matrices.matrices(TINY))
    assert len(rows) == 2 * (1 if full else n_shapes + 1)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows) // 2
    with pytest.raises(RuntimeError, match="the formulas differ"):
        monkeypatch.setattr(matrices, "gram", lambda x: 2 * matrices.plain(x))
        matrices.check(matrices.summed((4, 3)))


def test_torch_calls_and_peers() -> None:
    rows = torch_ops.overhead(1)
    assert {row.case["call"] for row in rows} == {"x * 0.5", *torch_ops.calls()}
    assert "trim (operator)" in torch_ops.show_calls(rows)
    assert "bfloat16 (mergekit)" in torch_ops.show_ties(torch_ops.ties(1000, 1))


def test_another_result_than_the_peers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_ops.torch_peers.PROGRAMS, "peft", lambda base, *_: base)
    with pytest.raises(AssertionError, match="not close"):
        torch_ops.check()


def test_lossless_stores_and_coders(tmp_path: Path) -> None:
    rows = lossless.run(100_000, repeat=1, directory=tmp_path)
    assert "zstandard, few matches" in lossless.show(rows)
    ratios = {row.case["of"]: row.facts["ratio"] for row in rows if row.case["what"] == "unpack"}
    assert ratios["step 0.0001"] > ratios["step 0.0004"] > ratios["base"] > 1.4
