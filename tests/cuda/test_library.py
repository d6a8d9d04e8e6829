"""The library of CUDA kernels: its exports, its devices, and any number of processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bench.cuda
import bench.support.harness
from tallies import _core
from tests.support.cuda_table import CudaTable


def test_results_do_not_depend_on_the_size_of_the_device(emulated: Path) -> None:
    table = CudaTable(emulated)
    rng = np.random.default_rng(0)
    x = rng.normal(size=100_003).astype(np.float32)
    there = table.put(x)

    def compute() -> list[bytes]:
        mask, lanes = table.empty(x.size // 8 + 1), table.empty(8 * 8 * 49)
        work, result = table.empty(table.size("selection_bytes", 50_000)), table.empty(24)
        table("magnitude_mask", there.address, 0x3F000000, None, mask.address, x.size, None)
        table("sum_magnitudes", there.address, x.size, lanes.address, None)
        table("begin_selection", work.address, 50_000, 7_000, None)
        for digit in range(3):
            table("count_digit", work.address, digit, None, there.address, x.size, None)
            table("pick_digit", work.address, digit, result.address, None, None)
        sizes = ((mask, x.size // 8 + 1), (lanes, 8 * 8 * 49), (result, 24))
        return [memory.read(np.uint8, n).tobytes() for memory, n in sizes]

    results = []
    for n_processors in (1, 2, 3, 50):
        table.library.emulator_set_processors(n_processors)
        results.append(compute())
    table.library.emulator_set_processors(1)
    assert results == [results[0]] * len(results)


def test_the_benchmark_runs_and_checks(
    emulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench.support.harness, "RESULTS", tmp_path)
    arguments = ["--library", str(emulated), "--elements", "16384", "--repeat", "1"]
    bench.cuda.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[0].startswith("kernel") and lines[1].startswith("copy")
    (result,) = tmp_path.glob("cuda-emulator-*.json")
    assert len(json.loads(result.read_text())["rows"]) == 11


def test_the_library_exports_its_table_alone() -> None:
    library = Path(_core.__file__).parent / "_cuda.so"
    if not library.exists():
        pytest.skip("no nvcc where the package was built")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == ["tallies_cuda_table"]


def in_fresh_python(library: str, code: str) -> str:
    env = {**os.environ, "TALLIES_CUDA_LIBRARY": library}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.strip()


def say(library: str | Path) -> str:
    code = "from tallies import cuda; print(cuda.problem(), [d.name for d in cuda.devices()])"
    return in_fresh_python(str(library), code)


def test_the_emulated_device_is_found(emulated: Path) -> None:
    assert say(emulated) == "None ['emulator']"


def test_why_there_is_no_device_is_one_sentence(tmp_path: Path) -> None:
    missing = say(tmp_path / "_cuda.so")
    assert missing == (
        "no CUDA kernels in this build (no _cuda.so); build it where nvcc is, with "
        "TALLIES_CUDA=ON []"
    )
    (tmp_path / "broken.so").write_bytes(b"not a library")
    assert say(tmp_path / "broken.so").startswith("the CUDA kernels do not load: ")
    other = say(_core.__file__)
    assert other.endswith("is of another version of tallies; install both together []")
