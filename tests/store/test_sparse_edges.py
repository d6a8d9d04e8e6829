"""Empty and extreme tensors of the sparse codec, and what it refuses."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from tallies import _core
from tallies.checkpoint.safetensors import read_header
from tallies.engine.fingerprints import content
from tallies.errors import InputError, StorageError
from tallies.store.codecs.sparse import Sparse
from tallies.store.families import _sparse_packing
from tests.store.test_sparse import large_pair
from tests.support.everywhere import assert_same_bits
from tests.support.sparse_tasks import (
    STRIP,
    assert_same_model,
    limits,
    pack,
    parameters,
    read_task,
    tensors_of,
    unpack,
    write_pair,
)


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
    """With a largest magnitude of 190 steps, the least there are, the scale is one step."""
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
        _sparse_packing.pack(infos[0], infos[1], stored, parameters(), limits())
    assert not stored.exists()
    pack(*paths, stored, parameters())


def test_overflow_of_the_values_is_refused(tmp_path: Path) -> None:
    lowest = np.array([-60000.0], np.float16)
    paths = write_pair(tmp_path, {"w": lowest}, {"w": -lowest})
    infos = [tensors_of(path) for path in paths]
    stored = tmp_path / "task.safetensors"
    with pytest.raises(InputError, match=r"overflows F16.*values=f32"):
        _sparse_packing.pack(infos[0], infos[1], stored, parameters(density=1), limits())
    packed = _sparse_packing.pack(
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
    assert Sparse.codes_integers(parameters(density="exact"))
    assert not Sparse.codes_integers(parameters())
    for wrong in ({"density": "exactly"}, {"density": math.inf}, {"values": "int4"}):
        with pytest.raises(InputError):
            parameters(**wrong)
