"""The sparse codec's files against the reference, byte for byte, and what it refuses."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import _core
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.safetensors import TensorInfo, read_header
from tallies.engine.files import Place
from tallies.engine.fingerprints import content, tensor_fingerprint
from tallies.errors import InputError, StorageError
from tallies.recipe.parameters import check_parameters
from tallies.store.codecs.sparse import Sparse
from tallies.store.families import sparse as sparse_files
from tests.reference import sparse, tall
from tests.support import checkpoints, strategies
from tests.support.everywhere import Array, assert_same_bits

Model = dict[str, Array]

KINDS = ("base", "bf16", "f32", "int8")
BF16 = checkpoints.DTYPES["BF16"]
STRIP = 1 << 16
"""Elements whose values are counted together."""


def parameters(**given: object) -> dict[str, Any]:
    defaults = {name: one.default for name, one in Sparse.parameters().items()}
    return {**defaults, **check_parameters(given, Sparse, "paper")}


def limits(threads: int = 1, buffer_bytes: int = 1 << 20) -> _core.Limits:
    return _core.Limits(threads, buffer_bytes)


def tensors_of(path: Path) -> dict[str, TensorInfo]:
    return Checkpoint.open(path).tensors


def write_pair(folder: Path, base: Model, expert: Model) -> tuple[Path, Path]:
    """Files of both models, without the tensors that only one has."""
    names = [name for name in base if name in expert]
    paths = []
    for label, model in (("base", base), ("expert", expert)):
        held = {name: model[name] for name in names}
        paths.append(checkpoints.write(folder / f"{label}.safetensors", held))
    return paths[0], paths[1]


def pack(
    base: Path, expert: Path, out: Path, given: Mapping[str, Any], how: _core.Limits | None = None
) -> sparse_files.Packed:
    return sparse_files.pack(
        tensors_of(base), tensors_of(expert), out, given, how or limits(), refuse_nonfinite=False
    )


def unpack(
    base: Path, stored: Path, given: Mapping[str, Any], how: _core.Limits | None = None
) -> tuple[Model, dict[str, sparse_files.Unpacked]]:
    """All tensors of a task's file, twice: to memory, and to files that must hold the same."""
    origin = tensors_of(base)
    entries = {tensor.name: tensor for tensor in read_header(stored)[0]}
    names = [name for name in origin if name in entries]
    core = _core.Plan(True)
    out: Model = {}
    outputs: dict[str, list[Place]] = {}
    for name in names:
        tensor = origin[name]
        out[name] = np.empty(tensor.shape, checkpoints.DTYPES[tensor.dtype])
        path = stored.with_name("out.bin")
        files = [core.open_to_write(f"{path}.{i}.{len(outputs)}", tensor.n_bytes) for i in range(2)]
        address = out[name].__array_interface__["data"][0]
        outputs[name] = [(-1, address, 0), *((file, 0, 0) for file in files)]
    found = sparse_files.unpack(core, origin, entries, outputs, given, how or limits())
    for i, name in enumerate(names):
        for copy in range(2):
            raw = stored.with_name(f"out.bin.{copy}.{i}")
            assert raw.read_bytes() == out[name].tobytes()
            raw.unlink()
    return out, found


def expected_file(entries: Mapping[str, sparse.Entries]) -> Model:
    """The tensors that the reference would write."""
    held: Model = {}
    for name, one in entries.items():
        held[name], held[f"{name}::values"] = one.mask, one.values
        if one.scales is not None:
            held[f"{name}::scales"] = one.scales
    return held


def read_task(path: Path) -> Model:
    """As ``checkpoints.read_file``, with int8."""
    found: Model = {}
    for tensor in read_header(path)[0]:
        data = path.read_bytes()[tensor.offset :][: tensor.n_bytes]
        dtype = {**checkpoints.DTYPES, "I8": np.dtype(np.int8)}[tensor.dtype]
        found[tensor.name] = np.frombuffer(data, dtype).reshape(tensor.shape)
    return found


def assert_same_model(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(actual[name], array)


def assert_fingerprints(
    packed: sparse_files.Packed,
    unpacked: Mapping[str, sparse_files.Unpacked],
    paths: tuple[Path, Path, Path],
) -> None:
    """Those of the passes are those of the bytes on disk."""
    base, expert, stored = paths
    origin, other = tensors_of(base), tensors_of(expert)
    entries = {tensor.name: tensor for tensor in read_header(stored)[0]}
    for name, one in entries.items():
        assert packed.checksums[name] == tensor_fingerprint(one, content(one))
    for name, found in unpacked.items():
        assert packed.base[name] == tensor_fingerprint(origin[name], content(origin[name]))
        assert packed.expert[name] == tensor_fingerprint(other[name], content(other[name]))
        assert found.base == content(origin[name])
        assert found.mask == content(entries[name])
        assert found.values == content(entries[f"{name}::values"])
        scales = entries.get(f"{name}::scales")
        assert found.scales == (None if scales is None else content(scales))
    assert packed.n_bytes == stored.stat().st_size


@given(
    strategies.models(min_experts=1, max_experts=1),
    strategies.densities(),
    st.sampled_from(KINDS),
    st.sampled_from(["model", "tensor"]),
    st.sampled_from([1, 3]),
)
def test_files_are_those_of_the_reference(
    models: strategies.Models, density: float, values: str, scope: str, threads: int
) -> None:
    base, expert = models.base, models.experts[0]
    names = [name for name in base if values != "int8" or base[name].size]
    (tasks,) = tall.vectors(base, [expert], sorted(names, key=str.encode))
    (entries,) = sparse.pack(base, [tasks], density, scope=scope, values=values)
    given = parameters(density=density, values=values, scope=scope)
    with TemporaryDirectory() as folder:
        paths = write_pair(Path(folder), {name: base[name] for name in names}, expert)
        stored = Path(folder, "tasks", "task.safetensors")
        packed = pack(*paths, stored, given, limits(threads))
        assert_same_model(read_task(stored), expected_file(entries))
        out, found = unpack(paths[0], stored, given, limits(threads))
        assert_fingerprints(packed, found, (*paths, stored))
    reference = sparse.unpack({name: base[name] for name in names}, entries)
    assert_same_model(out, reference)
    assert packed.n_set == {name: one.values.size for name, one in entries.items()}


@pytest.mark.parametrize(("base_type", "expert_type"), [("F32", "BF16"), ("BF16", "F64")])
@pytest.mark.parametrize("values", KINDS)
def test_base_and_expert_of_different_dtypes(
    tmp_path: Path, base_type: str, expert_type: str, values: str
) -> None:
    rng = np.random.default_rng(0)
    base = {"w": rng.normal(size=(7, 33)).astype(checkpoints.DTYPES[base_type])}
    expert = {"w": rng.normal(size=(7, 33)).astype(checkpoints.DTYPES[expert_type])}
    (entries,) = sparse.pack(base, tall.vectors(base, [expert], ["w"]), 0.3, values=values)
    paths = write_pair(tmp_path, base, expert)
    stored = tmp_path / "task.safetensors"
    given = parameters(density=0.3, values=values)
    packed = pack(*paths, stored, given)
    assert_same_model(read_task(stored), expected_file(entries))
    out, found = unpack(paths[0], stored, given)
    assert_same_model(out, sparse.unpack(base, entries))
    assert_fingerprints(packed, found, (*paths, stored))


EXACT_DTYPES = [checkpoints.DTYPES[name] for name in checkpoints.DTYPES if name != "BOOL"]


@st.composite
def changed_models(draw: st.DrawFn) -> tuple[Model, Model]:
    """A base of any dtypes and any bits, and an expert in which some elements have other bits."""
    base: Model = {}
    expert: Model = {}
    for i in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(EXACT_DTYPES))
        n = draw(strategies.sizes())
        shape = () if n == 1 and draw(st.booleans()) else (n,)
        bits = np.frombuffer(
            draw(st.binary(min_size=n * dtype.itemsize, max_size=n * dtype.itemsize)),
            f"u{dtype.itemsize}",
        )
        flip = np.zeros_like(bits)
        places = st.integers(0, max(n - 1, 0))
        for at in draw(st.lists(places, max_size=min(n, 20))):
            flip[at] = 1 << draw(st.integers(0, 8 * dtype.itemsize - 1))
        base[f"t{i}"] = bits.copy().view(dtype).reshape(shape)
        expert[f"t{i}"] = (bits ^ flip).view(dtype).reshape(shape)
    return base, expert


@given(changed_models(), st.sampled_from([1, 3]))
def test_exact_files_restore_every_bit(pair: tuple[Model, Model], threads: int) -> None:
    base, expert = pair
    given = parameters(density="exact")
    with TemporaryDirectory() as folder:
        paths = write_pair(Path(folder), base, expert)
        stored = Path(folder, "task.safetensors")
        packed = pack(*paths, stored, given, limits(threads))
        written = read_task(stored)
        out, found = unpack(paths[0], stored, given, limits(threads))
        assert_fingerprints(packed, found, (*paths, stored))
    assert_same_model(
        written,
        expected_file({name: sparse.changed(name, base[name], expert[name]) for name in base}),
    )
    assert_same_model(out, expert)


def test_exact_keeps_nan_payloads_signs_of_zero_and_booleans(tmp_path: Path) -> None:
    payload = np.array([0x7FC00001, 0xFFC00000, 0x80000000, 0x7F800000], np.uint32).view(np.float32)
    base = {"w": np.array([np.nan, np.nan, 0, 1], np.float32), "b": np.array([True, False, True])}
    expert = {"w": payload, "b": np.array([True, True, True])}
    paths = write_pair(tmp_path, base, expert)
    stored = tmp_path / "task.safetensors"
    packed = sparse_files.pack(
        tensors_of(paths[0]), tensors_of(paths[1]), stored, parameters(density="exact"), limits()
    )
    assert packed.n_set == {"b": 1, "w": 4}
    assert_same_model(unpack(paths[0], stored, parameters(density="exact"))[0], expert)


# Tensors of several strips


def large_pair() -> tuple[Model, Model]:
    """Several strips and a part of one, of which one has no change at all."""
    rng = np.random.default_rng(1)
    n = 3 * STRIP + 777
    base: Model = {
        "f32": rng.normal(size=n).astype(np.float32),
        "bf16": rng.normal(size=(n, 2)).astype(BF16),
        "f16": rng.normal(size=(5, 2 * STRIP // 5 + 3)).astype(np.float16),
    }
    expert = {
        name: (array.astype(np.float32) + rng.normal(size=array.shape) / 8).astype(array.dtype)
        for name, array in base.items()
    }
    expert["f32"][STRIP : 2 * STRIP] = base["f32"][STRIP : 2 * STRIP]
    return base, expert


CASES = [*({"density": 0.11, "values": values} for values in KINDS), {"density": "exact"}]


@pytest.mark.parametrize("given", CASES, ids=lambda given: given.get("values", "exact"))
def test_strips_threads_and_buffers_give_the_same_bytes(
    tmp_path: Path, given: dict[str, object]
) -> None:
    base, expert = large_pair()
    paths = write_pair(tmp_path, base, expert)
    files = []
    for i, how in enumerate([limits(), limits(3, 1 << 10), limits(2, 1 << 24)]):
        stored = tmp_path / f"{i}.safetensors"
        packed = pack(*paths, stored, parameters(**given), how)
        files.append(stored.read_bytes())
        out, found = unpack(paths[0], stored, parameters(**given), how)
        assert_fingerprints(packed, found, (*paths, stored))
        if i == 0:
            if given["density"] == "exact":
                entries = {n: sparse.changed(n, base[n], expert[n]) for n in base}
                reference = expert
            else:
                (x,) = tall.vectors(base, [expert], sorted(base))
                (entries,) = sparse.pack(base, [x], 0.11, values=str(given["values"]))
                reference = sparse.unpack(base, entries)
            assert_same_model(read_task(stored), expected_file(entries))
        assert_same_model(out, reference)
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("given", CASES, ids=lambda given: given.get("values", "exact"))
def test_every_instruction_set_gives_the_same_bytes(
    tmp_path: Path, target: str, given: dict[str, object]
) -> None:
    rng = np.random.default_rng(2)
    base: Model = {}
    expert: Model = {}
    for i, dtype in enumerate(strategies.DTYPES if given["density"] != "exact" else EXACT_DTYPES):
        for n in (1, 63, 64, 200):
            bits = rng.integers(0, 256, (n, dtype.itemsize), np.uint8)
            other = np.where(rng.random((n, 1)) < 0.4, rng.integers(0, 256, bits.shape), bits)
            base[f"{i}.{n}"] = bits.view(dtype)[:, 0]
            expert[f"{i}.{n}"] = other.astype(np.uint8).view(dtype)[:, 0]
    paths = write_pair(tmp_path, base, expert)
    stored = tmp_path / "task.safetensors"
    pack(*paths, stored, parameters(**given))
    if given["density"] == "exact":
        entries = {name: sparse.changed(name, base[name], expert[name]) for name in base}
        reference = expert
    else:
        (x,) = tall.vectors(base, [expert], sorted(base))
        (entries,) = sparse.pack(base, [x], 0.11, values=str(given["values"]))
        reference = sparse.unpack(base, entries)
    assert_same_model(read_task(stored), expected_file(entries))
    assert_same_model(unpack(paths[0], stored, parameters(**given))[0], reference)


def test_empty_tensors_have_a_scale_for_each_row(tmp_path: Path) -> None:
    shapes = {"none": (0,), "rows": (2, 0), "columns": (0, 4)}
    model = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    paths = write_pair(tmp_path, model, model)
    stored = tmp_path / "task.safetensors"
    given = parameters(values="int8")
    pack(*paths, stored, given)
    held = read_task(stored)
    assert {name: held[f"{name}::scales"].tolist() for name in shapes} == {
        "none": [0],
        "rows": [0, 0],
        "columns": [],
    }
    out, found = unpack(paths[0], stored, given)
    assert_same_model(out, model)
    assert found["rows"].scales == content(
        next(one for one in read_header(stored)[0] if one.name == "rows::scales")
    )


def test_a_scale_that_is_rounded_down_far_clips_both_signs(tmp_path: Path) -> None:
    """Of a largest magnitude of 190 steps, the least there are, the scale is one step."""
    step = np.finfo(np.float32).smallest_subnormal
    base = {"w": np.zeros((2, 2), np.float32)}
    expert = {"w": np.array([[-190, 3], [190, -3]], np.float32) * step}
    paths = write_pair(tmp_path, base, expert)
    stored = tmp_path / "task.safetensors"
    pack(*paths, stored, parameters(density=1, values="int8"))
    held = read_task(stored)
    assert held["w::scales"].tolist() == [step, step]
    assert held["w::values"].tolist() == [-127, 3, 127, -3]
    out, _ = unpack(paths[0], stored, parameters(density=1, values="int8"))
    assert_same_bits(out["w"], np.array([[-127, 3], [127, -3]], np.float32) * step)


# What is refused


def test_other_dtypes_are_refused_where_bits_are_kept(tmp_path: Path) -> None:
    paths = write_pair(tmp_path, {"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float16)})
    with pytest.raises(InputError, match=r"expert.*'w' is F16, expected F32"):
        pack(*paths, tmp_path / "task.safetensors", parameters(density="exact"))
    assert not (tmp_path / "task.safetensors").exists()


@pytest.mark.parametrize("taken", ["w::values", "w::scales"])
def test_names_of_parts_are_refused(tmp_path: Path, taken: str) -> None:
    model = {"w": np.ones(3, np.float32), taken: np.ones(3, np.float32)}
    paths = write_pair(tmp_path, model, model)
    with pytest.raises(InputError, match=f"'{taken}'.*rename"):
        pack(*paths, tmp_path / "task.safetensors", parameters(values="int8"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["base", "expert"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float, which: str) -> None:
    models = {label: {"w": np.ones(100, np.float32)} for label in ("base", "expert")}
    models[which]["w"][70] = value
    paths = write_pair(tmp_path, models["base"], models["expert"])
    stored = tmp_path / "task.safetensors"
    infos = [tensors_of(path) for path in paths]
    with pytest.raises(InputError, match=f"{which}.*'w' has 1 NaN or infinite.*element 70"):
        sparse_files.pack(infos[0], infos[1], stored, parameters(), limits())
    assert not stored.exists()
    pack(*paths, stored, parameters())


def test_overflow_of_the_values_is_refused(tmp_path: Path) -> None:
    lowest = np.array([-60000.0], np.float16)
    paths = write_pair(tmp_path, {"w": lowest}, {"w": -lowest})
    infos = [tensors_of(path) for path in paths]
    stored = tmp_path / "task.safetensors"
    with pytest.raises(InputError, match=r"overflows F16.*values=f32"):
        sparse_files.pack(infos[0], infos[1], stored, parameters(density=1), limits())
    packed = sparse_files.pack(
        infos[0], infos[1], stored, parameters(density=1, values="f32"), limits()
    )
    assert packed.n_set == {"w": 1}
    out, found = unpack(paths[0], stored, parameters(density=1, values="f32"))
    assert_same_bits(out["w"], -lowest)
    assert not found["w"].overflow


def damaged(stored: Path, name: str, at: int, value: int) -> None:
    """Sets a byte of one tensor of a file."""
    one = next(tensor for tensor in read_header(stored)[0] if tensor.name == name)
    with stored.open("r+b") as file:
        file.seek(one.offset + at)
        file.write(bytes([value]))


def test_a_mask_with_other_bits_than_values_is_refused(tmp_path: Path) -> None:
    base = {"w": np.zeros(20, np.float32)}
    expert = {"w": np.arange(20, dtype=np.float32)}
    paths = write_pair(tmp_path, base, expert)
    stored = tmp_path / "task.safetensors"
    pack(*paths, stored, parameters(density="exact"))
    damaged(stored, "w", 2, 0xF0 | read_task(stored)["w"][2])
    assert_same_model(unpack(paths[0], stored, parameters(density="exact"))[0], expert)
    damaged(stored, "w", 0, 0)
    with pytest.raises(InputError, match=r"task.*'w::values' has 19 values, expected 12"):
        unpack(paths[0], stored, parameters(density="exact"))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = {"w": np.ones((2, 20), np.float32)}
    paths = write_pair(tmp_path, model, model)
    stored = tmp_path / "task.safetensors"
    pack(*paths, stored, parameters(density=1))
    with pytest.raises(InputError, match=r"'w::values': found F32 .*, expected BF16"):
        unpack(paths[0], stored, parameters(values="bf16"))
    pack(*paths, stored, parameters(density=1, values="int8"))
    with pytest.raises(InputError, match="'w::values': found I8"):
        unpack(paths[0], stored, parameters())
    larger = checkpoints.write(tmp_path / "larger.safetensors", {"w": np.ones(60, np.float32)})
    with pytest.raises(InputError, match=r"'w': found U8 \[5\], expected U8 \[8\]"):
        unpack(larger, stored, parameters(values="int8"))


def test_a_tensor_that_changes_between_the_passes_is_an_error(tmp_path: Path) -> None:
    """The values of one strip must not run over those of the next."""
    base, expert = large_pair()
    paths = write_pair(tmp_path, {"f32": base["f32"]}, expert)
    one = [tensors_of(path)["f32"] for path in paths]
    core = _core.Plan(True)
    files = [core.open_to_read(str(path)) for path in paths]
    core.add_job(one[0].n_elements, [(f, t.offset, 0) for f, t in zip(files, one, strict=True)], [])
    rules = [_core.SparseRule(0, 0, 0, 1)]
    counts = _core.count_sparse(core, rules, limits())
    changed = base["f32"][STRIP] + 1
    with paths[1].open("r+b") as file:
        file.seek(one[1].offset + 4 * STRIP)
        file.write(struct.pack("<f", changed))
    out = core.open_to_write(str(tmp_path / "out"), 8 * one[0].n_elements)
    places = [((out, 0, -1), (out, one[0].n_elements, 0), (-1, 0, -1))]
    with pytest.raises(StorageError, match="changed between two passes"):
        _core.pack_sparse(core, rules, counts, places, limits())


def test_parameters_are_checked() -> None:
    assert parameters(density="exact")["density"] == "exact"
    assert parameters(density="0.5")["density"] == 0.5
    assert Sparse.is_exact(parameters(density="exact")) and not Sparse.is_exact(parameters())
    for wrong in ({"density": "exactly"}, {"density": math.inf}, {"values": "int4"}):
        with pytest.raises(InputError):
            parameters(**wrong)
