"""Requests to drop entries that are refused before data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, merge_state_dicts
from tests.support.checkpoints import write
from tests.support.staged_cases import staged


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("della", {"density": 0.9}, "density 0.9 .* epsilon 0.15 is not between 0 and 1; .* 0.1"),
        ("della_linear", {"density": 0.1, "epsilon": 0.1}, "give an epsilon below 0.1"),
        ("della", {"epsilon": -1}, "epsilon: found -1, expected a finite number from 0 to 1"),
        ("dare_linear", {"density": -0.5}, "density: found -0.5, expected .* from 0 to inf"),
        ("dare_linear", {"gamma": 0.1}, "gamma"),
        ("dare_ties", {"rescale": "l2"}, "rescale: 'l2' is not known .*probability, l1, none"),
        ("breadcrumbs", {"gamma": 2}, "gamma: found 2, expected a finite number from 0 to 1"),
        ("breadcrumbs", {"scope": "row"}, "scope: .* only in paper semantics"),
        ("breadcrumbs", {"epsilon": 0.1}, "epsilon"),
    ],
)
def test_what_is_refused(method: str, options: dict[str, Any], words: str) -> None:
    base = {"x": np.full(3, np.nan, np.float32)}
    with pytest.raises(InputError, match=words):
        merge_state_dicts(base, [base], method=method, semantics="mergekit", **options)


def test_a_trim_of_what_l1_scales_is_refused() -> None:
    with pytest.raises(InputError, match="l1' scales cannot be trimmed; change it or 'trim_den"):
        staged(np.full(3, np.nan), "dare_ties", rescale="l1", trim_density=0.2)


@pytest.mark.parametrize("method", ["breadcrumbs", "della"])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, method: str) -> None:
    model = {"x": np.zeros(400_000, np.float32)}
    recipe: dict[str, Any] = {
        "merge_method": method,
        "base_model": str(write(tmp_path / "base", model)),
        "models": [{"model": str(write(tmp_path / "a", model))}],
    }
    words = r"tensor 'x': whole rows take 19\.84MiB, expected .* raise it to 19\.84MiB"
    with pytest.raises(InputError, match=words):
        merge(recipe, tmp_path / "out", max_memory="1MiB", threads=1)
    assert not (tmp_path / "out").exists()
    merge(recipe, tmp_path / "out", max_memory="20MiB", threads=1)


@pytest.mark.parametrize(("given", "meant"), [(True, None), ("false", "none"), (1, None)])
@pytest.mark.parametrize("semantics", ["paper", "mergekit"])
def test_rescale_as_a_switch(semantics: str, given: object, meant: str | None) -> None:
    x = np.arange(100)
    options: dict[str, Any] = {"density": 0.5, "semantics": semantics}
    found = staged(x, "dare_linear", rescale=given, **options)
    expected = staged(x, "dare_linear", **options, **({"rescale": meant} if meant else {}))
    assert np.array_equal(found, expected)
