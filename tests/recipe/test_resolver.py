"""The parameters of each tensor: gradients, rules, defaults."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tallies.recipe.layers import layer_positions
from tallies.recipe.settings import evaluate, normalise
from tests.support.recipes import LLAMA, assert_words, request, with_parameters


def test_layer_positions() -> None:
    positions = layer_positions(
        [
            *LLAMA,
            "encoder.block.0.layer.1.w",
            "encoder.block.2.layer.0.w",
            "encoder.block.0.layer.0.w",
            "decoder.block.0.w",
            "4.weight",
            "0.weight",
            "scales.7",
            "h." + "9" * 5000 + ".w",
        ]
    )
    assert positions["model.layers.0.mlp.up_proj.weight"] == 0.0
    assert positions["model.layers.1.mlp.up_proj.weight"] == 1 / 3
    assert positions["model.layers.3.mlp.up_proj.weight"] == 1.0
    outside = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "scales.7")
    assert [positions[name] for name in outside] == [0.0] * 4
    assert positions["encoder.block.0.layer.1.w"] == 0.0
    assert positions["encoder.block.2.layer.0.w"] == 1.0
    assert positions["decoder.block.0.w"] == 1.0, "the only layer"
    assert (positions["0.weight"], positions["4.weight"]) == (0.0, 1.0)
    assert positions["h." + "9" * 5000 + ".w"] == 0.0


def test_values_are_those_of_mergekit() -> None:
    """The numbers were printed by mergekit 0.1.5's planner for this recipe and these names."""
    config = MergeConfig.load(
        request(
            semantics="mergekit",
            models=[
                {"model": "base"},
                {"model": "a", "parameters": {"density": [1, 0.7, 0.1], "weight": "1e-1"}},
                {
                    "model": "b",
                    "parameters": {
                        "density": 0.33,
                        "weight": [
                            {"filter": "mlp", "value": [0.5, 1.5]},
                            {"filter": "layernorm", "value": 0.25},
                        ],
                    },
                },
            ],
            parameters={
                "weight": [{"filter": "*", "value": 0.75}],
                "normalize": True,
                "int8_mask": True,
                "lambda": [0.0, 0.5, 0.25, 1],
            },
        )
    )
    resolver = config.resolver(LLAMA)
    expected = {
        "model.embed_tokens.weight": ((1.0, 0.33), (0.1, 0.75), 0.0),
        "model.layers.0.mlp.up_proj.weight": ((1.0, 0.33), (0.1, 0.5), 0.0),
        "model.layers.1.mlp.up_proj.weight": ((0.8, 0.33), (0.1, 0.8333333333333334), 0.5),
        "model.layers.2.input_layernorm.weight": ((0.5, 0.33), (0.1, 0.25), 0.25),
        "model.layers.2.mlp.up_proj.weight": ((0.5, 0.33), (0.1, 1.1666666666666667), 0.25),
        "model.layers.3.self_attn.q_proj.weight": ((0.1, 0.33), (0.1, 0.75), 1.0),
        "model.norm.weight": ((1.0, 0.33), (0.1, 0.75), 0.0),
        "lm_head.weight": ((1.0, 0.33), (0.1, 0.75), 0.0),
    }
    for name, (density, weight, scale) in expected.items():
        assert resolver.parameters_for(name) == {
            "density": density,
            "weight": weight,
            "scale": scale,
            "normalize": True,
            "int8_mask": True,
            "integers": "equal",
            "rescale": "none",
        }
    assert resolver.warnings == ()


def test_defaults_depend_on_the_semantics() -> None:
    for semantics, density in (("paper", 0.2), ("mergekit", 1.0)):
        config = MergeConfig.load(request(semantics=semantics))
        values = config.resolver(LLAMA).parameters_for("lm_head.weight")
        assert values["density"] == (density, density)
        assert values["weight"] == (1.0, 1.0)


def test_rules_that_fit_nothing_fall_back_and_unused_filters_are_told() -> None:
    rules = [{"filter": "mpl", "value": 3}, {"filter": "lm_head", "value": 2}]
    config = MergeConfig.load(with_parameters(weight=rules))
    with pytest.raises(InputError) as caught:
        config.resolver(LLAMA)
    assert_words(str(caught.value), "b'", "'mpl'", "'weight'", "no tensor", "nearest", "'mlp'")
    config = MergeConfig.load(
        with_parameters(density=[{"filter": "mpl", "value": 0.5}], weight=[rules[0], {"value": 4}])
    )
    resolver = config.replace(semantics="mergekit", parameters={"weight": 1}).resolver(LLAMA)
    assert resolver.parameters_for("lm_head.weight")["weight"] == (1.0, 4.0)
    assert resolver.parameters_for("model.norm.weight")["density"] == (1.0, 1.0)
    for key, warning in zip(("density", "weight"), resolver.warnings, strict=True):
        assert_words(warning, "b'", "'mpl'", repr(key), "no tensor")
    fallen = MergeConfig.load(with_parameters(weight=rules[1:])).resolver(LLAMA)
    assert fallen.parameters_for("model.norm.weight")["weight"] == (1.0, 1.0)


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "dare_linear", "breadcrumbs"])
def test_weights_that_mergekit_requires(method: str) -> None:
    plain = request(merge_method=method, semantics="mergekit", parameters={})
    resolver = MergeConfig.load(plain).resolver(LLAMA)
    assert resolver.parameters_for("lm_head.weight")["weight"] == (1.0, 1.0)
    (warning,) = resolver.warnings
    assert_words(warning, "model 'a', model 'b'", "mergekit refuses", "1 is taken", "'weight: 1'")
    shared = {**plain, "parameters": {"weight": [{"filter": "mlp", "value": 0.5}]}}
    resolver = MergeConfig.load(shared).resolver(LLAMA)
    assert resolver.warnings == ()
    assert resolver.parameters_for("model.layers.0.mlp.up_proj.weight")["weight"] == (0.5, 0.5)
    with pytest.raises(InputError) as caught:
        resolver.parameters_for("lm_head.weight")
    assert_words(
        str(caught.value), "a'", "no rule of 'weight'", "'lm_head.weight'", "add a last rule"
    )
    paper = MergeConfig.load({**shared, "semantics": "paper"}).resolver(LLAMA)
    assert paper.parameters_for("lm_head.weight")["weight"] == (1.0, 1.0)


def test_a_required_parameter_without_a_fitting_rule_is_an_error() -> None:
    config = MergeConfig.load(
        request(
            merge_method="linear",
            base_model=None,
            semantics="mergekit",
            parameters={"weight": {"filter": "mlp", "value": 1}},
        )
    )
    resolver = config.resolver(LLAMA)
    assert resolver.parameters_for("model.layers.0.mlp.up_proj.weight")["weight"] == (1.0, 1.0)
    with pytest.raises(InputError) as caught:
        resolver.parameters_for("lm_head.weight")
    assert_words(str(caught.value), "a'", "'weight'", "'lm_head.weight'", "without a filter")


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("weights", [(1, -1), (0, 0), (0.1, -0.1 + 1e-9)])
def test_weights_that_cancel_are_refused_where_they_divide(
    method: str, weights: tuple[float, float]
) -> None:
    a, b = (
        {"model": name, "parameters": {"weight": [w]}}
        for name, w in zip("ab", weights, strict=True)
    )
    config = MergeConfig.load(
        request(merge_method=method, models=[a, b], parameters={"normalize": True})
    )
    with pytest.raises(InputError) as caught:
        config.resolver(LLAMA).parameters_for("lm_head.weight")
    assert_words(str(caught.value), method, "'lm_head.weight'", "zero", "normalize: false")
    total = config.replace(parameters={"normalize": False}).resolver(LLAMA)
    assert total.parameters_for("lm_head.weight")["weight"] == weights


def test_a_name_that_was_not_given_has_no_parameters() -> None:
    with pytest.raises(KeyError):
        MergeConfig.load(request()).resolver(LLAMA).parameters_for("other")


numbers = st.floats(-10, 10)


def as_is(value: object) -> float | bool:
    assert isinstance(value, (float, bool))
    return value


@given(st.lists(numbers, min_size=1, max_size=6), st.integers(0, 40), st.integers(1, 40))
def test_gradients_interpolate(values: list[float], index: int, last: int) -> None:
    position = min(index, last) / last
    found = evaluate(normalise(values, as_is), "w", position)
    at = Fraction(min(index, last), last) * (len(values) - 1)
    left = math.floor(at)
    right = min(left + 1, len(values) - 1)
    exact = Fraction(values[left]) * (1 - at + left) + Fraction(values[right]) * (at - left)
    assert isinstance(found, float)
    assert found == pytest.approx(float(exact), rel=1e-13, abs=1e-12)


@given(st.lists(numbers, min_size=1, max_size=6))
def test_gradients_begin_and_end_exactly(values: list[float]) -> None:
    setting = normalise(values, as_is)
    assert evaluate(setting, "w", 0.0) == values[0]
    assert evaluate(setting, "w", 1.0) == values[-1]


def test_lists_of_booleans_are_not_interpolated() -> None:
    setting = normalise([True, False, True], as_is)
    assert [evaluate(setting, "w", t) for t in (0.0, 0.4, 0.5, 0.9, 1.0)] == [
        True,
        True,
        False,
        False,
        True,
    ]
