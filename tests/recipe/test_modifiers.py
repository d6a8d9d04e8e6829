"""The modifiers: a scale behind the method, factors by depth, dropped layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tallies import InputError, merge, merge_state_dicts, methods, plan
from tests.support.checkpoints import assert_holds, read
from tests.support.command import tallies
from tests.support.everywhere import assert_same_bits
from tests.support.modifiers import NAMES, f32, models, n_experts, recipe

Array = npt.NDArray[Any]
WITH_BASE = [name for name in methods.names() if methods.get(name).needs_base]


# LiNeS and the scale behind a method's own.


def test_a_factor_grows_with_the_layer() -> None:
    names = [
        "model.visual.conv1.weight",
        *(f"model.visual.transformer.resblocks.{i}.mlp.0.weight" for i in range(12)),
        "model.visual.proj",
    ]
    base = {name: f32(0) for name in names}
    experts = [{name: f32(1) for name in names} for _ in range(8)]
    found = merge_state_dicts(
        base, experts, method="task_arithmetic", layer_scaling={"alpha": 1 / 8, "beta": 0.5}
    )
    alphas = {name: float(value[0]) / 8 for name, value in found.items()}
    assert alphas[names[0]] == alphas[names[-1]] == 0.125
    assert alphas[names[1]] == 0.125
    assert alphas[names[12]] == 0.625
    # The first of two numbers in a name is the layer: block 11 is not in layer 0.
    assert [alphas[name] for name in names[1:13]] == pytest.approx(
        [0.125 + 0.5 * i / 11 for i in range(12)]
    )


def test_the_only_layer_is_the_last() -> None:
    base, expert = {"layers.0.w": f32(0), "norm": f32(0)}, {"layers.0.w": f32(1), "norm": f32(1)}
    found = merge_state_dicts(
        base, [expert], method="task_arithmetic", layer_scaling={"alpha": 1, "beta": 2}
    )
    assert {name: float(value[0]) for name, value in found.items()} == {"layers.0.w": 3, "norm": 1}


@pytest.mark.parametrize("name", WITH_BASE)
def test_factors_are_those_of_the_scale(name: str) -> None:
    base, *experts = models(1 + n_experts(methods.get(name)))
    setting = [{"filter": "layers.1.b", "value": 0.5}, {"filter": "norm", "value": -2.0}]
    options: dict[str, Any] = {
        "post_scale": setting,
        "layer_scaling": {"alpha": 0.5, "beta": 0.25},
    }
    found = merge_state_dicts(base, experts, method=name, **options)
    factors = {"embed": 0.5, "layers.0.w": 0.5, "layers.1.w": 0.625, "layers.1.b": 0.3125}
    factors |= {"layers.2.w": 0.75, "norm": -1.0}
    scales = [{"filter": key, "value": factor} for key, factor in factors.items()]
    if "scale" in methods.get(name).parameters():
        expected = merge_state_dicts(base, experts, method=name, scale=scales)
        for key in NAMES:
            assert_same_bits(found[key], expected[key])
    else:
        whole = merge_state_dicts(base, experts, method=name)
        for key, factor in factors.items():
            delta = whole[key] - base[key]
            assert found[key] == pytest.approx(base[key] + factor * delta, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", WITH_BASE)
def test_a_post_scale_of_zero_is_the_base(name: str) -> None:
    base, *experts = models(1 + n_experts(methods.get(name)))
    found = merge_state_dicts(base, experts, method=name, post_scale=0)
    for key in NAMES:
        assert np.array_equal(found[key], base[key])


# LwPTV.


def test_scores_and_what_they_drop() -> None:
    base = {f"layers.{i}.w": np.zeros(2, np.float32) for i in range(4)}
    one = {"layers.0.w": f32(3, 0), "layers.1.w": f32(1, 0)}
    one |= {"layers.2.w": f32(0, 1), "layers.3.w": f32(0, 0)}
    other = {"layers.0.w": f32(3, 0), "layers.1.w": f32(0, 4)}
    other |= {"layers.2.w": f32(0, 2), "layers.3.w": f32(5, 0)}

    def kept(**options: Any) -> list[str]:
        """For each model, the layers in which its task vector is left."""
        each = []
        for weights in ([1, 0], [0, 1]):
            found = merge_state_dicts(
                base, [one, other], method="task_arithmetic", weights=weights, drop_layers=options
            )
            each.append("".join(str(i) for i in range(4) if found[f"layers.{i}.w"].any()))
        return each

    # Sizes 3, 1, 1, 0 and 3, 4, 2, 5; of equal ones the first layer goes first.
    assert kept(score="size", ratio=0.5) == ["02", "13"]
    assert kept(score="size", ratio=0.5, drop="highest") == ["2", "02"]
    assert kept(score="size", ratio=0.49) == ["012", "013"]
    assert kept(score="size", ratio=0.0) == ["012", "0123"]
    assert kept(score="size", ratio=1.0) == ["", ""]
    # Cosines with the mean 1, 0.24, 1, 0 and 1, 0.97, 1, 1.
    assert kept(score="cosine", ratio=0.5, drop="highest") == ["1", "13"]
    assert kept(score="cosine", ratio=0.25) == ["012", "023"]
    # Distances from the mean 0, 2.06, 0.5, 2.5 of both.
    assert kept(score="distance", ratio=0.5) == ["1", "13"]


def test_a_layer_with_nan_is_not_hidden() -> None:
    base = {f"layers.{i}.w": f32(0) for i in range(2)}
    expert = {"layers.0.w": f32(np.nan), "layers.1.w": f32(1)}
    for drop in ("lowest", "highest"):
        with pytest.raises(InputError, match=r"'layers.0.w' has 1 NaN"):
            merge_state_dicts(
                base,
                [expert],
                method="task_arithmetic",
                drop_layers={"score": "size", "ratio": 0.5, "drop": drop},
            )


@pytest.mark.parametrize("name", WITH_BASE)
@pytest.mark.parametrize("unit", ["layer", "tensor"])
def test_a_dropped_layer_is_one_of_the_base(name: str, unit: str) -> None:
    base, *experts = models(1 + n_experts(methods.get(name)))
    experts[-1] = {key: base[key] + np.float32(0.01) * experts[-1][key] for key in NAMES}
    experts[-1]["layers.1.w"] = experts[-1]["layers.1.w"] + np.float32(9)
    options = {"score": "size", "ratio": 0.34, "drop": "highest", "unit": unit}
    found = merge_state_dicts(base, experts, method=name, drop_layers=options)
    # The expectation: the same layers found by hand, the base's tensors put in their place.
    groups = (
        {key: [key] for key in NAMES}
        if unit == "tensor"
        else {f"layers.{i}": [key for key in NAMES if f"layers.{i}." in key] for i in range(3)}
    )
    by_hand = []
    for expert in experts:
        size = {
            group: np.sqrt(np.mean([(expert[k] - base[k]).astype(np.float64) ** 2 for k in keys]))
            for group, keys in groups.items()
        }
        worst = sorted(size, key=lambda group: -size[group])[: int(0.34 * len(groups))]
        lost = {key for group in worst for key in groups[group]}
        assert lost
        by_hand.append({key: base[key] if key in lost else expert[key] for key in NAMES})
    expected = merge_state_dicts(base, by_hand, method=name)
    for key in NAMES:
        assert_same_bits(found[key], expected[key])


@pytest.mark.parametrize("method", ["ties", "model_stock"])
def test_on_disk_as_in_memory(tmp_path: Path, method: str) -> None:
    base, *experts = models(4)
    keys: dict[str, Any] = {
        "post_scale": 0.5,
        "layer_scaling": {"alpha": 0.5, "beta": 1.0},
        "drop_layers": {"score": "cosine", "ratio": 0.4},
    }
    expected = merge_state_dicts(base, experts, method=method, **keys)
    asked = {**recipe(tmp_path, method), **keys}
    report = merge(asked, tmp_path / "out", threads=2, max_memory="1KiB")
    assert_holds(tmp_path / "out", expected)
    assert [len(one.dropped_layers) for one in report.experts] == [1, 1, 1]
    assert all(one.n_equal_to_base == 0 for one in report.experts)
    assert "without 1 layer" in str(report)
    plain = merge(recipe(tmp_path / "again", method), tmp_path / "plain")
    assert [one.fingerprint for one in plain.experts] == [one.fingerprint for one in report.experts]
    assert plan(asked).passes()[0] == "survey of layers"
    surveys = 1 if method == "ties" else 2  # the merge proves thresholds that it guesses
    assert plan(asked).bytes_surveyed == surveys * plan(asked).bytes_combined
    merge(tmp_path / "out" / "tallies.json", tmp_path / "repeated")
    assert_holds(tmp_path / "repeated", expected)


def test_command_line(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "task_arithmetic", 2)
    keys = {"layer_scaling": {"alpha": 0.5, "beta": 1.0}, "post_scale": 0.5}
    keys["drop_layers"] = {"score": "size", "ratio": 0.4}
    merge({**asked, **keys}, tmp_path / "expected")
    done = tallies(
        "merge",
        "--method=task_arithmetic",
        f"--base={asked['base_model']}",
        *(f"--model={one['model']}" for one in asked["models"]),
        "--layer-scaling=alpha=0.5,beta=1",
        "--post-scale=0.5",
        "--drop-layers=score=size,ratio=0.4",
        f"--out={tmp_path / 'out'}",
    )
    assert done.status == 0, done.err
    assert_holds(tmp_path / "out", read(tmp_path / "expected"))
