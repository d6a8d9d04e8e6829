"""Stores of a large model are the same in every layout and on every instruction set."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import Store, cpu, pack
from tests.reference.dtype import narrow
from tests.support import strategies
from tests.support.checkpoints import (
    DTYPES,
    Model,
    assert_holds,
    assert_same_tensors,
    data_bytes,
    read_file,
    write,
)
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.expected_stores import (
    BF16,
    NAMES,
    SHARED,
    assert_files,
    assert_restores,
    expect,
)


class OnDisk(NamedTuple):
    base: Model
    tasks: dict[str, Model]
    single: Path
    sharded: Path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    """Three experts over a third of a million elements, whose task vectors often cancel exactly."""
    rng = np.random.default_rng(5)
    base = {
        "a.few": (rng.integers(-8, 8, (300, 331)) / 4).astype(np.float32),
        "b.smooth": rng.standard_normal((70_001,)).astype(BF16),
        "c.scalar": np.array(0.5, np.float16),
        "d.empty": np.zeros((0, 4), np.float32),
        "e.outliers": (rng.standard_normal((4, 5, 4001)) * 10.0).astype(np.float32),
        "f.few": (rng.integers(-4, 4, (501, 211)) / 4).astype(BF16),
        "g.frozen": np.ones(1000, np.float32),
        "ids": np.arange(5),
    }
    tasks: dict[str, Model] = {task: {} for task in NAMES[:3]}
    for name, tensor in base.items():
        for i, expert in enumerate(tasks.values()):
            expert[name] = tensor
            if name in ("ids", "g.frozen"):
                continue
            if "few" in name:
                delta = rng.integers(-4, 5, tensor.shape) / 4
            else:
                delta = rng.standard_normal(tensor.shape) * 0.1 * (i + 1)
            kind = (tensor.dtype, np.float32, tensor.dtype)[i]
            expert[name] = (tensor.astype(np.float64) + delta).astype(kind)
    root = tmp_path_factory.mktemp("large")
    for n_files, place in ((1, "single"), (3, "sharded")):
        for name, model in {"base": base, **tasks}.items():
            write(root / place / name, model, n_files=n_files)
    return OnDisk(base, tasks, root / "single", root / "sharded")


LARGE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tall", {}),
    ("tall", {"shared": "ties", "lambda": [0.2, 0.6]}),
    ("emr", {"shared_dtype": "BF16"}),
    ("emr", {"rescale": "paper"}),
    ("magnitude", {"density": 0.25}),
    ("bitdelta", {}),
)

LAYOUTS: tuple[tuple[bool, dict[str, Any]], ...] = (
    (False, {"threads": 1}),
    (False, {"threads": 3}),
    (False, {"threads": 3, "max_memory": "64KiB"}),
    (True, {"threads": 1, "max_memory": "64KiB"}),
    (True, {"threads": 2, "max_memory": "3MiB"}),
)
"""The number of input files, and options that must change no byte."""


@pytest.mark.parametrize(("codec", "parameters"), LARGE, ids=str)
def test_the_same_in_every_layout(
    large: OnDisk, tmp_path: Path, codec: str, parameters: dict[str, Any]
) -> None:
    expected = expect(large.base, large.tasks, codec, parameters)
    manifests: dict[bool, set[str]] = {False: set(), True: set()}
    for i, (sharded, options) in enumerate(LAYOUTS):
        root = large.sharded if sharded else large.single
        out = tmp_path / str(i)
        paths = {task: root / task for task in large.tasks}
        pack(root / "base", paths, out, codec=codec, **options, **parameters)
        assert_files(out, expected)
        manifests[sharded].add((out / "store.json").read_text())
    (single,), (split,) = manifests.values()
    said = [json.loads(text.replace("/sharded/", "/single/")) for text in (single, split)]
    for data in said:
        del data["checksum"]
    assert said[0] == said[1]
    one = Store.open(tmp_path / "0")
    key, model = next(iter(expected.models.items()))
    for i, (_, options) in enumerate(LAYOUTS):
        out = tmp_path / f"unpacked-{i}"
        one.unpack(key[0], out, mask_lambda=key[1], max_shard_size="300KB", **options)
        assert_holds(out, model)
    for threads in (1, 3):
        assert_same_tensors(one.load(key[0], mask_lambda=key[1], threads=threads), model)


@pytest.mark.parametrize(("codec", "parameters"), LARGE, ids=str)
def test_the_same_on_every_instruction_set(
    large: OnDisk, tmp_path: Path, codec: str, parameters: dict[str, Any]
) -> None:
    paths = {task: large.single / task for task in large.tasks}

    def files() -> tuple[dict[str, bytes], list[Model]]:
        out = tmp_path / cpu.target()
        pack(large.single / "base", paths, out, codec=codec, **parameters)
        lam = parameters["lambda"][0] if "lambda" in parameters else None
        store = Store.open(out)
        return data_bytes(out), [store.load(task, mask_lambda=lam) for task in store.tasks]

    (first, models), *others = on_every_target(files).values()
    assert len(first) > 3
    for found, loaded in others:
        assert found == first
        for model, expected in zip(loaded, models, strict=True):
            assert_same_tensors(model, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_comes_to_its_end(large: OnDisk, tmp_path: Path, threads: int) -> None:
    calls: list[tuple[int, int]] = []
    paths = {task: large.single / task for task in large.tasks}
    pack(
        large.single / "base",
        paths,
        tmp_path / "store",
        threads=threads,
        max_memory="64KiB",
        progress=lambda done, whole: calls.append((done, whole)),
    )
    assert calls == sorted(calls)
    assert len({whole for _, whole in calls}) == 1
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize("rescale", ["code", "paper"])
def test_a_factor_beyond_float32_is_infinite(tmp_path: Path, rescale: str) -> None:
    base = {"w": np.zeros(2, np.float32)}
    tasks = {
        "lost": {"w": np.array([-1e38, 1e-40], np.float32)},
        "wins": {"w": np.array([2e38, 0], np.float32)},
    }
    expected = expect(base, tasks, "emr", {"rescale": rescale})
    assert expected.scales == [np.inf, 1]
    paths = {task: write(tmp_path / task, model) for task, model in tasks.items()}
    options: dict[str, Any] = {"codec": "emr", "rescale": rescale, "nonfinite": "propagate"}
    pack(write(tmp_path / "base", base), paths, tmp_path / "store", **options)
    assert_files(tmp_path / "store", expected)
    assert_restores(Store.open(tmp_path / "store"), expected)


def test_other_files_of_the_model_come_along(large: OnDisk, tmp_path: Path) -> None:
    for name in ("base", "math"):
        model = large.base if name == "base" else large.tasks[name]
        write(tmp_path / name, model, config={"name": name})
        (tmp_path / name / "tokenizer").mkdir()
        (tmp_path / name / "tokenizer/vocab.txt").write_text(name)
    pack(tmp_path / "base", {"math": tmp_path / "math"}, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    for donor, options in (("math", {}), ("base", {"files_from": tmp_path / "base"})):
        report = store.unpack("math", tmp_path / "out", overwrite=True, **options)
        assert report.auxiliary_files == ["config.json", "tokenizer/vocab.txt"]
        assert json.loads((tmp_path / "out/config.json").read_text()) == {"name": donor}
        assert (tmp_path / "out/tokenizer/vocab.txt").read_text() == donor


@pytest.mark.parametrize(
    ("codec", "parameters"),
    [("tall", {}), ("tall", {"lambda": 6.0}), ("emr", {}), ("magnitude", {"density": 1.0})],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
@settings(max_examples=10)
@given(st.data())
def test_one_task_comes_back_bit_for_bit(
    codec: str, parameters: dict[str, Any], dtype: str, data: st.DataObject
) -> None:
    """The shared vector of one task is its own, and steps of 1/4 round nowhere."""
    kind = DTYPES[dtype]
    n = data.draw(strategies.sizes())
    steps = data.draw(st.binary(min_size=2 * n, max_size=2 * n))
    quarters = np.frombuffer(steps, np.int8).reshape(2, n) // 8 / 4
    base, expert = ({"w": row.astype(kind)} for row in quarters)
    with TemporaryDirectory() as name:
        root = Path(name)
        write(root / "base", base)
        write(root / "one", expert)
        pack(root / "base", {"one": root / "one"}, root / "store", codec=codec, **parameters)
        report = Store.open(root / "store").unpack("one", root / "out")
        assert report.exact
        assert_holds(root / "out", expert)


@pytest.mark.parametrize("shared_dtype", [None, "F32", "BF16", "F16"])
@pytest.mark.parametrize("codec", ["tall", "emr", "magnitude"])
def test_the_shared_vector_has_the_dtype_asked_for(
    large: OnDisk, tmp_path: Path, codec: str, shared_dtype: str | None
) -> None:
    """Masks and scales come from the sum before it is rounded, so that they stay the same."""
    paths = {task: large.single / task for task in large.tasks}
    own: dict[str, Any] = {} if shared_dtype is None else {"shared_dtype": shared_dtype}
    both: tuple[dict[str, Any], ...] = ({"shared_dtype": "F32"}, own)
    reports = [
        pack(large.single / "base", paths, tmp_path / str(i), codec=codec, **parameters)
        for i, parameters in enumerate(both)
    ]
    exact, rounded = (read_file(tmp_path / str(i) / SHARED) for i in (0, 1))
    assert exact.keys() == rounded.keys()
    assert len(exact) == 5
    for name, array in exact.items():
        kind = large.base[name].dtype if shared_dtype is None else DTYPES[shared_dtype]
        assert_same_bits(rounded[name], narrow(array, kind))
    masks = [
        {file: data for file, data in data_bytes(tmp_path / str(i)).items() if "tasks/" in file}
        for i in (0, 1)
    ]
    assert len(masks[0]) == 3
    assert masks[0] == masks[1]
    assert [t.scale for t in reports[0].tasks] == [t.scale for t in reports[1].tasks]
