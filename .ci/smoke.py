"""An installed wheel at work: import, ``tallies info``, and a merge of generated checkpoints."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

VALUES = {"base": [0.0, 0.0, 0.0, 0.0], "a": [4.0, 1.0, -2.0, 0.0], "b": [2.0, -3.0, 1.0, 0.0]}
MERGED = [3.0, -3.0, -2.0, 0.0]  # TIES at density 1: the mean of what has the elected sign


def write(path: Path, values: list[float]) -> None:
    data = struct.pack(f"<{len(values)}f", *values)
    entry = {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}
    header = json.dumps({"weight": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def tallies(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-I", "-m", "tallies", *map(str, arguments)], check=True)


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    for model, values in VALUES.items():
        write(folder / f"{model}.safetensors", values)
    tallies("info")
    base, a, b = (folder / f"{model}.safetensors" for model in VALUES)
    out = folder / "out"
    request = ["--base", base, "--model", a, "--model", b, "--param", "density=1", "--out", out]
    tallies("merge", "--method", "ties", *request)
    data = (out / "model.safetensors").read_bytes()[-16:]
    assert list(struct.unpack("<4f", data)) == MERGED, data
print("smoke test passed")
