"""Whole stores on disk: the bytes of their files, what comes back, what does not change them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import PackReport, Store, cpu, pack
from tallies.inspection.checkpoints import inspect
from tests.reference import bitdelta, emr, magnitude, tall
from tests.reference.dtype import narrow
from tests.reference.masks import unpack_bits
from tests.support import strategies
from tests.support.checkpoints import (
    DTYPES,
    Array,
    Model,
    assert_holds,
    assert_same_tensors,
    data_bytes,
    read_file,
    write,
)
from tests.support.everywhere import assert_same_bits, on_every_target

BF16 = np.dtype(ml_dtypes.bfloat16)
NAMES = ("math", "code", "chat", "ψ 4")
SHARED = "shared.safetensors"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TIED = {"tie_word_embeddings": True}

F32, F16, F64 = (np.dtype(kind) for kind in (np.float32, np.float16, np.float64))
KINDS = (F32, BF16, F16, F64) * 2 + strategies.DTYPES[4:]
"""Formats in the shares in which they are drawn: a fifth is float8."""


# What a store must hold, by the reference.


class Expected(NamedTuple):
    """Files by name; the models by task and, where there are several, lambda."""

    files: dict[str, Model]
    models: dict[tuple[str, float | None], Model]
    scales: list[float]


def without_alias(model: Model) -> Model:
    return {name: array for name, array in model.items() if name != HEAD}


def expect(
    base: Model,
    tasks: Mapping[str, Model],
    codec: str,
    parameters: Mapping[str, Any],
    *,
    tied: bool = False,
) -> Expected:
    """The store of these experts; with ``tied`` the output head is the embedding."""
    given_base, experts = base, list(tasks.values())
    if tied:
        base, experts = without_alias(base), [without_alias(one) for one in experts]
    if codec == "bitdelta":
        found = _expect_bitdelta(base, dict(zip(tasks, experts, strict=True)), parameters)
    else:
        found = _expect_masks(base, dict(zip(tasks, experts, strict=True)), codec, parameters)
    if tied:
        for model in found.models.values():
            model[HEAD] = model[EMBEDDING]
    assert all(model.keys() == given_base.keys() for model in found.models.values())
    return found


def _expect_masks(
    base: Model, tasks: Mapping[str, Model], codec: str, parameters: Mapping[str, Any]
) -> Expected:
    experts = list(tasks.values())
    xs = tall.vectors(base, experts, tall.trained_names(base, experts))
    scales = [1.0] * len(tasks)
    masks: dict[float | None, list[tall.Masks]]
    if codec == "tall":
        shared = tall.shared_vector(xs, *shared_options(parameters))
        lam = parameters.get("lambda", 0.4)
        if isinstance(lam, Mapping):
            masks = {None: tall.masks(xs, shared, [lam[task] for task in tasks])}
        elif isinstance(lam, Sequence):
            masks = {one: tall.masks(xs, shared, one) for one in lam}
        else:
            masks = {None: tall.masks(xs, shared, lam)}
    elif codec == "emr":
        shared = emr.unified_vector(xs)
        masks = {None: emr.masks(xs, shared)}
        # A tensor without elements has no mean, and adds nothing.
        full = [{name: x for name, x in vector.items() if x.size} for vector in xs]
        elected = {name: u for name, u in shared.items() if u.size}
        scales = emr.scales(full, elected, parameters.get("rescale", "code"))
    else:
        shared = tall.shared_vector(xs)
        masks = {None: magnitude.masks(xs, parameters.get("density", 0.1))}
    kind = parameters.get("shared_dtype")
    stored = tall.stored(shared, base, kind and DTYPES[kind])
    files: dict[str, Model] = {SHARED: stored}
    models = {}
    for lam, by_task in masks.items():
        for task, bits, scale in zip(tasks, by_task, scales, strict=True):
            place = f"tasks/{task}" if lam is None else f"candidates/{task}/{lam:g}"
            files[f"{place}.safetensors"] = dict(bits)
            models[task, lam] = tall.unpack(base, stored, bits, scale)
    return Expected(files, models, scales)


def shared_options(parameters: Mapping[str, Any]) -> tuple[str, float]:
    return parameters.get("shared", "ta"), parameters.get("density", 0.2)


def _expect_bitdelta(
    base: Model, tasks: Mapping[str, Model], parameters: Mapping[str, Any]
) -> Expected:
    dense = parameters.get("dense", ",".join(bitdelta.DENSE)).split(",")
    files: dict[str, Model] = {}
    models: dict[tuple[str, float | None], Model] = {}
    # The mean over no elements is 0.
    empty = {
        name: bitdelta.SignBits(np.zeros(0, np.uint8), np.float32(0))
        for name in tall.trained_names(base, list(tasks.values()))
        if not base[name].size and bitdelta.is_binary(name, base[name], dense)
    }
    full = [{n: a for n, a in model.items() if n not in empty} for model in (base, *tasks.values())]
    packed = bitdelta.pack(full[0], full[1:], dense)
    for task, filled in zip(tasks, packed, strict=True):
        parts = {**filled, **empty}
        file: Model = {}
        for name, part in parts.items():
            if isinstance(part, bitdelta.SignBits):
                file[name], file[f"{name}::scale"] = part.bits, narrow(part.scale, np.float32)
            else:
                file[name] = part
        files[f"tasks/{task}.safetensors"] = file
        models[task, None] = bitdelta.unpack(base, parts)
    return Expected(files, models, [1.0] * len(tasks))


def assert_files(store: Path, expected: Expected) -> None:
    """The stock library reads these tensors from the store's files, and there are no others."""
    found = {path for path in data_bytes(store) if path != "store.json"}
    assert found == expected.files.keys()
    for file, tensors in expected.files.items():
        assert_same_tensors(read_file(store / file), tensors)


def assert_restores(store: Store, expected: Expected) -> None:
    """In memory, whole and tensor by tensor, NumPy's and torch's, each task is as it should be."""
    for (task, lam), model in expected.models.items():
        assert_same_tensors(store.load(task, mask_lambda=lam), model)
        tensors = store.load(task, mask_lambda=lam, framework="torch")
        assert tensors.keys() == model.keys()
        for name, array in model.items():
            assert_same_bits(store.tensor(task, name, mask_lambda=lam), array)
            assert_torch(tensors[name], array)


def assert_torch(tensor: torch.Tensor, array: Array) -> None:
    assert str(tensor.dtype) == f"torch.{array.dtype}"
    assert tuple(tensor.shape) == array.shape
    assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()


def n_set(masks: Model, models: Model) -> int:
    """Bits set; those after the last element must be clear."""
    total = 0
    for name, packed in masks.items():
        bits = unpack_bits(packed, 8 * packed.size)
        assert not bits[models[name].size :].any()
        total += int(bits.sum())
    return total


# Any models, any options.


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


def same(a: Model, b: Model) -> bool:
    return all(tall.same_bytes(a[name], b[name]) for name in a)


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


# One model of several tiles, in every layout and on every instruction set.


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
"""Whether the inputs are sharded, and what must not change a byte."""


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


# Odd models.


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
    for donor, options in (("base", {}), ("math", {"files_from": tmp_path / "math"})):
        report = store.unpack("math", tmp_path / "out", overwrite=True, **options)
        assert report.auxiliary_files == ["config.json", "tokenizer/vocab.txt"]
        assert json.loads((tmp_path / "out/config.json").read_text()) == {"name": donor}
        assert (tmp_path / "out/tokenizer/vocab.txt").read_text() == donor


# Laws.


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
    """Of one task the shared vector is its own, and steps of 1/4 round nowhere."""
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


# Memory.


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
