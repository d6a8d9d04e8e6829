"""Codecs that keep singular triplets: what is stored, what comes back, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, Store, pack
from tallies.store import consensus
from tests.reference import low_rank
from tests.reference.dtype import narrow, widen
from tests.support.checkpoints import Model, assert_same_tensors, data_bytes, read, read_file, write
from tests.support.everywhere import on_every_target
from tests.support.matrices import task_matrices

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"bf16": BF16, "f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}


def packed(root: Path, base: Model, experts: list[Model], codec: str, **options: Any) -> Store:
    write(root / "base", base)
    tasks = {f"t{i}": write(root / f"t{i}", one) for i, one in enumerate(experts)}
    pack(root / "base", tasks, root / "store", codec=codec, **options)
    return Store.open(root / "store")


@settings(max_examples=25)
@given(
    task_matrices(),
    st.sampled_from(["tsv_c", "twin"]),
    st.sampled_from([0.0, 0.1, 0.34, 0.5, 1.0]),
    st.sampled_from(["base", *DTYPES]),
    st.sampled_from([np.dtype(np.float32), BF16]),
)
def test_what_is_stored_and_what_comes_back(
    deltas: npt.NDArray[np.float32],
    codec: str,
    fraction: float,
    values: str,
    dtype: np.dtype[Any],
) -> None:
    rng = np.random.default_rng(0)
    shape = deltas.shape[1:]
    base: Model = {
        "w": rng.standard_normal(shape).astype(dtype),
        "bias": rng.standard_normal(5).astype(np.float32),
        "same": np.ones((2, 3), np.float32),
        "head.w": rng.standard_normal((3, 4)).astype(np.float32),
    }
    experts: list[Model] = [
        {
            **base,
            "w": narrow(widen(base["w"]) + x, dtype),
            "bias": base["bias"] + np.float32(i),
            "head.w": base["head.w"] * np.float32(1 + i),
        }
        for i, x in enumerate(deltas)
    ]
    xs = [widen(one["w"]) - widen(base["w"]) for one in experts]
    if all(one["w"].tobytes() == base["w"].tobytes() for one in experts):
        return
    with TemporaryDirectory() as name:
        root = Path(name)
        store = packed(root, base, experts, codec, fraction=fraction, values=values, exclude="head")
        shared = None
        if codec == "twin":
            shared = low_rank.shared_vector(xs, 0.29, dtype)
            held = read_file(root / "store" / "shared.safetensors")["w"]
            assert held.tobytes() == narrow(shared, dtype).tobytes()
        kind = DTYPES.get(values, BF16 if dtype == BF16 else np.dtype(np.float32))
        k = low_rank.rank((shape[0], shape[1]), fraction)
        for i, task in enumerate(store.tasks):
            held = read_file(root / "store" / "tasks" / f"{task}.safetensors")
            u, s, v = held["w"], held["w::s"], held["w::v"]
            assert (u.dtype, s.dtype, v.dtype) == (kind, np.float32, kind)
            assert (u.shape, s.shape, v.shape) == ((shape[0], k), (k,), (k, shape[1]))
            own = (xs[i] if shared is None else xs[i] - shared).astype(np.float64)
            left = own - (widen(u).astype(np.float64) * s) @ widen(v)
            rounding = 2.0**-20 if kind == np.float32 else 0.03
            bound = low_rank.best_error(own, k) + rounding * np.linalg.norm(own)
            assert np.linalg.norm(left) <= bound
            expected = narrow(
                low_rank.restore(widen(base["w"]), shared, widen(u), s, widen(v)), dtype
            )
            assert_same_tensors(store.load(task), {**experts[i], "w": expected})


@pytest.mark.parametrize("codec", ["tsv_c", "twin"])
def test_the_bits_are_the_same_on_every_processor_and_thread_and_on_disk(
    tmp_path: Path, codec: str
) -> None:
    rng = np.random.default_rng(1)
    base: Model = {"w": rng.standard_normal((600, 530)).astype(np.float16)}
    experts: list[Model] = [
        {"w": (base["w"] + rng.standard_normal(base["w"].shape) / 8).astype(np.float16)}
        for _ in range(2)
    ]
    store = packed(tmp_path, base, experts, codec, fraction=0.6)
    held = read_file(tmp_path / "store" / "tasks" / "t1.safetensors")
    u, s, v = widen(held["w"]), held["w::s"], widen(held["w::v"])
    shared = None
    if codec == "twin":
        shared = widen(read_file(tmp_path / "store" / "shared.safetensors")["w"])
    # More terms than one call of the native combine takes.
    assert len(s) == 318
    expected = {"w": narrow(low_rank.restore(widen(base["w"]), shared, u, s, v), np.float16)}
    for found in on_every_target(lambda: store.load("t1")).values():
        assert_same_tensors(found, expected)
    assert_same_tensors(store.load("t1", threads=1), expected)
    report = store.unpack("t1", tmp_path / "out", threads=3)
    assert_same_tensors(read(tmp_path / "out"), expected)
    assert not report.exact
    again = packed(tmp_path / "again", base, experts, codec, fraction=0.6, threads=1)
    first, second = (data_bytes(one.path) for one in (store, again))
    assert all(first[name] == second[name] for name in first if name != "store.json")


def test_all_triplets_give_the_expert_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    base: Model = {"w": rng.standard_normal((20, 30)).astype(np.float32)}
    expert: Model = {"w": base["w"] + rng.standard_normal((20, 30)).astype(np.float32)}
    for codec in ("tsv_c", "twin"):
        store = packed(tmp_path / codec, base, [expert], codec, fraction=1.0)
        assert np.allclose(store.load("t0")["w"], expert["w"], atol=1e-5, rtol=0)


def test_the_sizes_are_those_of_the_factors(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base: Model = {"w": rng.standard_normal((200, 300)).astype(np.float32)}
    experts: list[Model] = [
        {"w": base["w"] + rng.standard_normal((200, 300)).astype(np.float32)} for _ in range(2)
    ]
    store = packed(tmp_path, base, experts, "tsv_c")
    assert store.manifest.tensors["w"].kind == "factored"
    for task in store.manifest.tasks.values():
        assert list(task.n_set.values()) == [20 * (200 + 300 + 1)]


@pytest.mark.parametrize("codec", ["tsv_c", "twin"])
def test_what_is_not_finite_is_refused_or_spreads(tmp_path: Path, codec: str) -> None:
    base: Model = {"w": np.ones((3, 4), np.float32)}
    expert: Model = {"w": np.full((3, 4), 2, np.float32)}
    expert["w"][1, 2] = np.nan
    with pytest.raises(InputError, match=r"t0.*'w' has 1 NaN .* first at element 6.* repair"):
        packed(tmp_path, base, [expert], codec)
    assert not (tmp_path / "store").exists()
    other: Model = {"w": np.full((3, 4), 3, np.float32)}
    options: dict[str, Any] = {"nonfinite": "propagate", "fraction": 1.0}
    store = packed(tmp_path / "again", base, [expert, other], codec, **options)
    assert np.isnan(store.load("t0")["w"]).all()
    # The shared vector is the sum of all tasks.
    assert np.isnan(store.load("t1")["w"]).any() == (codec == "twin")


def test_a_shared_vector_that_overflows_is_refused(tmp_path: Path) -> None:
    base: Model = {"w": np.zeros((3, 4), np.float32)}
    expert: Model = {"w": np.full((3, 4), 1e6, np.float32)}
    with pytest.raises(InputError, match="the shared vector overflows F16"):
        packed(tmp_path, base, [expert], "twin", shared_dtype="F16")


def test_a_matrix_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    base: Model = {"w": np.zeros((30, 40), np.float32)}
    expert: Model = {"w": np.ones((30, 40), np.float32)}
    with pytest.raises(InputError, match=r"tsv_c: tensor 'w' \[30, 40\] is factored as a whole"):
        packed(tmp_path, base, [expert], "tsv_c", max_memory="16MiB")
    packed(tmp_path / "kept", base, [expert], "tsv_c", max_memory="16MiB", exclude="w")


def test_there_are_no_masks_to_count(tmp_path: Path) -> None:
    base: Model = {"w": np.zeros((3, 4), np.float32)}
    store = packed(tmp_path, base, [{"w": np.ones((3, 4), np.float32)}], "twin")
    with pytest.raises(InputError, match="twin keeps no masks"):
        consensus(store.path)


def test_torch_is_needed_for_packing_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base: Model = {"w": np.zeros((8, 4), np.float32)}
    expert: Model = {"w": np.ones((8, 4), np.float32)}
    store = packed(tmp_path, base, [expert], "tsv_c", fraction=1.0)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert np.allclose(store.load("t0")["w"], 1, atol=1e-6)
    with pytest.raises(InputError, match=r"tsv_c: needs torch .* install torch"):
        packed(tmp_path / "again", base, [expert], "tsv_c")
