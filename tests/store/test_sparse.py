"""The sparse codec's files against the reference, byte for byte."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.store.families import _sparse_packing
from tests.reference import sparse, tall
from tests.support import checkpoints, strategies
from tests.support.sparse_tasks import (
    BF16,
    KINDS,
    STRIP,
    Model,
    assert_fingerprints,
    assert_same_model,
    expected_file,
    limits,
    pack,
    parameters,
    read_task,
    tensors_of,
    unpack,
    write_pair,
)


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
    packed = _sparse_packing.pack(
        tensors_of(paths[0]), tensors_of(paths[1]), stored, parameters(density="exact"), limits()
    )
    assert packed.n_set == {"b": 1, "w": 4}
    assert_same_model(unpack(paths[0], stored, parameters(density="exact"))[0], expert)


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
