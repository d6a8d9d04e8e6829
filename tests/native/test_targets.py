"""The instruction set in use is the best, the one that is set, or that of the environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tallies import InputError, cpu
from tests.support.everywhere import on_every_target


def test_the_best_target_is_first_and_the_one_in_use_is_among_them() -> None:
    assert len(set(cpu.targets())) == len(cpu.targets()) >= 1
    assert cpu.targets()[-1] in ("baseline", "generic")
    assert cpu.target() in cpu.targets()


def test_set_target_is_in_use_until_the_next_one() -> None:
    assert on_every_target(cpu.target) == {target: target for target in cpu.targets()}


def test_an_unknown_target_is_refused_and_changes_nothing() -> None:
    before = cpu.target()
    with pytest.raises(InputError, match=f"'mmx' is not available .*: {cpu.targets()[0]}"):
        cpu.set_target("mmx")
    assert cpu.target() == before


def run_with_target(name: str | None) -> subprocess.CompletedProcess[str]:
    script = """
import numpy as np, sys
from tallies import InputError, cpu, kernels
x = (np.arange(2000, dtype=np.float32) % 37 - 18) / 7
try:
    merged = kernels.ties(x, [x * np.float32(1.1), x * x], density=0.3)
    print(cpu.target(), merged.tobytes().hex()[:400], cpu.target())
except InputError as error:
    sys.exit(str(error))
"""
    env = {key: value for key, value in os.environ.items() if key != "TALLIES_CPU_TARGET"}
    if name is not None:
        env["TALLIES_CPU_TARGET"] = name
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False
    )


def test_the_environment_forces_a_target_and_the_bits_are_the_same() -> None:
    results = set()
    for forced, used in [(None, cpu.targets()[0]), ("", cpu.targets()[0])] + [
        (target, target) for target in cpu.targets()
    ]:
        run = run_with_target(forced)
        assert run.returncode == 0, run.stderr
        first, merged, last = run.stdout.split()
        assert first == last == used
        results.add(merged)
    assert len(results) == 1


def test_an_unknown_target_in_the_environment_is_one_line() -> None:
    run = run_with_target("avx1024")
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "'avx1024' is not available on this machine; available: " in run.stderr
    assert all(target in run.stderr for target in cpu.targets())
