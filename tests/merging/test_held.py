"""Surveyed inputs are read once where they fit the budget, with the same result as read twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tallies import merge, pack
from tests.support.checkpoints import write
from tests.support.command import tree
from tests.support.merges import request

SHAPES = {"up": (1500, 700), "down": (700, 900), "norm": (300,), "scale": ()}
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
# A budget for all of the inputs, for one tensor of them, and for none.
ROOMY, NARROW, TIGHT = "256MiB", "40MiB", "1MiB"

MERGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "breadcrumbs by tensor": (
        "breadcrumbs_ties",
        {"density": 0.6, "gamma": 0.1},
        {"semantics": "mergekit"},
    ),
    "breadcrumbs, l1": (
        "breadcrumbs",
        {"density": 0.6, "gamma": 0.1, "rescale": "l1"},
        {"semantics": "mergekit"},
    ),
    "ties, l1": ("ties", {"density": 0.3, "rescale": "l1"}, {"semantics": "mergekit"}),
    "dare, l1": ("dare_ties", {"density": 0.6, "rescale": "l1"}, {"semantics": "mergekit"}),
    "della": ("della", {"density": 0.6}, {"semantics": "mergekit"}),
    "sce": ("sce", {}, {}),
    "sce of some": ("sce", {"select_topk": 0.4}, {"semantics": "mergekit"}),
    "pcb": ("pcb", {}, {}),
    "ramplus": ("ramplus", {}, {}),
    "model_stock": ("model_stock", {}, {}),
}
PACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "magnitude": ("magnitude", {}),
    "sparse": ("sparse", {"density": 0.2}),
    "sparse by tensor": ("sparse", {"density": 0.2, "scope": "tensor"}),
}


@pytest.fixture(scope="module", params=DTYPES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    rng = np.random.default_rng(3)
    base = {name: rng.normal(0, 0.1, shape) for name, shape in SHAPES.items()}
    dtype = DTYPES[request.param]
    paths = []
    for i in range(4):
        own = {name: x + (i > 0) * rng.normal(0, 0.01, x.shape) for name, x in base.items()}
        model = {name: np.asarray(x, np.float32).astype(dtype) for name, x in own.items()}
        paths.append(write(tmp_path_factory.mktemp("models") / f"m{i}", model))
    return paths


def bytes_read(work: Callable[[], object]) -> int:
    """Return the bytes that the kernel counted for all reads of this process."""

    def count() -> int:
        with open("/proc/self/io") as counts:
            return int(counts.readline().split()[1])

    before = count()
    work()
    return count() - before


def size(models: list[Path]) -> int:
    return sum((model / "model.safetensors").stat().st_size for model in models)


def contents(place: Path) -> dict[str, bytes]:
    """Return the tensor files of a result."""
    return {name: data for name, data in tree(place).items() if name.endswith(".safetensors")}


@pytest.mark.parametrize("case", MERGES)
def test_merges_read_their_inputs_once(models: list[Path], tmp_path: Path, case: str) -> None:
    method, parameters, keys = MERGES[case]
    recipe = request(method, models[1:], base=models[0], parameters=parameters, **keys)
    shares, results = {}, {}
    for room in (ROOMY, NARROW, TIGHT):
        out = tmp_path / room

        def work(room: str = room, out: Path = out) -> None:
            merge(recipe, out, max_memory=room, threads=2)

        shares[room] = bytes_read(work) / size(models)
        results[room] = contents(out)
    assert results[ROOMY] == results[NARROW] == results[TIGHT]
    assert shares[ROOMY] < 1.3 < 1.9 < shares[TIGHT]
    assert shares[ROOMY] <= shares[NARROW] <= shares[TIGHT]


@pytest.mark.parametrize("case", PACKS)
def test_packs_read_their_inputs_once(models: list[Path], tmp_path: Path, case: str) -> None:
    codec, parameters = PACKS[case]
    tasks = {f"t{i}": model for i, model in enumerate(models[1:])}
    shares, results = {}, {}
    for room in (ROOMY, NARROW, TIGHT):
        out = tmp_path / room

        def work(room: str = room, out: Path = out) -> None:
            pack(models[0], tasks, out, codec=codec, max_memory=room, threads=2, **parameters)

        shares[room] = bytes_read(work) / size(models)
        results[room] = contents(out)
    assert results[ROOMY] == results[NARROW] == results[TIGHT]
    # A sparse task reads the base for itself, and its own values once more.
    assert shares[ROOMY] < 1.3 + 0.7 * (codec == "sparse")
    assert shares[ROOMY] + 0.7 < shares[TIGHT]
