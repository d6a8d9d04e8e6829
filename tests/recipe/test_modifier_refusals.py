"""Modifiers that are refused, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tallies import InputError, MergeConfig, merge_state_dicts
from tests.support.modifiers import f32

REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"layer_scaling": {"alpha": 1}}, "layer_scaling: 'beta' is missing, expected alpha, beta"),
    (
        {"layer_scaling": {"alpha": 1, "betta": 2}},
        "layer_scaling: betta: parameter of layer_scaling 'betta' is not known; did you mean",
    ),
    ({"layer_scaling": 0.3}, "layer_scaling: found 0.3, expected a mapping with alpha, beta"),
    ({"layer_scaling": {"alpha": "x", "beta": 1}}, "alpha: found 'x', expected a finite number"),
    ({"drop_layers": {"score": "size"}}, "drop_layers: 'ratio' is missing"),
    ({"drop_layers": {"score": "sizes", "ratio": 0.1}}, "did you mean 'size'"),
    ({"drop_layers": {"score": "size", "ratio": 2}}, "ratio: found 2, expected a finite number fr"),
    ({"post_scale": "much"}, "post_scale: found 'much', expected a finite number"),
    ({"post_scale": float("nan")}, "post_scale: found nan, expected a finite number"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_is_refused(keys: Mapping[str, Any], message: str) -> None:
    request = {"merge_method": "ties", "base_model": "base", "models": [{"model": "a"}], **keys}
    with pytest.raises(InputError) as caught:
        MergeConfig.load(request)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        merge_state_dicts({"x": f32(1)}, [{"x": f32(1)}], **keys)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["post_scale", "layer_scaling", "drop_layers"])
@pytest.mark.parametrize(
    ("method", "reason"), [("linear", "forms no task v"), ("multislerp", "without a base")]
)
def test_methods_without_a_base_have_none(key: str, method: str, reason: str) -> None:
    value: Any = {
        "post_scale": 0.5,
        "layer_scaling": {"alpha": 1, "beta": 1},
        "drop_layers": {"score": "size", "ratio": 0.1},
    }[key]
    with pytest.raises(InputError, match=f"^{key}: {method} forms no task vectors.*") as caught:
        merge_state_dicts(None, [{"x": f32(1)}], method=method, **{key: value})
    assert reason in str(caught.value)
    with pytest.raises(InputError, match=reason):
        MergeConfig.load({"merge_method": method, "models": [{"model": "a"}], key: value})


def test_a_misspelt_key_is_an_error() -> None:
    with pytest.raises(InputError, match="'layer_scalling' is not known; did you mean 'layer_sca"):
        MergeConfig.load(
            {
                "merge_method": "ties",
                "base_model": "base",
                "models": [{"model": "a"}],
                "layer_scalling": {"alpha": 1, "beta": 1},
            }
        )
