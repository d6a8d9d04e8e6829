"""Values of the command line win over those of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tallies
from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tallies.recipe.effect import in_effect
from tallies.recipe.overrides import Overrides
from tests.support.recipes import assert_words, request

RECIPE = request(
    models=[
        {"model": "runs/a", "parameters": {"weight": 0.5, "density": 0.3}},
        {"model": "b.v2", "parameters": {"weight": 0.25}},
    ],
    parameters={"lambda": 0.9},
)


def overridden(**overrides: Any) -> MergeConfig:
    return MergeConfig.load(RECIPE, Overrides(**overrides))


def test_a_parameter_holds_for_all_models() -> None:
    made = overridden(parameters={"density": 0.7, "scale": 0.5})
    assert made.parameters == {"density": 0.7, "scale": 0.5}
    assert [entry.parameters for entry in made.models] == [{"weight": 0.5}, {"weight": 0.25}]


@pytest.mark.parametrize("model", ["0", "runs/a", "a"])
def test_a_model_is_named_by_number_text_or_last_part(model: str) -> None:
    made = overridden(settings={f"models.{model}.weight": [0.1, 0.9]})
    assert made.models[0].parameters == {"weight": [0.1, 0.9], "density": 0.3}
    assert made.models[1] == MergeConfig.load(RECIPE).models[1]


def test_a_name_may_hold_dots() -> None:
    made = overridden(settings={"models.b.v2.parameters.weight": 2.0})
    assert made.models[1].parameters == {"weight": 2.0}


def test_the_nearer_value_wins() -> None:
    made = overridden(
        parameters={"weight": 3.0},
        models=[{"model": "a", "parameters": {"weight": 0.1}}],
        settings={"models.1.weight": 0.2},
    )
    assert made.parameters["weight"] == 3.0
    assert [entry.parameters["weight"] for entry in made.models] == [0.1, 0.2]


def test_keys_of_the_recipe() -> None:
    made = overridden(
        keys={"seed": 7, "nonfinite": None},
        settings={"dtype": "bfloat16", "layer_scaling": {"alpha": 0.5, "beta": 0.5}},
    )
    assert (made.seed, made.dtype, made.nonfinite) == (7, "BF16", "error")
    assert made.layer_scaling == {"alpha": 0.5, "beta": 0.5}
    assert overridden(settings={"density": 0.6}).parameters["density"] == 0.6


def test_the_recipe_is_checked_with_them() -> None:
    """Semantics may come with parameters that only they have."""
    given = request(parameters={"majority_sign_method": "frequency", "density": 0.5})
    with pytest.raises(InputError, match="peft"):
        MergeConfig.load(given)
    made = MergeConfig.load(given, Overrides({"semantics": "peft"}))
    assert made.parameters["majority_sign_method"] == "frequency"


def test_the_given_data_stay_as_they_are() -> None:
    before = repr(RECIPE)
    overridden(parameters={"weight": 1.0}, settings={"models.0.density": 0.9})
    assert repr(RECIPE) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models.2.weight": 1}, ["'2'", "runs/a", "b.v2"]),
        ({"models.c.weight": 1}, ["'c'", "not in the recipe"]),
        ({"models.weight": 1}, ["models.MODEL.KEY"]),
        ({"seed.a": 1}, ["'seed'", "no keys"]),
        ({"sed": 1}, ["did you mean 'seed'?"]),
        ({"parameters.densty": 1}, ["did you mean 'density'?"]),
    ],
)
def test_what_the_recipe_cannot_have_is_refused(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        MergeConfig.load({**RECIPE, "seed": 1}, Overrides(settings=settings))
    assert_words(str(caught.value), *words)


def test_a_model_that_stands_twice_has_a_number() -> None:
    twice = request(models=["a", "a"])
    with pytest.raises(InputError, match="twice; give its number"):
        MergeConfig.load(twice, Overrides(settings={"models.a.weight": 1}))
    made = MergeConfig.load(twice, Overrides(settings={"models.1.weight": 0.5}))
    assert [entry.parameters for entry in made.models] == [{}, {"weight": 0.5}]


def test_models_may_be_plain_text_or_mergekit_mappings(tmp_path: Path) -> None:
    made = MergeConfig.load(
        {
            "merge_method": "ties",
            "base_model": {"path": "org/base", "revision": "v1"},
            "models": [
                "a",
                tmp_path,
                {"model": {"path": "b", "lora": {"path": "tuned"}}},
                {"model": {"model": {"path": "c", "revision": "main"}, "lora": "d"}},
            ],
        }
    )
    assert made.base_model == "org/base@v1"
    texts = [entry.model for entry in made.models]
    assert texts == ["a", str(tmp_path), "b+tuned", "c@main+d"]


def test_python_replaces_semantics_before_the_check(tmp_path: Path) -> None:
    recipe = request(parameters={"merge_func": "max"})
    with pytest.raises(InputError, match="no such file"):
        tallies.merge(recipe, tmp_path / "out", semantics="fusionbench")


def test_a_shared_value_that_no_model_would_take_is_refused() -> None:
    with pytest.raises(InputError, match=r"own 'weight'; --param weight=VALUE"):
        overridden(settings={"weight": 0.2})
    assert overridden(settings={"parameters.density": 0.2}).parameters["density"] == 0.2


def test_two_names_of_one_parameter_are_refused() -> None:
    with pytest.raises(InputError, match="'lambda' is another name"):
        overridden(parameters={"scale": 0.5, "lambda": 0.7})


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"semantics": "mergekit"}, {"density": 0.2, "normalize": True}),
        ({"merge_method": "task_arithmetic"}, {"normalize": True}),
    ],
)
def test_a_report_repeats_its_merge_in_another_way(
    keys: dict[str, str], kept: dict[str, Any]
) -> None:
    """Defaults that a report writes out give way where the other method or semantics lacks them."""
    written = in_effect(MergeConfig.load(request(parameters={"weight": 0.5}))).to_json_dict()
    assert written["parameters"]["scope"] == "model"
    made = MergeConfig.load(written, Overrides(keys))
    assert made.parameters == {"weight": 0.5, "scale": 1.0, "integers": "equal", **kept}
    with pytest.raises(InputError, match="scope"):
        MergeConfig.load(request(parameters={"scope": "tensor"}), Overrides(keys))


def test_a_stated_value_holds_in_other_semantics_though_it_is_a_default() -> None:
    """0.2 is the paper's density, and 1 is mergekit's."""
    made = MergeConfig.load(
        request(parameters={"density": 0.2, "weight": 1.0}), Overrides({"semantics": "mergekit"})
    )
    assert made.parameters["density"] == 0.2


STAGED = request(
    models=["mid", "b"],
    stages=[
        {"name": "mid", "merge_method": "linear", "models": ["low.1", "c"]},
        {"name": "low.1", "merge_method": "linear", "models": ["c", "d"]},
    ],
)


@pytest.mark.parametrize("stage", ["0", "mid"])
def test_a_value_of_a_stage_is_set_by_its_number_or_name(stage: str) -> None:
    settings = {f"stages.{stage}.seed": 3, f"stages.{stage}.models.c.weight": 0.25}
    made = MergeConfig.load(STAGED, Overrides(settings=settings))
    stages = dict(made.before())
    assert (stages["mid"].seed, stages["low.1"].seed, made.seed) == (3, 0, 0)
    assert [one.parameters for one in stages["mid"].models] == [{}, {"weight": 0.25}]


def test_a_stage_whose_name_has_a_dot() -> None:
    made = MergeConfig.load(STAGED, Overrides(settings={"stages.low.1.dtype": "float16"}))
    assert [one.dtype for _, one in made.before()] == ["F16", None]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("stages.7.seed", "'7' is no stage of the recipe, which has 'mid', 'low.1'"),
        ("stages.gone.seed", "'gone' is no stage"),
        ("stages.0", r"expected stages\.STAGE\.KEY=VALUE, such as stages\.0\.seed=3"),
        ("stages.mid.sead", "'sead' is not known; did you mean 'seed'"),
    ],
)
def test_values_of_stages_that_are_not_there(key: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        MergeConfig.load(STAGED, Overrides(settings={key: 3}))
    with pytest.raises(InputError, match=r"stages\.0\.seed.*is no stage .* has none"):
        MergeConfig.load(request(models=["a"]), Overrides(settings={"stages.0.seed": 3}))


@pytest.mark.parametrize(
    ("changed", "given", "message"),
    [
        ({"parameters": "text"}, {"parameters": {"density": 0.4}}, "parameters 'text', expected"),
        ({"parameters": [1]}, {"settings": {"density": 0.4}}, r"parameters \[1\], expected"),
        ({"stages": 5}, {"settings": {"stages.0.seed": 1}}, "is no stage of the recipe"),
        ({"slices": [{"sources": 5}]}, {"parameters": {"density": 0.4}}, "slices"),
        ({"models": [7, *RECIPE["models"]]}, {"settings": {"models.a.weight": 1}}, "models"),
        ({"models": [{"parameters": {}}]}, {"settings": {"models.0.weight": 1}}, "model"),
    ],
)
def test_recipes_of_other_types_are_refused(
    changed: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        MergeConfig.load({**RECIPE, **changed}, Overrides(**given))
