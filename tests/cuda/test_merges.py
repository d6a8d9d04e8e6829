"""Merges of files on a device write the bytes of merges on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MERGE = """
import ctypes, json, os, sys
from pathlib import Path
import ml_dtypes, numpy as np
from safetensors.numpy import save_file
from tallies import _core, merge
from tallies.engine import device as rates

rng = np.random.default_rng(0)
base = {
    "f32": rng.normal(size=(300, 301)).astype(np.float32),
    "bf16": rng.normal(size=100_001).astype(ml_dtypes.bfloat16),
    "small": rng.normal(size=10).astype(np.float16),
}
for model in ("base", "a", "b"):
    tuned = {
        name: (x.astype(np.float32) + 0.01 * rng.integers(-2, 3, x.shape) * (model != "base"))
        for name, x in base.items()
    }
    Path(model).mkdir()
    save_file({name: x.astype(base[name].dtype) for name, x in tuned.items()},
              f"{model}/model.safetensors")
assert _core.link_rate() > 0 and _core.merge_rate(1, 1, 3, 2) > 0
rates.link_rate = lambda: float(sys.argv[1])
rates.merge_rate = lambda *_: 1e9
library = ctypes.CDLL(os.environ["TALLIES_CUDA_LIBRARY"])
for method, parameters in (
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.3, "scope": "tensor", "equal": "first"}),
    ("task_arithmetic", {}),
):
    recipe = {
        "merge_method": method,
        "semantics": "paper",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": parameters,
    }
    written = []
    for device in ("cpu", "cuda"):
        before = library.emulator_launches()
        report = merge(recipe, device, device=device, max_vram="8MiB", threads=3, overwrite=True)
        written.append((Path(device) / "model.safetensors").read_bytes())
        print(device, library.emulator_launches() > before, report.warnings)
    assert written[0] == written[1], method
"""


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("4e9", "cuda True []"),
        (
            "2e9",
            "cuda False ['--device cuda: merged on the processor instead: it gets its inputs at "
            "2 GB/s, and 3 threads of the processor merge them at up to 3 GB/s']",
        ),
    ],
)
def test_a_merge_on_a_device_writes_the_same_bytes(
    emulated: Path, tmp_path: Path, link: str, says: str
) -> None:
    env = {**os.environ, "TALLIES_CUDA_LIBRARY": str(emulated)}
    done = subprocess.run(
        [sys.executable, "-c", MERGE, link],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[::2] == ["cpu False []"] * 3
    assert lines[1::2] == [says] * 3
