"""Methods of arcs warn of vectors between which there is no arc, once for all tensors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import merge, merge_state_dicts
from tests.support.checkpoints import Model, write

METHODS = ("slerp", "nuslerp", "multislerp", "karcher")


def models(kind: str) -> list[Model]:
    rng = np.random.default_rng(2)
    first = {f"l.{i}.w": rng.standard_normal((3, 4)).astype(np.float32) for i in range(6)}
    other = {name: x + np.float32(0.1) for name, x in first.items()}
    if kind == "opposite":
        for name in list(first)[:5]:
            other[name] = -first[name] * np.float32(1.5)
    if kind == "nearly":
        other["l.2.w"] = -first["l.2.w"] + np.float32(1e-3)
    if kind == "zero":
        first["l.1.w"] = np.zeros_like(first["l.1.w"])
    if kind == "zeros":
        first["l.1.w"] = other["l.1.w"] = np.zeros_like(first["l.1.w"])
    return [first, other]


def told(method: str, experts: list[Model], **more: Any) -> list[str]:
    more = {"t": 0.5, **more} if method == "slerp" else more
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        merged = merge_state_dicts(None, experts, method=method, **more)
    assert all(np.isfinite(x).all() for x in merged.values())
    assert all(Path(one.filename) == Path(__file__) for one in found)
    return [str(one.message) for one in found]


@pytest.mark.parametrize("method", METHODS)
def test_opposite_tensors_are_one_warning_with_their_number_and_first_names(method: str) -> None:
    (line,) = told(method, models("opposite"))
    assert line.startswith(f"{method}: 5 tensors opposite in two models")
    assert line.endswith(": 'l.0.w', 'l.1.w', 'l.2.w', ...")
    (line,) = told(method, models("nearly"))
    assert line.startswith(f"{method}: 1 tensor opposite") and line.endswith(": 'l.2.w'")


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_is_zero_in_one_model(method: str) -> None:
    (line,) = told(method, models("zero"))
    assert line.startswith(f"{method}: 1 tensor zero in one of the models")
    assert line.endswith(": 'l.1.w'")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["near", "zeros"])
def test_ordinary_models_are_no_warning(method: str, kind: str) -> None:
    assert told(method, models(kind)) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_number_of_another_sign_is_not_opposite(method: str) -> None:
    one = {"scale": np.array([2], np.float32)}
    assert told(method, [one, {"scale": -one["scale"]}]) == []


def test_rows() -> None:
    first, other = models("near")
    first["l.0.w"][1] = 0
    assert told("nuslerp", [first, other], flatten=False) == []
    other["l.0.w"][2] = -first["l.0.w"][2]
    (line,) = told("nuslerp", [first, other], flatten=False)
    assert "1 tensor opposite" in line


def test_other_methods_of_inner_products_do_not_warn() -> None:
    assert told("linear", models("opposite")) == []


def test_a_report_tells_it_also_when_the_run_is_resumed(tmp_path: Path) -> None:
    both = zip("ab", models("opposite"), strict=True)
    paths = [write(tmp_path / name, one) for name, one in both]
    recipe = {
        "merge_method": "slerp",
        "models": [{"model": str(path)} for path in paths],
        "parameters": {"t": 0.5},
    }
    whole = merge(recipe, tmp_path / "whole", max_shard_size=100)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(recipe, tmp_path / "out", max_shard_size=100, resume=True, progress=stop)
    report = merge(recipe, tmp_path / "out", max_shard_size=100, resume=True)
    assert report.warnings == whole.warnings
    assert [one for one in report.warnings if one.startswith("slerp: 5 tensors opposite")]
