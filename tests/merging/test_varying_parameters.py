"""Parameters that vary over the tensors of a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, plan
from tests.reference.blend import disjoint_merge
from tests.reference.elect import elect_signs
from tests.reference.model import flatten, float_names, split
from tests.reference.select import keep_mask
from tests.reference.task_arithmetic import add_to_base, task_arithmetic, task_vectors
from tests.reference.ties import merged_task_vector, ties, ties_model
from tests.support.checkpoints import Model, assert_holds
from tests.support.merges import GRADIENT, parameters, request, trimmed


def layer(name: str) -> int:
    """A layer's number; 0 outside of them, where gradients have their first value."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else 0


AT_LAYER = [1.0, 0.5, 0.0, 0.25, 0.5]
"""The gradient over five layers."""


def test_weights_vary_over_layers_and_by_filter(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    (base, *experts), (path, *paths) = layers
    own: list[dict[str, Any]] = [
        {"weight": GRADIENT},
        {"weight": [{"filter": "mlp", "value": GRADIENT}, {"filter": "norm", "value": 3.0}]},
    ]
    shared = {"weight": -0.25}
    recipe = request("task_arithmetic", paths, own, base=path, parameters=shared)
    merge(recipe, tmp_path / "out")
    expected = {}
    for name, tensor in base.items():
        second = AT_LAYER[layer(name)] if "mlp" in name else 3.0 if "norm" in name else -0.25
        expected[name] = task_arithmetic(
            tensor, [expert[name] for expert in experts], [AT_LAYER[layer(name)], second]
        )
    assert_holds(tmp_path / "out", expected)


def test_densities_vary_over_layers_within_tensors(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    (base, *experts), (path, *paths) = layers
    rules = [{"filter": "attn", "value": 0.1}, {"value": 0.9}]
    own: list[dict[str, Any]] = [{"density": GRADIENT}, {"density": rules}]
    recipe = request("ties", paths, own, base=path, parameters={"scope": "tensor"})
    report = merge(recipe, tmp_path / "out")
    expected, kept = {}, [0, 0]
    for name, tensor in base.items():
        rows = [expert[name] for expert in experts]
        densities = [AT_LAYER[layer(name)], 0.1 if "attn" in name else 0.9]
        expected[name] = ties(tensor, rows, densities)
        for e, delta in enumerate(task_vectors(tensor, rows)):
            kept[e] += int(keep_mask({"x": delta}, densities[e], scope="tensor")["x"].sum())
        thresholds = report.thresholds.get(name, [None, None])
        assert (thresholds[0] is None) == (densities[0] in (0, 1))
        assert thresholds[1] is not None
    assert_holds(tmp_path / "out", expected)
    assert [expert.kept for expert in report.experts] == kept


@pytest.mark.parametrize("density", [[0.2, 0.4], [{"filter": "mlp", "value": 0.5}, {"value": 0.2}]])
def test_densities_that_vary_are_refused_for_one_threshold(
    layers: tuple[list[Model], list[Path]], tmp_path: Path, density: object
) -> None:
    _, (base, *experts) = layers
    keys = {"base": base, "parameters": {"scope": "model"}}
    recipe = request("ties", experts, [{"density": density}], **keys)
    for attempt in (plan, lambda recipe: merge(recipe, tmp_path / "out")):
        with pytest.raises(InputError, match=r"density varies .*scope: tensor") as refusal:
            attempt(recipe)
        assert str(experts[0]) in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_densities_that_do_not_vary_may_be_written_as_if(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    (base, *experts), (path, *paths) = layers
    density = [{"filter": "mlp", "value": [0.4, 0.4]}, {"value": 0.4}]
    merge(request("ties", paths, base=path, parameters={"density": density}), tmp_path / "out")
    assert_holds(tmp_path / "out", ties_model(base, experts, 0.4))


def test_scale_varies_behind_one_vote_over_the_model(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    (base, *experts), (path, *paths) = layers
    scale = [{"filter": "norm", "value": 2.0}, {"value": GRADIENT}]
    merge(request("ties", paths, base=path, parameters={"lambda": scale}), tmp_path / "out")
    names = float_names(base)
    deltas = task_vectors(flatten(base, names), [flatten(expert, names) for expert in experts])
    vectors = split(merged_task_vector(deltas, 0.2), base, names)
    expected = {
        name: add_to_base(
            base[name],
            2.0 if "norm" in name else AT_LAYER[layer(name)],
            vectors[name].astype(np.float32),
        )
        for name in names
    }
    assert_holds(tmp_path / "out", expected)


def test_a_filter_that_fits_no_tensor_is_an_error(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    _, (base, *experts) = layers
    weight = [{"filter": "mpl", "value": 2.0}, {"value": 1.0}]
    recipe = request("task_arithmetic", experts, base=base, parameters={"weight": weight})
    words = "parameters: filter 'mpl' of 'weight' fits no tensor; the nearest names are 'mlp'"
    with pytest.raises(InputError, match=words):
        plan(recipe)
    made = plan({**recipe, "semantics": "mergekit"})
    assert list(made.warnings) == ["parameters: filter 'mpl' of 'weight' fits no tensor"]
    with pytest.raises(InputError, match="post_scale: filter 'mpl' fits no tensor"):
        plan({**recipe, "parameters": {}, "post_scale": weight})


def test_a_filter_for_a_tied_head_is_told(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    _, (base, *experts) = layers
    weight = [{"filter": "lm_head", "value": 2.0}, {"value": 1.0}]
    recipe = request("task_arithmetic", experts, base=base, parameters={"weight": weight})
    (told,) = plan(recipe).warnings
    assert "'lm_head'" in told
    assert "a tied one follows its other name" in told


def test_ties_sums_what_agrees_without_normalize(
    layers: tuple[list[Model], list[Path]], tmp_path: Path
) -> None:
    (base, *experts), (path, *paths) = layers
    shared = {"density": 0.5, "normalize": False}
    merge(
        request("ties", paths, parameters(weight=[1.5, 0.5]), base=path, parameters=shared),
        tmp_path / "out",
    )
    masks, deltas, _ = trimmed(base, experts, [0.5, 0.5], None, {})
    kept = np.where(np.stack(masks), deltas, np.float32(0))
    merged = disjoint_merge(kept, elect_signs(kept, [1.5, 0.5]), [1.5, 0.5], "sum")
    names = float_names(base)
    vectors = split(merged, base, names)
    assert_holds(
        tmp_path / "out",
        {name: add_to_base(base[name], 1.0, vectors[name].astype(np.float32)) for name in names},
    )
