"""Two models compared: the numbers against the reference, and what is in one of them alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tallies
from tallies.inspection import diff_page
from tallies.inspection.measures import Measures, together
from tests.reference.differences import differences
from tests.reference.dtype import widen
from tests.support import scaled_models, strategies
from tests.support.checkpoints import Model, write
from tests.support.torch_files import saved

BF16 = np.dtype(ml_dtypes.bfloat16)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@given(strategies.models(max_experts=1), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_numbers_are_those_of_the_reference(
    tmp_path_factory: pytest.TempPathFactory, models: strategies.Models, n_files: int
) -> None:
    folder = tmp_path_factory.mktemp("models")
    if not models.base:
        return
    a = write(folder / "a", models.base)
    b = write(folder / "b", models.experts[0], n_files=min(n_files, len(models.base)))
    report = tallies.diff(a, b, threads=2)
    assert [one.name for one in report.tensors] == sorted(models.base, key=str.encode)
    for one in report.tensors:
        x, y = models.base[one.name], models.experts[0][one.name]
        wanted = differences(x.ravel(), y.ravel())
        found = one.measures
        assert found.n_elements == x.size
        assert (found.n_different, found.n_nonfinite) == (wanted.n_different, wanted.n_nonfinite)
        assert (found.n_sign_flips, found.largest) == (wanted.n_flips, wanted.largest)
        assert found.l2 == math.sqrt(wanted.sums[3])
        assert one.is_equal == (x.tobytes() == y.tobytes())
    assert report.is_equal == all(one.is_equal for one in report.tensors)
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))


def test_norms_and_angles() -> None:
    right = Measures(2, 2, 0, 0, 1.0, 1.0, 0.0, 1.0, 2.0)  # (1, 0) and (0, 1)
    assert (right.cosine, right.l2, right.relative_l2) == (0.0, math.sqrt(2), math.sqrt(2))
    from_zero = Measures(1, 1, 0, 0, 2.0, 0.0, 0.0, 4.0, 4.0)
    assert (from_zero.cosine, from_zero.relative_l2) == (None, None)
    zeros = Measures(1, 1, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)  # +0 and -0
    assert (zeros.cosine, zeros.relative_l2, zeros.is_equal) == (1.0, 0.0, False)
    both = together([right, from_zero])
    assert (both.n_elements, both.largest, both.squares_of_differences) == (3, 2.0, 6.0)
    assert together([]).changed_share == 0.0


def test_threads_and_memory_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a: Model = {f"layers.{i}.w": rng.standard_normal((300, 257)).astype(BF16) for i in range(3)}
    b = {
        name: (widen(x) * rng.choice([1, 1, 1, -1.01], x.shape)).astype(BF16)
        for name, x in a.items()
    }
    paths = write(tmp_path / "a", a), write(tmp_path / "b", b)
    first = tallies.diff(*paths)
    for memory, threads in (("4MiB", 1), ("64MiB", 3)):
        again = tallies.diff(*paths, max_memory=memory, threads=threads)
        assert again.tensors == first.tensors
    assert [one.label for one in first.by_layer()] == ["layers.0", "layers.1", "layers.2"]


def test_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"h.{i}.w" for i in range(12)] + ["embed", "norm"]
    path = write(tmp_path / "a", {name: f32(1) for name in names})
    labels = [one.label for one in tallies.diff(path, path).by_layer()]
    assert labels == ["embed", *(f"h.{i}" for i in range(12)), "norm"]


def test_tensors_of_one_model_and_of_other_forms(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"w": f32(1, 2), "only a": f32(1), "s": f32(1), "n": f32(1)})
    b: Model = {"w": f32(1, 2).astype(BF16), "only b": f32(1), "s": f32(1, 1)}
    report = tallies.diff(a, write(tmp_path / "b", {**b, "n": np.array([1], np.int32)}))
    assert (report.only_in_a, report.only_in_b) == (["only a"], ["only b"])
    assert [(one.name, one.shapes) for one in report.unlike] == [
        ("n", ((1,), (1,))),
        ("s", ((1,), (2,))),
    ]
    (same,) = report.tensors
    assert (same.dtypes, same.measures.is_equal, same.is_equal) == (("F32", "BF16"), True, False)
    assert not report.is_equal
    text = str(report)
    for part in (
        "only in A",
        "'only a'",
        "'n' is F32 [1] and I32 [1]",
        "'w' is F32 and BF16, compared in float32",
    ):
        assert part in text


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "uint64"])
def test_whole_numbers(tmp_path: Path, dtype: str) -> None:
    a, b = np.array([0, 1, 1, 0, 100], dtype), np.array([0, 1, 0, 1, 1], dtype)
    report = tallies.diff(write(tmp_path / "a", {"w": a}), write(tmp_path / "b", {"w": b}))
    wanted = differences(a, b)
    assert report.total.n_different == wanted.n_different
    assert report.total.largest == wanted.largest


def test_equal_values_that_are_not_finite_are_equal(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"w": f32(math.nan, -math.inf, 3)})
    report = tallies.diff(path, path)
    assert report.is_equal
    assert (report.total.n_nonfinite, report.total.cosine) == (2, 1.0)
    assert "2 elements NaN or infinite" in str(report)


@pytest.mark.parametrize("kind", ["blocks", "channels"])
def test_scaled_values_against_plain_ones(tmp_path: Path, kind: str) -> None:
    stored, plain = scaled_models.models(7, kind)
    config = scaled_models.DEEPSEEK if kind == "blocks" else scaled_models.COMPRESSED
    a = write(tmp_path / "a", stored, config=config)
    report = tallies.diff(a, write(tmp_path / "b", plain))
    assert report.only_in_a == report.only_in_b == []
    for one in report.tensors:
        assert one.measures.is_equal or one.measures.relative_l2 < 2**-8  # the plain ones' rounding


def test_files_of_torch(tmp_path: Path) -> None:
    tensors = {"w": f32(1, -2, 3), "n": np.array([1, 2], np.int64)}
    a = write(tmp_path / "a", tensors)
    state = {name: torch.from_numpy(one) for name, one in tensors.items()}
    (tmp_path / "b.bin").write_bytes(saved(state))
    assert tallies.diff(a, tmp_path / "b.bin").is_equal


def test_models_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"w": f32(1)})
    with pytest.raises(tallies.InputError, match="absent"):
        tallies.diff(path, tmp_path / "absent")


HOSTILE = "<script>alert(1)</script>&\"'\N{RIGHT-TO-LEFT OVERRIDE}"


def test_the_page_takes_names_as_text(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {HOSTILE: f32(1, 2), "w": f32(1), "x": f32(1)})
    b = write(tmp_path / "b", {HOSTILE: f32(1, 3), "w": f32(1), HOSTILE[1:]: f32(1)})
    page = tallies.diff(a, b).to_html()
    assert "<script" not in page
    assert "http" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.startswith("<!doctype html>")


def test_the_page_names_so_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_page, "MOST_TENSORS", 2)
    a = write(tmp_path / "a", {f"w{i}": f32(1) for i in range(4)})
    b = write(tmp_path / "b", {f"w{i}": f32(1 + i) for i in range(4)})
    page = tallies.diff(a, b).to_html()
    assert "The 2 that changed most, of 3." in page
    by_tensor = page.partition("By tensor")[2]
    assert "w3" in by_tensor and "w2" in by_tensor and "w1" not in by_tensor
