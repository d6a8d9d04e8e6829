"""Fixtures that several tests of merges share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import MergeReport, merge
from tests.support import stages, strategies
from tests.support.checkpoints import INDEX, Model, data_bytes, write
from tests.support.command import tree
from tests.support.killable import Killer
from tests.support.merges import BF16, layered
from tests.support.refusals import BASE, changed
from tests.support.stages import OPTIONS


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer()
    yield process
    process.close()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return stages.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def done(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> MergeReport:
    """The merge of ``recipe`` when nothing happens meanwhile."""
    report = merge(recipe, tmp_path_factory.mktemp("result") / "out", **OPTIONS)
    assert report.reads is not None
    assert report.reads["repaired"] > 0
    assert report.tensors_tied == 1
    assert len(report.output.files) == 5
    return report


@pytest.fixture(scope="module")
def result(done: MergeReport) -> dict[str, bytes]:
    """The files of that merge."""
    files = data_bytes(Path(done.output.path))
    assert INDEX in files
    return files


@pytest.fixture
def inputs_stay(recipe: dict[str, Any]) -> Iterator[None]:
    """Assert that no test changes the inputs."""
    root = Path(recipe["base_model"]).parent
    before = tree(root)
    yield
    assert tree(root) == before


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "out"


@pytest.fixture(scope="module")
def large() -> strategies.Models:
    """Three experts over half a million elements: equal magnitudes, cancellations, odd values.

    The signs of the first tensors' votes are mostly positive and those of the last, larger one
    mostly negative, so that what a cancelled vote takes is guessed wrong first.
    """
    rng = np.random.default_rng(5)
    base = {
        "a.few": (rng.integers(-8, 8, (300, 331)) / 4).astype(np.float32),
        "b.smooth": rng.standard_normal((70_001,)).astype(BF16),
        "c.scalar": np.array(0.5, np.float16),
        "d.empty": np.zeros((0, 4), np.float32),
        "e.outliers": (rng.standard_normal((4, 5, 4001)) * 10.0).astype(np.float32),
        "f.few": (rng.integers(-4, 4, (1000, 211)) / 4).astype(BF16),
        "ints": np.arange(5, dtype=np.int64),
    }
    experts: list[Model] = [{} for _ in range(3)]
    for name, tensor in base.items():
        for e, expert in enumerate(experts):
            if name == "ints":
                delta: Any = 0
            elif "few" in name:
                # Few steps of equal sizes: the experts often cancel each other exactly.
                steps = rng.integers(-4, 5, tensor.shape) / 4
                one_way = 1 if name[0] == "a" else -1
                delta = np.where(rng.random(tensor.shape) < 0.05, one_way, steps)
            else:
                delta = rng.standard_normal(tensor.shape) * 0.1 * (e + 1)
            kind = (tensor.dtype, np.float32, tensor.dtype)[e] if name != "ints" else np.int64
            expert[name] = (tensor.astype(np.float64) + delta).astype(kind)
    return strategies.Models(base, experts)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Model], list[Path]]:
    root = tmp_path_factory.mktemp("layers")
    models = [layered(seed) for seed in range(3)]
    return models, [write(root / str(i), model) for i, model in enumerate(models)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a base, two experts ``a`` and ``b``, and room for more models."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    write(Path("base"), BASE, config={"model_type": "toy"})
    write(Path("a"), changed())
    write(Path("b"), changed(layer_weight=np.ones((4, 4), np.float32)))
    return tmp_path
