"""The size of stores, and the memory that packing takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import pack
from tests.support.checkpoints import (
    DTYPES,
    write,
)
from tests.support.expected_stores import SHARED


def vit(width: int = 64, depth: int = 3) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a vision transformer, as CLIP names them."""
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "patch_embedding.weight": (width, 3, 4, 4),
        "position_embedding.weight": (50, width),
        "proj": (width, width // 2),
        "logit_scale": (),
    }
    for norm in ("pre_layernorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for i in range(depth):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"layers.{i}.self_attn.{part}.weight"] = (width, width)
            shapes[f"layers.{i}.self_attn.{part}.bias"] = (width,)
        shapes[f"layers.{i}.mlp.fc1.weight"] = (4 * width, width)
        shapes[f"layers.{i}.mlp.fc1.bias"] = (4 * width,)
        shapes[f"layers.{i}.mlp.fc2.weight"] = (width, 4 * width)
        shapes[f"layers.{i}.mlp.fc2.bias"] = (width,)
    return shapes


def data_size(path: Path) -> int:
    """Bytes of a safetensors file after its header."""
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize("shared_dtype", ["F32", "BF16"])
@pytest.mark.parametrize("codec", ["tall", "emr", "magnitude", "bitdelta"])
def test_the_size_is_that_of_the_mathematics(tmp_path: Path, codec: str, shared_dtype: str) -> None:
    rng = np.random.default_rng(2)
    shapes = vit()
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    write(tmp_path / "base", base)
    for i in range(3):
        expert = {n: a + np.float32(0.01) * rng.standard_normal(a.shape) for n, a in base.items()}
        write(tmp_path / str(i), {n: np.asarray(a, np.float32) for n, a in expert.items()})
    tasks = {f"task {i}": tmp_path / str(i % 3) for i in range(20)}
    store = tmp_path / "store"
    own: dict[str, Any] = {} if codec == "bitdelta" else {"shared_dtype": shared_dtype}
    report = pack(tmp_path / "base", tasks, store, codec=codec, **own)
    sizes = {name: array.size for name, array in base.items()}
    n = sum(sizes.values())
    n_bits = sum((size + 7) // 8 for size in sizes.values())
    if codec == "bitdelta":
        coded = [x for x, shape in shapes.items() if len(shape) == 2 and "embed" not in x]
        dense = sum(size for name, size in sizes.items() if name not in coded)
        n_bits = sum((sizes[x] + 7) // 8 for x in coded) + 4 * len(coded) + 4 * dense
    else:
        assert data_size(store / SHARED) == n * DTYPES[shared_dtype].itemsize
    for task in tasks:
        assert data_size(store / f"tasks/{task}.safetensors") == n_bits
    whole = 20 * n_bits + (0 if codec == "bitdelta" else n * DTYPES[shared_dtype].itemsize)
    files = [path for path in store.rglob("*") if path.is_file()]
    assert len(files) == 21 + (codec != "bitdelta")
    assert whole < sum(path.stat().st_size for path in files) < whole * 1.01 + 20_000 * len(files)
    assert report.paper_bits == {"experts": 32 * 20 * n, "store": (64 + 20) * n}


PEAKS = """
import os, sys
import tallies

root, size, codec = sys.argv[1:]
tasks = {f"t{i}": f"{root}/{size}-{1 + i % 2}.safetensors" for i in range(20)}
parameters = {"shared": "ties"} if codec == "tall" else {}
options = {"max_memory": "16MiB", "threads": 2}
out = f"{root}/{size}-{codec}"
base = f"{root}/{size}-0.safetensors"
packed = tallies.pack(base, tasks, out, codec=codec, **options, **parameters)
report = tallies.Store.open(out).unpack("t3", f"{out}-t3", **options)
print(packed.peak_memory_bytes, report.peak_memory_bytes)
"""


@pytest.fixture(scope="module")
def larger_than_the_budget(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts of 160 MB each, a matrix and a vector, and the same in small."""
    root = tmp_path_factory.mktemp("memory")
    noise = np.random.default_rng(0).standard_normal(1_000_000, np.float32)
    for i in range(3):
        matrix = np.tile(noise * np.float32(i + 1), 38).reshape(-1, 1000)
        model = {"matrix": matrix, "vector": np.roll(noise, i)}
        write(root / f"large-{i}.safetensors", model)
        write(root / f"small-{i}.safetensors", {name: a[:100] for name, a in model.items()})
    return root


@pytest.mark.parametrize("codec", ["tall", "bitdelta"])
def test_memory_stays_within_the_budget(larger_than_the_budget: Path, codec: str) -> None:
    peaks = {}
    for size in ("small", "large"):
        command = [sys.executable, "-c", PEAKS, str(larger_than_the_budget), size, codec]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[size] = [int(word) for word in done.stdout.split()]
    assert max(peaks["large"]) <= (16 + 150) << 20
    # That bound alone would let a process keep a whole model.
    for small, at_large in zip(peaks["small"], peaks["large"], strict=True):
        assert at_large - small <= 64 << 20
