"""LiNeS's alpha from the norms of what is merged, in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, MergeConfig, merge, merge_state_dicts, methods, plan
from tallies.methods._matrix import MatrixMethod
from tests.reference import lines
from tests.reference.model import flatten, float_names, split
from tests.reference.task_arithmetic import task_vectors
from tests.reference.ties import merged_task_vector
from tests.support import strategies
from tests.support.checkpoints import Model, assert_holds, data_bytes, write

ELEMENTWISE = [
    name
    for name in methods.names()
    if methods.get(name).needs_base and not issubclass(methods.get(name), MatrixMethod)
]
AUTO = {"alpha": "auto", "beta": 0.5}


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def recipe(root: Path, method: str, base: Model, experts: list[Model], **keys: Any) -> Any:
    return {
        "merge_method": method,
        "base_model": str(write(root / "base", base)),
        "models": [
            {"model": str(write(root / f"{i}", expert))} for i, expert in enumerate(experts)
        ],
        "layer_scaling": AUTO,
        **keys,
    }


@settings(max_examples=60)
@given(strategies.models(nonfinite=False), st.data())
def test_alpha_of_ties(models: strategies.Models, data: st.DataObject) -> None:
    names = float_names(models.base)
    weights = data.draw(strategies.weights(len(models.experts)))
    shared = {
        "density": data.draw(strategies.densities()),
        "scope": data.draw(st.sampled_from(["model", "tensor"])),
        "equal": data.draw(st.sampled_from(["keep", "first"])),
    }
    rows = {
        name: task_vectors(models.base[name], [expert[name] for expert in models.experts])
        for name in names
    }

    def merged(deltas: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        return merged_task_vector(deltas, shared["density"], weights, equal=shared["equal"])

    if shared["scope"] == "tensor":
        parts = {name: merged(deltas) for name, deltas in rows.items()}
    else:
        stacked = [
            flatten({name: deltas[t] for name, deltas in rows.items()}, names)
            for t in range(len(models.experts))
        ]
        parts = split(merged(np.stack(stacked)), models.base, names)
    expected = lines.alpha([*rows.values()], [*parts.values()], weights) if names else 0.0
    options = {"method": "ties", "weights": weights, "nonfinite": "propagate", **shared}
    with TemporaryDirectory() as name:
        asked = recipe(Path(name), "ties", models.base, models.experts, parameters=shared)
        for entry, weight in zip(asked["models"], weights or (), strict=False):
            entry["parameters"] = {"weight": weight}
        asked["nonfinite"] = "propagate"
        norms = [lines.norm(one) for one in (*rows.values(), *parts.values())]
        norms += [lines.norm_of_sum(one, weights) for one in rows.values()]
        if not np.isfinite(norms).all():
            with pytest.raises(InputError, match="alpha 'auto' of layer_scaling needs its norm"):
                merge(asked, Path(name) / "out")
            return
        report = merge(asked, Path(name) / "out", threads=data.draw(st.integers(1, 3)))
        assert report.alpha == pytest.approx(expected, rel=1e-12)
        scaling = {"alpha": report.alpha, "beta": 0.5}
        again = merge_state_dicts(models.base, models.experts, layer_scaling=scaling, **options)
        assert_holds(Path(name) / "out", again)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_merge_on_zeros_has_the_norm(tmp_path: Path, name: str) -> None:
    """On a base of zeros the result of a merge without factors is m itself, unrounded."""
    rng = np.random.default_rng(0)
    n = methods.get(name).most_models or 3
    # The larger tensor is more than one stretch, and not of whole stretches. Votes cancel often,
    # in one way or the other of different norm.
    shapes = {"layers.0.w": (1100, 601), "layers.1.b": (77,)}
    base = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    experts = [
        {
            name: (rng.integers(-4, 6, shape) / 256).astype(np.float32)
            for name, shape in shapes.items()
        }
        for _ in range(n)
    ]
    scale = {"scale": 1.0} if "scale" in methods.get(name).parameters() else {}
    plain = merge_state_dicts(base, experts, method=name, seed=3, **scale)
    expected = lines.alpha(
        [np.stack([expert[key] for expert in experts]) for key in base],
        [plain[key] for key in base],
    )
    asked = recipe(tmp_path, name, base, experts, seed=3)
    report = merge(asked, tmp_path / "out", threads=1)
    assert report.alpha == pytest.approx(expected, rel=1e-12)
    assert f"alpha {report.alpha:.6g}" in str(report)
    # Whatever the memory and the threads, and in memory too.
    again = merge(asked, tmp_path / "again", threads=2, max_memory="8MiB")
    assert again.alpha == report.alpha
    assert data_bytes(tmp_path / "again") == data_bytes(tmp_path / "out")
    options: dict[str, Any] = {"method": name, "seed": 3, "threads": 2}
    assert_holds(tmp_path / "out", merge_state_dicts(base, experts, layer_scaling=AUTO, **options))
    assert "survey of norms" in plan(asked).passes()
    assert (
        report.bytes_read > merge({**asked, "layer_scaling": None}, tmp_path / "plain").bytes_read
    )


def test_alpha_of_task_arithmetic_is_one_over_the_models() -> None:
    names = ["embed", *(f"blocks.{i}.w" for i in range(12)), "head"]
    base = {name: f32(0.25) for name in names}
    experts = [{name: f32(0.25 + 2.0**-t) for name in names} for t in range(8)]
    found, expected = (
        merge_state_dicts(
            base, experts, method="task_arithmetic", layer_scaling={"alpha": alpha, "beta": 0.5}
        )
        for alpha in ("auto", 0.125)
    )
    for name in names:
        assert found[name].tobytes() == expected[name].tobytes()


def test_experts_that_are_the_base_merge_to_it() -> None:
    base = {"layers.0.w": f32(1, 2)}
    found = merge_state_dicts(base, [base, base], method="ties", layer_scaling=AUTO)
    assert np.array_equal(found["layers.0.w"], base["layers.0.w"])
    assert merge_state_dicts({}, [{}], method="ties", layer_scaling=AUTO) == {}


def test_a_killed_merge_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base, *experts = (
        {f"layers.{i}.w": rng.standard_normal((40, 50)).astype(np.float32) for i in range(4)}
        for _ in range(4)
    )
    asked = recipe(tmp_path, "ties", base, experts, max_shard_size=8100)
    whole = merge(asked, tmp_path / "whole")
    n_calls = 0

    class Killed(Exception):
        pass

    def kill(done: int, whole: int) -> None:
        nonlocal n_calls
        n_calls += 1
        if done > 0.8 * whole:
            raise Killed

    with pytest.raises(Killed):
        merge(asked, tmp_path / "out", resume=True, progress=kill, threads=1)
    report = merge(asked, tmp_path / "out", resume=True)
    assert n_calls and report.alpha == whole.alpha
    assert data_bytes(tmp_path / "out") == data_bytes(tmp_path / "whole")


def test_what_is_refused(tmp_path: Path) -> None:
    base, expert = {"layers.0.w": f32(1, 2)}, {"layers.0.w": f32(1, np.inf)}
    with pytest.raises(InputError, match=r"'layers.0.w': the task vector of model 2 has NaN or"):
        merge_state_dicts(base, [base, expert], method="ties", layer_scaling=AUTO)
    large = {"layers.0.w": f32(3e38, 2)}
    with pytest.raises(InputError, match=r"'layers.0.w': what its task vectors .* lower the wei"):
        merge_state_dicts(base, [large, large], method="task_arithmetic", layer_scaling=AUTO)
    with pytest.raises(InputError, match=r"iso_c merges whole matrices, .* give a number"):
        MergeConfig.load(
            {
                "merge_method": "iso_c",
                "base_model": "base",
                "models": [{"model": "a"}],
                "layer_scaling": AUTO,
            }
        )
    with pytest.raises(InputError, match="found 'atuo', expected a finite number or 'auto'"):
        merge_state_dicts(base, [base], method="ties", layer_scaling={"alpha": "atuo", "beta": 1})
