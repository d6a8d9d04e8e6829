"""The benchmarks run, and refuse results that are wrong. What they measure is not tested."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import (
    accuracy,
    compare,
    kernels,
    matrices,
    merge,
    sizes,
    startup,
    store,
    torch_ops,
    weighted,
)
from bench.support import checkpoints, child, harness, runs, storage
from bench.support.harness import Row
from bench.support.jobs import JOBS, Job, check, check_shapes
from bench.support.kernel_cases import CHECKED, Kernel, groups
from bench.support.store_check import check_same_content, check_store, check_unpacked
from tallies import Store, _core, cpu, methods, pack
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.store.codecs import registry as codecs

TINY = checkpoints.Llama(
    num_hidden_layers=2,
    vocab_size=300,
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=96,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return checkpoints.ensure(tmp_path_factory.mktemp("models"), TINY, shard_bytes=60_000)


def settings(directory: Path) -> merge.Settings:
    return merge.Settings(directory=directory, n_threads=2, repeat=1, cold=False)


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
    with pytest.raises(RuntimeError, match="exit status 3"):
        child.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_merge_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    rows = merge.Bench(TINY, settings(tmp_path)).run([None, "256MiB"])
    assert [row.case["job"] for row in rows] == ["copy", "copy", *2 * [job.name for job in JOBS]]
    for row in rows[2:]:
        assert row.facts["elements_checked"] > 0
        assert row.facts["peak_bytes"] > 0
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


def spoil(path: Path, name: str) -> None:
    """Change the first bit of a tensor."""
    info = Checkpoint.open(path).tensors[name]
    with open(info.path, "r+b") as file:
        file.seek(info.offset)
        first = file.read(1)
        file.seek(info.offset)
        file.write(bytes([first[0] ^ 1]))


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


def test_store_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    asked = ["--dir", str(tmp_path), "--repeat", "1", "--tasks", "2", "--threads", "2", "--sizes"]
    monkeypatch.setattr(checkpoints.Llama, "resized", lambda self, n: TINY)
    monkeypatch.setattr(sizes, "TRAINED", {"a": (1000, 900), "b": (5,), "c": ()})
    monkeypatch.setattr(sizes, "FROZEN", {"d": (100, 300), "e": ()})
    store.main(asked)
    rows = json.loads((tmp_path / "results" / "store.json").read_text())["rows"]
    by_job = {(row["case"]["job"], row["case"].get("max_memory")): row for row in rows}
    assert {f"pack {name}" for name in codecs.names()} == {
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


@pytest.fixture
def packed(models: list[Path], tmp_path: Path) -> Path:
    base, *experts = models
    out = tmp_path / "store"
    pack(base, {f"task-{i}": path for i, path in enumerate(experts, 1)}, out)
    return out


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


def test_kernel_rows() -> None:
    rows = kernels.run(3 * CHECKED, [1, 2], "", repeat=1, n_cache_bytes=1 << 16)
    timed = [row for row in rows if "target" in row.case]
    assert {row.case["target"] for row in timed} == set(cpu.targets())
    assert {(row.case["from"], row.case["threads"]) for row in timed} == {
        ("memory", 1),
        ("memory", 2),
        ("cache", 1),
    }
    assert "apply_mask" in kernels.show(rows)


def all_kernels() -> list[Kernel]:
    return [kernel for group in groups() for kernel in group(2 * CHECKED)]


@pytest.mark.parametrize(
    "kernel", all_kernels(), ids=lambda kernel: f"{kernel.name}-{kernel.dtype}"
)
def test_kernel_check_refuses_a_kernel_that_does_nothing(kernel: Kernel) -> None:
    if kernel.out is None:
        kernel.check()
        return
    with pytest.raises(RuntimeError, match="differ from the reference"):
        kernel.check()
    kernel.run(0, 2 * CHECKED)
    kernel.check()


@pytest.mark.parametrize(("name", "wrong"), [("dot", 1e9), ("fingerprint", [0] * 8)])
def test_kernel_check_refuses_a_wrong_sum(
    name: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = next(kernel for kernel in all_kernels() if kernel.name == name)
    monkeypatch.setattr(_core, name, lambda *arguments: wrong)
    with pytest.raises(RuntimeError, match=name):
        kernel.check()


def test_startup_rows() -> None:
    assert "tallies --help" in startup.show(startup.run(1))


def test_merges_and_switches(tmp_path: Path) -> None:
    rows = weighted.run(tmp_path / "models", repeat=1, n_tasks=2, n_elements=5000, llama=TINY)
    merges, switches = rows[:5], rows[5:]
    assert "tall store" in weighted.show(merges) and "activate" in weighted.show(switches)
    # The vector that tasks share, and of each task a bit for each of its parameters.
    n_parameters = TINY.n_parameters
    assert 2 * n_parameters <= switches[1].facts["held_bytes"] <= 2.4 * n_parameters


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


def test_accuracy_of_every_method_and_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "SCALES", (0.3,))
    rows, refused = accuracy.measure([0], base_steps=2, expert_steps=2)
    names = {str(row.case["name"]) for row in rows}
    assert names | set(refused) == {"base", "experts", *methods.names(), *codecs.names()}
    assert not set(refused) & set(codecs.names())
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
