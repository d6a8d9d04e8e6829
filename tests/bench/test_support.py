"""Checkpoints, copies, child processes and comparisons of benchmarks."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import compare
from bench.support import checkpoints, child, storage
from bench.support.harness import Row
from tallies.checkpoint.checkpoint import Checkpoint
from tests.support.tiny_llama import TINY


def test_sizes_are_those_of_the_real_model() -> None:
    assert checkpoints.Llama().n_parameters == 1_235_814_400
    assert checkpoints.Llama().resized(1.236e9) == checkpoints.Llama()
    assert checkpoints.Llama().resized(2.4e9).num_hidden_layers == 35
    assert checkpoints.Llama().resized(1).num_hidden_layers == 1


def test_checkpoints_are_sharded_and_close_to_the_base(models: list[Path]) -> None:
    base, *experts = (Checkpoint.open(path) for path in models)
    assert len(experts) == checkpoints.N_EXPERTS
    assert len(base.files) > 1
    assert {name: info.shape for name, info in base.tensors.items()} == TINY.shapes()
    info = base.tensors["model.embed_tokens.weight"]
    words = np.fromfile(info.path, np.uint16, info.n_elements, offset=info.offset)
    for expert in experts:
        other = expert.tensors[info.name]
        moved = words != np.fromfile(other.path, np.uint16, other.n_elements, offset=other.offset)
        assert 0.05 < moved.mean() < 1


def test_checkpoints_are_made_once(tmp_path: Path) -> None:
    first = checkpoints.ensure(tmp_path / "m", TINY)
    stamps = [file.stat().st_mtime_ns for path in first for file in sorted(path.iterdir())]
    again = checkpoints.ensure(tmp_path / "m", TINY)
    assert stamps == [file.stat().st_mtime_ns for path in again for file in sorted(path.iterdir())]
    checkpoints.ensure(tmp_path / "m", dataclasses.replace(TINY, num_hidden_layers=1))
    assert len(Checkpoint.open(first[0]).tensors) < len(TINY.shapes())


@pytest.mark.parametrize("reserve", [False, True])
def test_copy_moves_every_byte(models: list[Path], tmp_path: Path, reserve: bool) -> None:
    files = sorted(models[0].glob("*.safetensors"))
    assert storage.copy(files, tmp_path / "out", 100_000, 2, reserve) > 0
    assert not (tmp_path / "out").exists()


def test_copy_refuses_a_short_read(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.preadv", lambda file, buffers, at: 0)
    with pytest.raises(OSError, match="moved 0 of"):
        storage.copy(sorted(models[0].glob("*.safetensors")), tmp_path / "out", 1000, 2, False)


def test_copy_refuses_steps_left_out(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_mixed", lambda reads, writes: writes)
    with pytest.raises(RuntimeError, match="moved 1000 bytes"):
        storage.copy(sorted(models[0].glob("*.safetensors")), tmp_path / "out", 1000, 2, False)


def test_child_reports_memory_and_failures() -> None:
    held = np.ones(1 << 25)
    small = child.run([sys.executable, "-c", "print('hello')"])
    large = child.run([sys.executable, "-c", "bytearray(b'x') * (1 << 27)"])
    assert small.output == "hello\n"
    assert small.peak_bytes < held.nbytes // 4
    assert large.peak_bytes > 1 << 27
    assert 0 < small.cpu_seconds < 60
    with pytest.raises(RuntimeError, match="exit status 3"):
        child.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_child_counts_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 24))
    command = [sys.executable, "-c", f"open({str(tmp_path / 'file')!r}, 'rb').read()"]
    base = child.run([sys.executable, "-c", ""])
    found = child.run(command)
    if base.read_bytes is not None and found.read_bytes is not None:
        assert 1 << 24 <= found.read_bytes - base.read_bytes < 1 << 25


def test_child_joins_a_control_group(tmp_path: Path) -> None:
    members = tmp_path / "cgroup.procs"
    assert child.run([sys.executable, "-c", "print(1)"], cgroup=tmp_path).output == "1\n"
    assert members.read_text().isdigit()


def test_compare() -> None:
    def result(seconds: float, core: str) -> compare.Result:
        row = Row({"job": "ties"}, [seconds, seconds])
        other = Row({"job": core}, [1.0])
        return {"machine": {"cpu": core}, "rows": [row.to_json_dict(), other.to_json_dict()]}

    old, new = result(2.0, "a"), result(1.0, "b")
    assert compare.compare(old, new).splitlines()[1].split() == ["job=ties", "2", "1", "0.50", "0%"]
    assert len(compare.differences(old, new)) == 3
    assert not compare.differences(old, old)
    assert compare.compare(old, {"rows": []}) == "the two results have no case in common"
