"""The tests that other tools bring along pass on our kernels as they do alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as tree
from pathlib import Path

import pytest

from tests.support.sdists import unpacked

PLUGINS = Path(__file__).parent / "plugins"

# These fail alone as well: the newer transformers made them evaluate a name that is not there.
FAILS_ALONE = {"test_run_valid_modelpool", "test_run_solar_model"}


def run(folder: Path, host: str, *arguments: str) -> tuple[dict[str, int], set[str], dict]:
    """Run a host's tests with ours beneath; return counts, names that failed, and calls."""
    report = folder / "report.xml"
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-o", "addopts=", f"--junitxml={report}", "-p", "on_ours", "--host", host),
            *arguments,
        ],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, sys.path)]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    (suite,) = tree.parse(report).getroot()
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    found = re.search(r"^calls: (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return counts, failed, json.loads(found[1])


@pytest.mark.parametrize(("options", "n_ours"), [((), 100), (("--inexact",), 1000)])
def test_those_of_mergekit(tmp_path, options, n_ours):
    # Away from the source of the package, which is installed, and with helpers that it lacks.
    shutil.move(unpacked("mergekit-0.1.5", tmp_path) / "tests", tmp_path / "tests")
    shutil.copy(PLUGINS / "mergekit_common.py", tmp_path / "tests" / "common.py")
    (tmp_path / "tests" / "__init__.py").touch()
    counts, failed, calls = run(tmp_path, "mergekit", "tests", *options)
    assert counts == {"tests": 600, "failures": 0, "errors": 0, "skipped": 82}, failed
    assert calls["ours"] > n_ours, calls


def test_those_of_peft(tmp_path):
    folder = unpacked("peft-0.21.2", tmp_path)
    (folder / "tests" / "__init__.py").touch()
    files = ("custom", "decoder", "encoder_decoder", "feature_extraction")
    counts, failed, calls = run(
        folder,
        "peft",
        *(f"tests/test_{name}_models.py" for name in files),
        *("-k", "weighted", "-p", "local_models"),
    )
    assert counts == {"tests": 504, "failures": 0, "errors": 0, "skipped": 402}, failed
    assert calls["ours"] > 500, calls


def test_those_of_fusion_bench(tmp_path):
    # Away from the source of the package, which is installed.
    shutil.move(unpacked("fusion_bench-0.2.33", tmp_path) / "tests", tmp_path / "tests")
    counts, failed, calls = run(tmp_path, "fusion_bench", "tests")
    assert failed <= FAILS_ALONE
    assert counts == {"tests": 23, "failures": len(failed), "errors": 0, "skipped": 0}
    assert calls["ours"] > 0, calls
