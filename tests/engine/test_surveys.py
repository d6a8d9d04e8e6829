"""The surveys that rules name."""

from __future__ import annotations

import pytest

from tallies import InputError, methods
from tallies.engine.surveys.survey import Survey, survey_of
from tallies.engine.surveys.trims import ALL, NONE, Rank, rank
from tallies.spec.choices import MERGEKIT, PAPER, Equal, Rescale, Scope, Semantics
from tallies.spec.rules import Blend, Gate, Rule, SurveyRule, Vote, staged, trimmed

PAIRS = [(name, one) for name in methods.names() for one in methods.get(name).semantics]


def default_rule(name: str, semantics: Semantics) -> Rule:
    method = methods.get(name)
    defaults = {key: one.default for key, one in method.parameters(semantics).items()}
    return method.rule(defaults, semantics)


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_every_rule_names_a_survey_that_is_there(name: str, semantics: Semantics) -> None:
    stated = default_rule(name, semantics).survey
    if stated is None:
        return
    survey = survey_of(stated)
    assert survey.scope is stated.scope
    assert survey.solve is stated.solve
    assert survey.of_model == (stated.scope is Scope.MODEL)
    assert all(getattr(survey, fact) == value for fact, value in stated.facts.items())
    assert survey.n_passes in (1, 2)


@pytest.mark.parametrize(
    ("name", "semantics", "survey", "scope", "n_passes"),
    [
        ("ties", PAPER, "trims", Scope.MODEL, 1),
        ("ties", MERGEKIT, "trims", Scope.TENSOR, 1),
        ("sce", PAPER, "variances", Scope.TENSOR, 2),
        ("pcb", PAPER, "scores", Scope.MODEL, 2),
        ("ramplus", PAPER, "overlap_counts", Scope.TENSOR, 1),
        ("metagpt", PAPER, "inner_products", Scope.MODEL, 1),
        ("dare_ties", MERGEKIT, "magnitude_sums", Scope.TENSOR, 1),
        ("dare_ties", Semantics.FUSIONBENCH, "drawn_trims", Scope.MODEL, 1),
        ("breadcrumbs", MERGEKIT, "bands", Scope.TENSOR, 1),
    ],
)
def test_surveys_of_methods(
    name: str, semantics: Semantics, survey: str, scope: Scope, n_passes: int
) -> None:
    stated = default_rule(name, semantics).survey
    assert stated is not None and (stated.name, stated.scope) == (survey, scope)
    assert survey_of(stated).n_passes == n_passes


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ram", "emr", "dare_linear"])
def test_methods_without_a_survey(name: str) -> None:
    assert default_rule(name, PAPER).survey is None


def test_stages_name_what_they_need() -> None:
    def name_of(gate: Gate, **others: object) -> str | None:
        survey = staged(gate, Vote.NONE, Blend.SUM, **others).survey  # type: ignore[arg-type]
        return survey and survey.name

    assert name_of(Gate.RANDOM) is None
    assert name_of(Gate.RANDOM, rescale=Rescale.L1) == "magnitude_sums"
    assert name_of(Gate.RANDOM, trim=0.2) == "drawn_trims"
    assert name_of(Gate.RANK, rescale=Rescale.PROBABILITY) is None
    assert name_of(Gate.BAND, scope=Scope.ROW) is None
    assert name_of(Gate.BAND, scope=Scope.ROW, rescale=Rescale.L1) == "magnitude_sums"
    assert name_of(Gate.BAND, scope=Scope.TENSOR, rescale=Rescale.L1) == "bands"


def test_a_survey_has_no_facts_but_its_own() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such"):
        survey_of(SurveyRule("no_such"))
    with pytest.raises(TypeError, match="density"):
        survey_of(SurveyRule("trims", facts={"density": 0.5}))
    with pytest.raises(TypeError, match="density"):
        survey_of(SurveyRule("drawn_trims"))


def trims(scope: Scope) -> Survey:
    survey = trimmed(Vote.SUM, Blend.SUM_OF_AGREEING, scope=scope).survey
    assert survey is not None
    return survey_of(survey)


def test_one_threshold_needs_one_density() -> None:
    varying = [{"density": (0.2, 0.5)}, {"density": (0.2, 0.4)}]
    with pytest.raises(InputError, match=r"^b: density varies over the tensors"):
        trims(Scope.MODEL).check(varying, ["a", "b"])
    trims(Scope.TENSOR).check(varying, ["a", "b"])
    trims(Scope.MODEL).check(varying[:1], ["a", "b"])


@pytest.mark.parametrize(
    ("n", "density", "equal", "semantics", "expected"),
    [
        (10, 0.2, Equal.KEEP, PAPER, Rank(3)),
        (10, 0.2, Equal.FIRST, PAPER, Rank(2)),
        (10, 0.05, Equal.KEEP, PAPER, Rank(1)),
        (10, 0.05, Equal.FIRST, PAPER, NONE),
        (10, 0.05, Equal.FIRST, MERGEKIT, Rank(1)),
        (10, 0.0, Equal.FIRST, MERGEKIT, NONE),
        (10, 1.0, Equal.KEEP, PAPER, ALL),
        (0, 0.5, Equal.KEEP, PAPER, ALL),
        (1, 0.5, Equal.FIRST, MERGEKIT, ALL),
    ],
)
def test_ranks(n: int, density: float, equal: Equal, semantics: Semantics, expected: Rank) -> None:
    assert rank(n, density, equal, semantics) == expected
