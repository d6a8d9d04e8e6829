"""The models of a recipe that take part."""

from __future__ import annotations

from pathlib import Path

from tallies.recipe.config import MergeConfig
from tests.support.recipes import assert_words, refusal, request


def test_the_base_takes_part_in_linear() -> None:
    config = MergeConfig.load(request(merge_method="linear", models=[{"model": "base"}]))
    experts, warnings = config.experts()
    assert ([Path(entry.model).name for entry in experts], warnings) == (["base"], [])


def test_a_base_that_linear_does_not_use_is_told() -> None:
    _, (warning,) = MergeConfig.load(request(merge_method="linear")).experts()
    assert_words(warning, "base", "takes no part in linear")


def test_a_base_that_is_not_listed_joins_mergekits_averages() -> None:
    linear = request(merge_method="linear", semantics="mergekit")
    experts, (warning,) = MergeConfig.load({**linear, "parameters": {"weight": 1}}).experts()
    assert Path(experts[-1].model).name == "base"
    assert_words(warning, "base", "joins the models as the last one")
    own = [{"model": "a", "parameters": {"weight": 1}}]
    text = refusal({**linear, "models": own})
    assert_words(text, "base_model", "mergekit averages", "list it under 'models'", "'parameters'")


def test_the_base_alone_is_the_result_of_mergekit() -> None:
    alone = request(models=[{"model": "base"}])
    assert_words(refusal(alone), "found only the base_model")
    (entry,), (warning,) = MergeConfig.load({**alone, "semantics": "mergekit"}).experts()
    assert Path(entry.model).name == "base"
    assert_words(warning, "only the base_model", "the result is the base")


def test_a_model_listed_twice_counts_twice_with_a_warning() -> None:
    experts, (warning,) = MergeConfig.load(
        request(models=[{"model": "a"}, {"model": "b"}, {"model": "./a"}])
    ).experts()
    assert [Path(entry.model).name for entry in experts] == ["a", "b", "a"]
    assert_words(warning, "a'", "again")


def test_a_link_to_the_base_is_the_base(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to("base")
    config = MergeConfig.load(
        request(base_model=tmp_path / "base", models=[{"model": tmp_path / "link"}, {"model": "a"}])
    )
    assert len(config.experts()[0]) == 1


def test_mergekit_wants_every_weight_of_linear() -> None:
    linear = request(merge_method="linear", base_model=None, semantics="mergekit")
    assert_words(refusal(linear), "a'", "'weight' is missing", "linear", "mergekit")
    assert MergeConfig.load({**linear, "parameters": {"weight": 1}}).parameters == {"weight": 1.0}
    assert MergeConfig.load({**linear, "semantics": "paper"}).parameters == {}
