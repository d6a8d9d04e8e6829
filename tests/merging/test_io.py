"""Merges, stores and their tasks have the same bytes however the inputs are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tallies import InputError, Store, merge, pack, plan
from tallies.engine import page_cache
from tests.support.checkpoints import Model, write
from tests.support.command import tallies, tree

WAYS = ["buffered", "direct", "auto"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two experts, whose tensors are tiny or larger than a block."""
    rng = np.random.default_rng(0)
    shapes = {"norm": (3,), "down": (700, 900), "up": (900, 701), "embed": (4000, 300), "scale": ()}
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for name in ("base", "math", "code"):
        model: Model = {
            key: np.asarray(rng.integers(-40, 40, shape) / 64, dtype=ml_dtypes.bfloat16)
            for key, shape in shapes.items()
        }
        paths.append(write(folder / name, model))
    return paths


@pytest.fixture
def cold(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are on disk alone, and seem larger than the memory."""
    monkeypatch.setattr(page_cache, "available_bytes", lambda: 1)
    for model in models:
        for path in model.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def contents(place: Path) -> dict[str, bytes]:
    """Return the files of a result but its report, which tells the time."""
    return {name: data for name, data in tree(place).items() if name != "tallies.json"}


@pytest.mark.parametrize("chosen", [{}, {"scope": "tensor"}, {"equal": "first"}], ids=str)
@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("io", WAYS)
def test_merges_have_the_same_bytes(
    models: list[Path], tmp_path: Path, io: str, chosen: dict[str, Any]
) -> None:
    base, *experts = models
    recipe = {
        "merge_method": "ties",
        "base_model": str(base),
        "models": [{"model": str(path)} for path in experts],
        "parameters": {"density": 0.3, **chosen},
    }
    report = merge(recipe, tmp_path / io, io=io)
    if io != "auto":  # the first miss may fetch all of so small files
        assert (report.bytes_direct > 0) == (io == "direct")
    assert report.to_json_dict()["bytes_direct"] == report.bytes_direct
    other = merge(recipe, tmp_path / "other", io="buffered", threads=1, max_memory="2MiB")
    assert other.output.fingerprint == report.output.fingerprint
    found, expected = contents(tmp_path / io), contents(tmp_path / "other")
    assert found.pop("README.md") and expected.pop("README.md")
    assert found == expected


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize(
    ("method", "chosen", "n_reads"),
    [
        ("linear", {}, 1),
        ("breadcrumbs", {}, 1),
        ("sce", {}, 2),
        ("sce", {"select_topk": 0.5}, 3),
        ("model_stock", {}, 2),
        ("pcb", {}, 3),
    ],
)
def test_all_that_a_merge_reads_is_counted(
    models: list[Path], tmp_path: Path, method: str, chosen: dict[str, Any], n_reads: int
) -> None:
    recipe = {
        "merge_method": method,
        "base_model": str(models[0]),
        "models": [{"model": str(path)} for path in models[1:]],
        "parameters": chosen,
    }
    made = plan(recipe)
    assert made.bytes_read == n_reads * made.bytes_combined
    for room, expected in (("1GiB", made.bytes_combined), ("1MiB", made.bytes_read)):
        report = merge(recipe, tmp_path / room, io="direct", threads=1, max_memory=room)
        # Tiny tensors fit any budget.
        assert report.bytes_read == pytest.approx(expected, rel=1e-3)
        # A search may take further passes over what a sample missed, more with little memory.
        most = 1.1 if room == "1GiB" else 1.5
        assert 0.95 < report.bytes_direct / report.bytes_read < most


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("codec", ["tall", "sparse", "bitdelta"])
def test_stores_and_tasks_have_the_same_bytes(
    models: list[Path], tmp_path: Path, codec: str
) -> None:
    base, *experts = models
    tasks = {path.name: path for path in experts}
    stores = {}
    for io in WAYS:
        report = pack(base, tasks, tmp_path / io, codec=codec, io=io)
        if io != "auto":  # by then the inputs are in the page cache
            assert (report.bytes_direct > 0) == (io == "direct")
        store = Store.open(tmp_path / io)
        unpacked = store.unpack("math", tmp_path / f"{io} math", io=io)
        if io != "auto":
            assert (unpacked.bytes_direct > 0) == (io == "direct")
        stores[io] = {
            name: data
            for place in (tmp_path / io, tmp_path / f"{io} math")
            for name, data in tree(place).items()
            if name.endswith(".safetensors")
        }
    assert stores["buffered"] == stores["direct"] == stores["auto"]


def test_the_option_is_checked(models: list[Path], tmp_path: Path) -> None:
    base, expert, _ = models
    asked = ["merge", "--method", "linear", "--model", base, "--model", expert]
    ended = tallies(*asked, "--out", tmp_path / "out", "--io", "direct", "--json")
    assert ended.status == 0
    assert '"bytes_direct": 0' not in ended.out
    ended = tallies(*asked, "--out", tmp_path / "refused", "--io", "mmap")
    assert ended.status == 2
    assert "'auto', 'buffered', 'direct'" in ended.err
    with pytest.raises(InputError, match="io: found 'mmap', expected auto, buffered or direct"):
        merge({"merge_method": "linear", "models": [str(expert)]}, tmp_path / "refused", io="mmap")
    assert not (tmp_path / "refused").exists()
