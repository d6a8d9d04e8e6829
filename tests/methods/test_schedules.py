"""Weights of checkpoints by their order: the formulas, the merges, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, MergeConfig, merge, merge_state_dicts, plan
from tallies.methods._schedules import scheduled_weights
from tests.reference import schedules
from tests.reference.linear import linear
from tests.support.bits import assert_same_bits
from tests.support.checkpoints import read, write

NUMBERS = (1, 2, 3, 20, 256)


def given(schedule: str, n_models: int, decay: float = 0.8) -> list[float]:
    weights = scheduled_weights(schedule, n_models, decay)
    assert weights is not None and len(weights) == n_models
    return weights


@pytest.mark.parametrize("n_models", NUMBERS)
def test_the_weights_are_those_of_the_reference(n_models: int) -> None:
    close = {"rtol": 1e-12, "atol": 1e-15}
    np.testing.assert_allclose(given("linear", n_models), schedules.linear(n_models), **close)
    for name in ("1-sqrt", "minus-sqrt"):
        np.testing.assert_allclose(
            given(name, n_models), schedules.one_minus_sqrt(n_models), **close
        )
    for decay in (0.0, 0.5, 0.8, 1.0):
        np.testing.assert_allclose(
            given("ema", n_models, decay), schedules.ema(n_models, decay), **close
        )
    for name in ("linear", "1-sqrt", "ema"):
        assert sum(given(name, n_models)) == pytest.approx(1, abs=1e-12)


def test_equal_weights_stand_for_a_linear_decay() -> None:
    np.testing.assert_allclose(schedules.constant(20), np.full(20, 1 / 20), rtol=1e-12)
    assert scheduled_weights("constant", 20, 0.8) is None


def models(n_models: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(n_models)
    return [{"w": random.standard_normal(96).astype(np.float32)} for _ in range(n_models)]


@pytest.mark.parametrize("schedule", ["linear", "1-sqrt", "minus-sqrt", "ema"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_schedule_merges_as_its_weights_do(schedule: str, normalize: bool) -> None:
    dicts = models(5)
    options = {"decay": 0.7} if schedule == "ema" else {}
    found = merge_state_dicts(
        None, dicts, method="linear", schedule=schedule, normalize=normalize, **options
    )
    weights = given(schedule, 5, 0.7)
    assert_same_bits(found["w"], linear([one["w"] for one in dicts], weights, normalize))
    backwards = merge_state_dicts(
        None, dicts[::-1], method="linear", schedule=schedule, normalize=normalize, **options
    )
    assert (backwards["w"] != found["w"]).any()


def recipe(tmp_path: Path, n_models: int = 3, **parameters: Any) -> dict[str, Any]:
    paths = [tmp_path / f"step{i}.safetensors" for i in range(n_models)]
    for path, one in zip(paths, models(n_models), strict=True):
        write(path, one)
    return {
        "merge_method": "linear",
        "models": [{"model": str(path)} for path in paths],
        "parameters": parameters,
    }


def test_report_and_recipe_have_the_weights_and_repeat_the_merge(tmp_path: Path) -> None:
    report = merge(recipe(tmp_path, schedule="ema", decay=0.5), tmp_path / "out")
    weights = given("ema", 3, 0.5)
    assert [expert.parameters["weight"] for expert in report.experts] == weights
    assert "weight 0.25\n" in str(report)
    assert "schedule ema, decay 0.5" in str(report)
    for name in ("mergekit_config.yml", "tallies.json"):
        config = MergeConfig.load(tmp_path / "out" / name)
        assert [entry.parameters["weight"] for entry in config.models] == weights
        assert config.parameters["schedule"] == "ema"
        again = merge(tmp_path / "out" / name, tmp_path / name)
        assert again.output.fingerprint == report.output.fingerprint
    expected = linear([one["w"] for one in models(3)], weights)
    assert_same_bits(read(tmp_path / "out")["w"], expected)


def test_nothing_is_told_that_has_no_effect(tmp_path: Path) -> None:
    request = recipe(tmp_path)
    made = plan(request)
    report = merge(request, tmp_path / "plain")
    names = ("count 1", "count:", "schedule", "decay", '"count"')
    card, written = (
        (tmp_path / "plain" / name).read_text() for name in ("README.md", "mergekit_config.yml")
    )
    for text in (str(made), str(report), card, written, json.dumps(made.to_json_dict())):
        assert [name for name in names if name in text] == []
    assert report.shared_parameters == {"normalize": True, "integers": "equal"}
    linear = merge(recipe(tmp_path, schedule="linear"), tmp_path / "linear")
    assert "schedule linear" in str(linear) and "decay" not in str(linear)
    request["models"][1]["parameters"] = {"count": 2}
    counted = merge(request, tmp_path / "counted")
    assert [one.parameters.get("count") for one in counted.experts] == [None, 2, None]
    # A recipe keeps what its author wrote.
    said = merge(recipe(tmp_path, schedule="constant", decay=0.8), tmp_path / "said")
    assert said.recipe["parameters"]["schedule"] == "constant"
    assert said.shared_parameters == report.shared_parameters


def test_weights_that_contradict_the_schedule_are_refused(tmp_path: Path) -> None:
    request = recipe(tmp_path, schedule="linear")
    request["models"][1]["parameters"] = {"weight": 0.5}
    with pytest.raises(InputError, match=r"step1.*weight: found 0\.5, and 'schedule: linear' "):
        plan(request)
    request["models"][1]["parameters"] = {"weight": given("linear", 3)[1]}
    assert plan(request).config.models[0].parameters["weight"] == given("linear", 3)[0]
    with pytest.raises(InputError, match="parameters: weight: found 1"):
        plan(recipe(tmp_path, schedule="1-sqrt", weight=1.0))
    with pytest.raises(InputError, match="expert 0: weight: found 1"):
        merge_state_dicts(None, models(2), method="linear", weights=[1, 2], schedule="ema")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"decay": 0.5}, "decay: 0.5 is of the schedule 'ema', and this one is 'constant'"),
        ({"decay": 0.5, "schedule": "linear"}, "and this one is 'linear'"),
        ({"decay": 1.5, "schedule": "ema"}, "from 0 to 1"),
        ({"schedule": "cosine"}, "'cosine' is not known"),
        ({"schedule": ["ema", "linear"]}, "it holds for the whole merge"),
    ],
)
def test_other_schedules_are_refused(
    tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(recipe(tmp_path, **parameters))


def test_a_schedule_is_of_the_whole_merge_of_whole_models(tmp_path: Path) -> None:
    request = recipe(tmp_path)
    request["models"][0]["parameters"] = {"schedule": "ema"}
    with pytest.raises(InputError, match="schedule: is not a parameter of one model"):
        plan(request)
    sources = [{**model, "layer_range": [0, 1]} for model in recipe(tmp_path)["models"]]
    stacked = {"merge_method": "linear", "slices": [{"sources": sources}]}
    for where in (stacked, stacked["slices"][0]):
        where["parameters"] = {"schedule": "ema"}
        with pytest.raises(InputError, match="schedule: ema orders whole models"):
            plan(stacked)
        del where["parameters"]
    with pytest.raises(InputError, match="only in paper semantics"):
        plan({**recipe(tmp_path, schedule="ema", weight=1.0), "semantics": "mergekit"})
