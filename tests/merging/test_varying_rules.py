"""Parameters of mergekit that make another rule for some tensors: each tensor has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, merge_state_dicts, plan
from tests.support.checkpoints import Model, read, write
from tests.support.everywhere import assert_same_bits

NAMES = ("layers.0.mlp.w", "layers.0.attn.w", "layers.1.mlp.w", "layers.1.attn.w")


def models() -> list[Model]:
    rng = np.random.default_rng(0)
    return [{name: rng.normal(size=(5, 6)).astype(np.float32) for name in NAMES} for _ in range(4)]


CASES: list[tuple[str, dict[str, Any], str, Any, Any]] = [
    ("linear", {"weight": 0.3}, "normalize", True, False),
    ("ties", {"weight": 0.3, "density": 0.4}, "normalize", False, True),
    ("ties", {"weight": 0.3, "density": 0.4}, "rescale", True, False),
    ("dare_ties", {"density": 0.5}, "rescale", False, True),
    ("model_stock", {}, "filter_wise", True, False),
    ("ram", {}, "epsilon", 0.0, 0.8),
]


@pytest.mark.parametrize(("method", "shared", "key", "of_mlp", "other"), CASES)
def test_each_tensor_has_its_rule(
    tmp_path: Path, method: str, shared: dict[str, Any], key: str, of_mlp: Any, other: Any
) -> None:
    base, *experts = models()
    options: dict[str, Any] = {"method": method, "semantics": "mergekit", **shared}
    start = None if method == "linear" else base
    rules = [{"filter": "mlp", "value": of_mlp}, {"value": other}]
    found = merge_state_dicts(start, experts, **options, **{key: rules})
    whole = {
        value: merge_state_dicts(start, experts, **options, **{key: value})
        for value in (of_mlp, other)
    }
    for name in NAMES:
        assert_same_bits(found[name], whole[of_mlp if "mlp" in name else other][name])
    assert any((whole[of_mlp][name] != whole[other][name]).any() for name in NAMES)
    recipe = {
        "merge_method": method,
        "semantics": "mergekit",
        "models": [str(write(tmp_path / f"{i}", one)) for i, one in enumerate(experts)],
        "parameters": {**shared, key: rules},
    }
    if start is not None:
        recipe["base_model"] = str(write(tmp_path / "base", base))
    report = merge(recipe, tmp_path / "out")
    for name, values in read(tmp_path / "out").items():
        assert_same_bits(values, found[name])
    assert len(report.shared_parameters[key]) == 2
    assert str(report) and str(plan(recipe))
    again = merge(tmp_path / "out" / "tallies.json", tmp_path / "again")
    assert again.output.fingerprint == report.output.fingerprint
    with pytest.raises(InputError, match=key):
        plan({**recipe, "semantics": "paper"})
