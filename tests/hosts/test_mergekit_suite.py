"""mergekit's own tests, from its source distribution, on our kernels: the same counts as alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = os.environ.get("TALLIES_HOST_SOURCES", "")
PLUGINS = Path(__file__).parent / "plugins"
PACKAGE = Path(__file__).parents[2] / "python"

pytestmark = pytest.mark.skipif(
    not SOURCES, reason="TALLIES_HOST_SOURCES names no folder with mergekit's source distribution"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with mergekit's tests and the helpers that its sdist lacks."""
    found = tmp_path_factory.mktemp("mergekit") / "tests"
    shutil.copytree(Path(SOURCES) / "mergekit-0.1.5" / "tests", found)
    shutil.copy(PLUGINS / "mergekit_common.py", found / "common.py")
    return found.parent


def run(folder: Path, *options: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many tests ended in which way, and the counts of calls."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PLUGINS), str(PACKAGE)])}
    command = [sys.executable, "-m", "pytest", "-q", "tests", "-p", "no:cacheprovider", *options]
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    ended = dict(
        (how, int(n))
        for n, how in re.findall(r"(\d+) (passed|failed|skipped|errors?)", ran.stdout[-400:])
    )
    assert set(ended) == {"passed", "skipped"}, ran.stdout[-3000:] + ran.stderr[-1000:]
    calls = re.search(r"^calls: (.*)$", ran.stdout, re.MULTILINE)
    return ended, json.loads(calls[1]) if calls else {}


def test_all_tests_end_as_without_our_kernels(folder: Path) -> None:
    alone, _ = run(folder)
    exact, calls = run(folder, "-p", "on_ours", "--host", "mergekit")
    assert exact == alone
    assert alone["passed"] == 518
    assert calls["ours"] > 100
    inexact, calls = run(folder, "-p", "on_ours", "--host", "mergekit", "--inexact")
    assert inexact == alone
    assert calls["ours"] > 1000
