"""Tensors in other rows, as passes and results read them from files."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError
from tallies._core import Limits, Plan, Source, read_delta
from tallies.checkpoint.changes import Product
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.data import chunks, same_tensor
from tallies.checkpoint.row_maps import RowMap, mapped
from tallies.checkpoint.scaled import with_scales
from tallies.checkpoint.tensors import TensorInfo
from tallies.engine.decoding import decoded_chunks
from tallies.engine.files import PlanFiles, grain_of, moved_operand, native
from tallies.engine.fingerprints import content, content_of, tensor_fingerprint
from tallies.engine.nonfinite import find_nonfinite, nonfinite_tensor
from tests.reference import changes, row_maps
from tests.reference.dtype import narrow, widen
from tests.reference.scaled import scaled
from tests.support import strategies
from tests.support.checkpoints import write
from tests.support.everywhere import assert_same_bits, on_every_target

Array = npt.NDArray[Any]
Means = dict[int, tuple[tuple[int, int], ...]]
BF16 = np.dtype(ml_dtypes.bfloat16)
COLUMNS = 37


def embedding(seed: int, n_rows: int, columns: int = COLUMNS, dtype: Any = BF16) -> Array:
    values = np.random.default_rng(seed).standard_normal((n_rows, columns))
    return values.astype(np.float32).astype(dtype)


MODELS = [embedding(0, 40), embedding(1, 44, dtype=np.float16), embedding(2, 38, dtype=np.float32)]
OWN = [5, -1, 0, 1, 2, 39, -1, -1, 5, 12, 11, -1]
MEANS: Means = {1: ((0, 1), (1, 43), (2, 37)), 6: ((2, 3),), 8: ((1, 1), (2, 2))}


def own(*numbers: int) -> array[int]:
    return array("q", numbers)


def stored(path: Path, *models: Array) -> list[TensorInfo]:
    path.mkdir(exist_ok=True)
    found = []
    for number, one in enumerate(models):
        file = write(path / f"{number}.safetensors", {"embed": one})
        found.append(Checkpoint.open(file).tensors["embed"])
    return found


def read(tensor: TensorInfo, limits: Limits, first: int = 0) -> Array:
    """The float32 values of a tensor, from an element on."""
    files = PlanFiles(Plan(True))
    out = np.full(tensor.n_elements - first, np.nan, np.float32)
    operand = moved_operand(files.operand(tensor), first)
    files.plan.add_job(out.size, [Source.zero(), native(operand)], [])
    read_delta(plan=files.plan, job=0, expert=0, out=out.ctypes.data, limits=limits)
    return out


@pytest.mark.parametrize("n_padding", [0, 3])
@pytest.mark.parametrize("means", [{}, MEANS, {1: ((2, 0), (0, 0), (2, 1)), 7: ((1, 9), (0, 9))}])
@pytest.mark.parametrize("limits", [Limits(1, 1 << 10), Limits(3, 1 << 16)])
def test_rows_are_gathered_averaged_and_padded(
    tmp_path: Path, means: Means, n_padding: int, limits: Limits
) -> None:
    tensors = stored(tmp_path, *MODELS)
    made = mapped(tensors[0], RowMap(own(*OWN), means, n_padding), tensors)

    expected = row_maps.mapped(MODELS[0], OWN, means, n_padding, MODELS)
    assert made.shape == expected.shape
    assert made.n_bytes == expected.size * 2
    assert_same_bits(read(made, limits), expected.ravel())
    assert_same_bits(read(made, limits, 4 * COLUMNS), expected[4:].ravel())
    assert grain_of(PlanFiles(Plan(True)).operand(made)) == COLUMNS
    assert b"".join(decoded_chunks(made)) == narrow(expected, BF16).tobytes()


def test_a_map_that_moves_nothing_is_the_tensor(tmp_path: Path) -> None:
    (tensor,) = stored(tmp_path, MODELS[0])
    assert mapped(tensor, RowMap(own(*range(40)), {3: ((0, 3),)})) is tensor
    assert mapped(tensor, RowMap(own(*range(39)))).shape == (39, COLUMNS)
    assert mapped(tensor, RowMap(own(*range(40)), n_padding=1)).shape == (41, COLUMNS)


def test_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    tensors = stored(tmp_path, *MODELS, embedding(0, 40, 36))
    with pytest.raises(InputError, match=r"'embed' has 40 rows, expected at least 41: .*number 40"):
        mapped(tensors[0], RowMap(own(3, 40)))
    with pytest.raises(InputError, match=r"2\.safetensors: .* has 38 rows, expected at least 39"):
        mapped(tensors[0], RowMap(own(3, -1), {1: ((2, 38),)}), tensors)
    with pytest.raises(InputError, match=r"3\.safetensors: .* rows of shape \[36\], .* \[37\]"):
        mapped(tensors[0], RowMap(own(3, -1), {1: ((3, 38),)}), tensors)


def test_fingerprints_are_of_the_rows(tmp_path: Path) -> None:
    tensors = stored(tmp_path, *MODELS)
    order = mapped(tensors[0], RowMap(own(*OWN)))
    rows = narrow(row_maps.mapped(MODELS[0], OWN), BF16)
    (plain,) = stored(tmp_path / "plain", rows)
    assert content(order) == content_of(rows.tobytes())
    assert tensor_fingerprint(order, content(order)) == tensor_fingerprint(plain, content(plain))

    prints = set()
    for means, n_padding in [({}, 0), (MEANS, 0), ({**MEANS, 7: ((0, 0),)}, 0), ({}, 1), ({}, 2)]:
        one = mapped(tensors[0], RowMap(own(*OWN), means, n_padding), tensors)
        prints.add(tensor_fingerprint(one, content(one)))
    donor = stored(tmp_path / "other", embedding(9, 38, dtype=np.float32))[0]
    one = mapped(tensors[0], RowMap(own(*OWN), MEANS), [*tensors[:2], donor])
    prints.add(tensor_fingerprint(one, content(one)))
    assert len(prints) == 6

    unused = MODELS[2].copy()
    unused[0] += 1
    other = stored(tmp_path / "unused", unused)[0]
    one = mapped(tensors[0], RowMap(own(*OWN), MEANS), [*tensors[:2], other])
    assert tensor_fingerprint(one, content(one)) in prints


def test_native_fingerprints_are_those_of_python(tmp_path: Path) -> None:
    tensors = stored(tmp_path, embedding(3, 300, 500))
    numbers = np.random.default_rng(0).integers(-1, 300, 700).tolist()
    made = mapped(tensors[0], RowMap(own(*numbers), {1: ((0, 1),)}, 5), tensors)
    for size in (1 << 12, 1 << 20):
        files = PlanFiles(Plan(False))
        files.plan.add_job(made.n_elements, [native(files.operand(made))], [])
        (found,) = files.plan.fingerprints(limits=Limits(2, size))
        assert found == content(made)
    sizes = [len(one) for one in chunks(made)]
    assert sum(sizes) == made.n_bytes
    assert sizes[:2] == [4096, 8192]


def test_tensors_are_the_same_if_their_rows_are(tmp_path: Path) -> None:
    a, b, other = (stored(tmp_path / str(i), *MODELS) for i in range(3))
    other[2] = stored(tmp_path / "other", embedding(9, 38, dtype=np.float32))[0]
    rows = RowMap(own(*OWN), MEANS)
    assert same_tensor(mapped(a[0], rows, a), mapped(b[0], RowMap(own(*OWN), MEANS), b))
    assert not same_tensor(mapped(a[0], rows, a), mapped(a[0], rows, other))
    assert not same_tensor(mapped(a[0], rows, a), mapped(a[0], RowMap(own(*OWN)), a))
    assert not same_tensor(mapped(a[0], rows, a), a[0])
    names = [replace(mapped(replace(a[0], name=one), rows, a), name="") for one in "xy"]
    assert len(set(names)) == 1
    assert mapped(a[0], rows, a) != mapped(a[0], rows, other)
    assert mapped(a[0], rows, a) != mapped(a[0], RowMap(own(*OWN)), a)


@pytest.mark.parametrize("shape", [(1,), (40, 1), (4, 5), (1, COLUMNS)])
@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16])
def test_rows_keep_their_scales(tmp_path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    values = (embedding(4, 40, dtype=np.float32) * 20).astype(ml_dtypes.float8_e4m3fn)
    scales = (np.random.default_rng(1).random(shape) + 0.1).astype(np.float32).astype(dtype)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [10, 8]}}
    model = {"embed.weight": values, "embed.weight_scale_inv": scales}
    write(tmp_path / "model", model, config=config)
    tensor = with_scales(Checkpoint.open(tmp_path / "model")).tensors["embed.weight"]
    assert tensor.scale is not None
    others = stored(tmp_path, *MODELS)
    made = mapped(tensor, RowMap(own(*OWN), MEANS, 2), [tensor, *others[1:]])

    blocks = (tensor.scale.block_rows, tensor.scale.block_columns)
    if scales.ndim == 1:
        scales, blocks = scales[:, None], values.shape
    dense = scaled(values, scales, *blocks)
    expected = row_maps.mapped(dense, OWN, MEANS, 2, [dense, *MODELS[1:]])
    assert made.dtype == tensor.decoded_dtype
    for limits in (Limits(1, 1 << 10), Limits(2, 1 << 16)):
        assert_same_bits(read(made, limits), expected.ravel())
        assert_same_bits(read(made, limits, 3 * COLUMNS), expected[3:].ravel())


def test_rows_of_changed_tensors_are_gathered(tmp_path: Path) -> None:
    tensors = stored(tmp_path, *MODELS)
    left, right = embedding(5, 40, 3), embedding(6, 3)
    at = Checkpoint.open(write(tmp_path / "lora.safetensors", {"left": left, "right": right}))
    change = Product(at.tensors["left"], at.tensors["right"], 0.5)
    tensors[0] = replace(tensors[0], changes=(change,))
    dense = changes.add_product(widen(MODELS[0]), left, right, 0.5)
    means: Means = {1: ((0, 3), (1, 1)), 7: ((0, 7),)}
    for number, x in enumerate([dense, MODELS[1]]):
        made = mapped(tensors[number], RowMap(own(*OWN), means, 1), tensors)
        expected = row_maps.mapped(x, OWN, means, 1, [dense, *MODELS[1:]])
        assert_same_bits(read(made, Limits(2, 1 << 12)), expected.ravel())


def test_views_are_gathered(tmp_path: Path) -> None:
    (tensor,) = stored(tmp_path, np.ascontiguousarray(MODELS[0].T))
    view = replace(tensor, shape=(40, COLUMNS), strides=(1, 40))
    made = mapped(view, RowMap(own(*OWN)))
    expected = row_maps.mapped(MODELS[0], OWN)
    assert_same_bits(read(made, Limits(1, 1 << 12)), expected.ravel())
    assert content(made) == content_of(narrow(expected, BF16).tobytes())


def test_the_tensor_whose_rows_are_not_finite_is_named(tmp_path: Path) -> None:
    bad = embedding(1, 44, dtype=np.float16)
    bad[43, 3] = np.inf
    tensors = stored(tmp_path, MODELS[0], bad, MODELS[2])
    limits = Limits(1, 1 << 16)
    made = mapped(tensors[0], RowMap(own(*OWN), MEANS), tensors)
    assert find_nonfinite(made, limits) == (1, COLUMNS + 3)
    assert nonfinite_tensor(made, limits) == (tensors[1], 1, 43 * COLUMNS + 3)
    fine = mapped(tensors[0], RowMap(own(*OWN)), tensors)
    assert nonfinite_tensor(fine, limits) == (fine, 0, 0)


@st.composite
def maps(draw: st.DrawFn) -> tuple[list[Array], int, list[int], Means, int]:
    """Models, the one that is mapped, its rows, means and padding."""
    columns = draw(st.sampled_from([1, 2, 3, 8, 65, 257]))
    n_models = draw(st.integers(1, 4))
    models = []
    for _ in range(n_models):
        dtype, n_rows = draw(strategies.dtypes()), draw(st.integers(1, 12))
        seed = draw(strategies.arrays(dtype, min_size=1, max_size=64, nonfinite=False))
        models.append(np.resize(seed, (n_rows, columns)))
    number = draw(st.integers(0, n_models - 1))
    rows = draw(st.lists(st.integers(-1, len(models[number]) - 1), min_size=1, max_size=40))
    pair = st.integers(0, n_models - 1).flatmap(
        lambda model: st.tuples(st.just(model), st.integers(0, len(models[model]) - 1))
    )
    means = draw(
        st.dictionaries(
            st.integers(0, len(rows) - 1), st.lists(pair, max_size=4).map(tuple), max_size=8
        )
    )
    return models, number, rows, means, draw(st.integers(0, 3))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all examples of a test share."""
    return tmp_path_factory.mktemp("scratch")


@given(maps(), st.sampled_from([1, 2, 3]), st.sampled_from([1 << 9, 1 << 12, 1 << 16]))
def test_any_map_of_any_models(scratch: Path, drawn: Any, threads: int, buffer: int) -> None:
    models, number, rows, means, n_padding = drawn
    tensors = stored(scratch, *models)
    made = mapped(tensors[number], RowMap(own(*rows), means, n_padding), tensors)
    expected = row_maps.mapped(models[number], rows, means, n_padding, models)
    assert made.shape == expected.shape
    for found in on_every_target(lambda: read(made, Limits(threads, buffer))).values():
        same = found.view(np.uint32) == expected.ravel().view(np.uint32)
        assert np.all(same | (np.isnan(found) & np.isnan(expected.ravel())))
