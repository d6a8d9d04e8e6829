"""A processor without any target is an error; targets ask for the features they are built with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = ROOT / "csrc/cpu/targets"

OLD_PROCESSOR = """
#include <cstdio>
#include "core/error.h"
#include "cpu/ops.h"
namespace tallies {
static bool never() { return false; }
static constexpr KernelTable table(const char* name) {
  KernelTable t{};
  t.target = name;
  t.runs_here = &never;
  return t;
}
extern const KernelTable avx512_table, avx2_table, baseline_table, generic_table;
constinit const KernelTable avx512_table = table("avx512");
constinit const KernelTable avx2_table = table("avx2");
constinit const KernelTable baseline_table = table("baseline");
constinit const KernelTable generic_table = table("generic");
}
int main() {
  using namespace tallies;
  for (int i = 0; i < 2; ++i) try { kernels(); } catch (const Error& e) { std::puts(e.what()); }
  try { set_target("avx2"); } catch (const Error& e) { std::puts(e.what()); }
}
"""


def compiler() -> str:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert found is not None, "needs a C++ compiler, which built the package"
    return found


def test_a_processor_without_any_target_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(OLD_PROCESSOR)
    program = tmp_path / "program"
    sources = [str(tmp_path / "main.cpp"), str(ROOT / "csrc/cpu/dispatch.cpp")]
    command = [compiler(), "-std=c++20", f"-I{ROOT / 'csrc'}", *sources, "-o", str(program)]
    subprocess.run(command, check=True)
    for forced, says in (
        ("", "this processor lacks instructions that every kernel needs"),
        ("avx2", "CPU target 'avx2' is not available on this machine; available: none"),
    ):
        done = subprocess.run(
            [program],
            env={**os.environ, "TALLIES_CPU_TARGET": forced},
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        assert len(lines) == 3 and len(set(lines)) == 1
        assert lines[0].startswith(says)


@pytest.mark.parametrize("target", ["avx512", "avx2", "baseline"])
def test_a_target_asks_for_the_level_that_it_is_built_for(target: str) -> None:
    """A level of x86-64 is a set of features; the system's part of it is asked for as well."""
    built = re.search(rf"march_{target} -march=([\w-]+)", (ROOT / "CMakeLists.txt").read_text())
    asked = re.findall(
        r'__builtin_cpu_supports\("([\w-]+)"\)', (TARGETS / f"{target}.cpp").read_text()
    )
    assert built is not None
    assert asked == [built[1]]
