"""Stores of any models against the reference, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import PackReport, Store, pack
from tallies.inspection.checkpoints import inspect
from tests.reference import tall
from tests.support import strategies
from tests.support.checkpoints import (
    Model,
    assert_holds,
    write,
)
from tests.support.expected_stores import (
    BF16,
    EMBEDDING,
    HEAD,
    KINDS,
    NAMES,
    SHARED,
    TIED,
    Expected,
    assert_files,
    assert_restores,
    expect,
    n_set,
    same,
    without_alias,
)


@st.composite
def families(draw: st.DrawFn) -> strategies.Models:
    """Models in which every tensor of every expert may have its own dtype, and some are frozen."""
    base, experts = draw(strategies.models(KINDS))
    kinds = st.sampled_from((None, None, None, *KINDS))
    with np.errstate(all="ignore"):
        for expert in experts:
            for name, array in expert.items():
                expert[name] = array.astype(draw(kinds) or array.dtype)
    frozen = draw(st.sets(st.sampled_from(sorted(base)))) if base else set()
    base |= {"ids": np.arange(7), "on": np.array([True, False])}
    if draw(st.booleans()):
        base[EMBEDDING] = draw(strategies.arrays(BF16, 20, 20)).reshape(5, 4)
        base[HEAD] = base[EMBEDDING]
        for expert in experts:
            expert[EMBEDDING] = draw(strategies.arrays(BF16, 20, 20)).reshape(5, 4)
            expert[HEAD] = expert[EMBEDDING]
    for expert in experts:
        expert |= {name: base[name] for name in (*frozen, "ids", "on")}
    return strategies.Models(base, experts)


lambdas = st.sampled_from([0.0, 0.2, 0.4, 1.0, 6.0])

densities = strategies.densities()

shared_dtypes = st.sampled_from([None, None, "F32", "BF16", "F16"])

CODECS = (
    ("tall", "ta"),
    ("tall", "ties"),
    ("tall", "each its own"),
    ("tall", "candidates"),
    ("emr", "code"),
    ("emr", "paper"),
    ("magnitude", ""),
    ("bitdelta", ""),
)


def draw_parameters(data: st.DataObject, codec: str, kind: str, tasks: list[str]) -> dict[str, Any]:
    """Parameters of a codec, some of them left to their defaults."""
    given: dict[str, Any] = {}
    if codec == "bitdelta":
        return data.draw(st.sampled_from([{}, {"dense": "B"}, {"dense": "embed"}]))
    if (shared_dtype := data.draw(shared_dtypes)) is not None:
        given["shared_dtype"] = shared_dtype
    if codec == "emr":
        return given if kind == "code" else {**given, "rescale": kind}
    if codec == "magnitude":
        return {**given, "density": data.draw(densities)} if data.draw(st.booleans()) else given
    if kind == "each its own":
        given["lambda"] = {task: data.draw(lambdas) for task in tasks}
    elif kind == "candidates":
        given["lambda"] = data.draw(st.lists(lambdas, min_size=2, max_size=3, unique=True))
    elif data.draw(st.booleans()):
        given["lambda"] = data.draw(lambdas)
    if kind == "ties" or data.draw(st.integers(0, 3)) == 0:
        given |= {"shared": "ties", "density": data.draw(densities)}
    return given


@pytest.mark.parametrize(("codec", "kind"), CODECS)
@settings(max_examples=40)
@given(families(), st.data())
def test_a_store_and_what_comes_back(
    codec: str, kind: str, models: strategies.Models, data: st.DataObject
) -> None:
    base = models.base
    tied = HEAD in base
    tasks = dict(zip(NAMES, models.experts, strict=False))
    parameters = draw_parameters(data, codec, kind, list(tasks))
    config = TIED if tied else None
    n_files = st.integers(1, len(base))
    expected = expect(base, tasks, codec, parameters, tied=tied)
    with TemporaryDirectory() as name:
        root = Path(name)
        write(root / "base", base, n_files=data.draw(n_files), config=config)
        paths = {
            task: write(root / task, model, n_files=data.draw(n_files), config=config)
            for task, model in tasks.items()
        }
        report = pack(
            root / "base",
            paths,
            root / "store",
            codec=codec,
            nonfinite="propagate",
            threads=data.draw(st.integers(1, 3)),
            max_memory=data.draw(st.sampled_from(["64KiB", "1GiB"])),
            **parameters,
        )
        assert_files(root / "store", expected)
        store = Store.open(root / "store")
        assert (store.codec, store.tasks) == (codec, tuple(tasks))
        assert_restores(store, expected)
        assert_reports(report, store, base, tasks, expected, tied=tied)
        key = data.draw(st.sampled_from(list(expected.models)))
        n_bytes = data.draw(st.sampled_from([1, 100, "5GB"]))
        options = {"max_memory": "64KiB", "threads": 2, "max_shard_size": n_bytes}
        unpacked = store.unpack(key[0], root / "out", mask_lambda=key[1], **options)
        assert_holds(root / "out", expected.models[key])
        found = inspect(root / "out")
        assert (unpacked.fingerprint, unpacked.files) == (found["fingerprint"], found["files"])
        assert unpacked.exact == same(expected.models[key], tasks[key[0]])


def assert_reports(
    report: PackReport,
    store: Store,
    base: Model,
    tasks: Mapping[str, Model],
    expected: Expected,
    *,
    tied: bool,
) -> None:
    """Counts, sizes, scales and fingerprints are as NumPy counts them."""
    own = without_alias(base) if tied else base
    trained = tall.trained_names(own, list(tasks.values()))
    masks = {file: dict(tensors) for file, tensors in expected.files.items() if file != SHARED}
    dense = []
    if store.codec == "bitdelta":
        first = masks[next(iter(masks))]
        dense = [name for name in trained if f"{name}::scale" not in first]
        for tensors in masks.values():
            for name in (*dense, *(name for name in tensors if name.endswith("::scale"))):
                del tensors[name]
    masked = [name for name in trained if name not in dense]
    frozen = [n for n in own if n not in trained and own[n].dtype.kind not in "biu"]
    assert (report.tensors_masked, report.tensors_dense) == (len(masked), len(dense))
    assert (report.tensors_frozen, report.tensors_copied) == (len(frozen), 2)
    n_masked = sum(base[name].size for name in masked)
    assert report.parameters_masked == n_masked
    assert report.parameters_trained == sum(base[name].size for name in trained)
    sizes = {file: (store.path / file).stat().st_size for file in expected.files}
    assert store.nbytes == report.n_bytes == sum(sizes.values())
    manifest = json.loads((store.path / "store.json").read_text())
    for one, scale in zip(report.tasks, expected.scales, strict=True):
        mine = [
            file for file in masks if file.split("/")[1] in (one.name, f"{one.name}.safetensors")
        ]
        counts = [n_set(masks[file], base) for file in mine]
        assert list(one.set_fraction.values()) == [n / n_masked if n_masked else 0 for n in counts]
        assert list(manifest["tasks"][one.name]["n_set"].values()) == counts
        assert one.n_bytes == sum(sizes[file] for file in mine)
        assert np.array_equal(one.scale, scale, equal_nan=True)
        assert one.fingerprint == inspect(one.source)["fingerprint"]
    assert report.base_fingerprint == inspect(report.base)["fingerprint"]
