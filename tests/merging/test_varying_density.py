"""A density that varies over the tensors ranks each of them by itself, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tallies
from tallies.errors import InputError
from tests.reference.ties import ties
from tests.support.checkpoints import assert_holds, write
from tests.support.merges import request

NAMES = [f"model.layers.{i}.w" for i in range(3)]


def models() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{name: rng.normal(size=40).astype(np.float32) for name in NAMES} for _ in range(3)]


def test_each_tensor_is_ranked_by_itself(tmp_path: Path) -> None:
    base, *experts = models()
    paths = [write(tmp_path / str(i), one) for i, one in enumerate([base, *experts])]
    recipe = request("ties", paths[1:], [{"density": [1.0, 0.5, 0.2]}, {}], base=paths[0])
    expected = {
        name: ties(base[name], [one[name] for one in experts], [density, 0.2])
        for name, density in zip(NAMES, [1.0, 0.5, 0.2], strict=True)
    }
    report = tallies.merge(recipe, tmp_path / "out")
    assert_holds(tmp_path / "out", expected)
    assert sum("density varies over the tensors" in one for one in report.warnings) == 1
    assert report.to_json_dict()["recipe"]["parameters"]["scope"] == "tensor"
    again = tallies.merge(tmp_path / "out" / "tallies.json", tmp_path / "again")
    assert_holds(tmp_path / "again", expected)
    assert not any("varies" in one for one in again.warnings)
    rules = [{"filter": f".{i}.", "value": d} for i, d in enumerate([1.0, 0.5])] + [{"value": 0.2}]
    with pytest.warns(UserWarning, match="so scope is tensor"):
        found = tallies.merge_state_dicts(base, experts, density=rules)
    assert found[NAMES[1]].tobytes() == ties(*arrays(base, experts, NAMES[1]), 0.5).tobytes()


def arrays(base: dict, experts: list[dict], name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    return base[name], [one[name] for one in experts]


def test_a_scope_that_is_given_stays_and_is_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / str(i), one) for i, one in enumerate(models())]
    keys = {"base": paths[0], "parameters": {"scope": "model", "density": [1.0, 0.5]}}
    with pytest.raises(InputError, match=r"'scope: tensor' or 'semantics: mergekit'"):
        tallies.plan(request("ties", paths[1:], **keys))


def test_a_gradient_of_one_value_leaves_the_scope(tmp_path: Path) -> None:
    paths = [write(tmp_path / str(i), one) for i, one in enumerate(models())]
    made = tallies.plan(
        request("ties", paths[1:], base=paths[0], parameters={"density": [0.5, 0.5]})
    )
    assert made.rule.scope == "model"
    assert made.warnings == ()
