"""Parameters of one model overridden by layer, as Hi-Merging drives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tallies import merge, merge_state_dicts
from tests.support.checkpoints import read, write
from tests.support.modifiers import NAMES, models, recipe


def test_one_layer_of_one_model_alone(tmp_path: Path) -> None:
    base, one, other = models(3)
    options: dict[str, Any] = {"method": "ties", "semantics": "mergekit"}
    alone = merge_state_dicts(base, [one], density=0.3, **options)
    request = {
        "merge_method": "ties",
        "semantics": "mergekit",
        "base_model": str(write(tmp_path / "base", base)),
        "models": [
            {
                "model": str(write(tmp_path / "one", one)),
                "parameters": {
                    "weight": [{"filter": "layers.1.", "value": 1.0}, {"value": 0.0}],
                    "density": [{"filter": "layers.1.", "value": 0.3}, {"value": 1.0}],
                },
            },
            {
                "model": str(write(tmp_path / "other", other)),
                "parameters": {"weight": 0.0, "density": 0.5},
            },
        ],
    }
    merge(request, tmp_path / "out")
    found = read(tmp_path / "out")
    for name in NAMES:
        expected = alone if name.startswith("layers.1.") else base
        assert np.array_equal(found[name], expected[name]), name


def test_gradients_over_layers_are_lists_of_weights(tmp_path: Path) -> None:
    base, one, other = models(3)
    asked = recipe(tmp_path, "ties", 2)
    asked["semantics"] = "mergekit"
    asked["models"][0]["parameters"] = {"weight": [0.0, 1.0, 0.0], "density": [1.0, 0.5, 1.0]}
    asked["models"][1]["parameters"] = {"weight": [0.5, 0.0, 0.5], "density": 1.0}
    merge(asked, tmp_path / "out")
    found = read(tmp_path / "out")
    options: dict[str, Any] = {"method": "ties", "semantics": "mergekit"}
    middle = merge_state_dicts(base, [one], density=0.5, **options)
    ends = merge_state_dicts(base, [other], **options)
    for name in NAMES:
        expected = middle if name.startswith("layers.1.") else ends
        assert np.array_equal(found[name], expected[name]), name
