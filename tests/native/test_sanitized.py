"""Streams under a sanitizer: passes at once, in threads, held arrays, reads ahead and errors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.cmake import build

OPTIONS = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "TSAN_OPTIONS": "halt_on_error=1"}


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_streams(tmp_path: Path, sanitizer: str) -> None:
    build(
        Path(__file__).parent / "sanitized", tmp_path / "build", "streams", {"SANITIZER": sanitizer}
    )
    # The sanitizer of threads finds no room for its own memory if addresses are very random. Some
    # containers forbid to change that.
    fixed = ["setarch", "-R"]
    may_fix = subprocess.run([*fixed, "true"], capture_output=True, check=False).returncode == 0
    command = [*(fixed if may_fix else []), tmp_path / "build/streams", tmp_path]
    done = subprocess.run(
        command, env={**os.environ, **OPTIONS}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
