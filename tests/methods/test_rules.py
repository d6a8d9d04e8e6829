"""The rules that methods state, and the completeness of their parameters."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tallies import methods
from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tallies.recipe.parameters import check_parameters
from tallies.spec.choices import Semantics
from tallies.spec.rules import Blend, Gate, Vote, Zero
from tests.support.recipes import request


def test_rules_state_the_methods() -> None:
    def rule(**changes: Any) -> Any:
        return MergeConfig.load(request(**changes)).rule()

    for method, usual, other in (
        ("linear", Blend.MEAN, {"normalize": False}),
        ("task_arithmetic", Blend.SUM, {"normalize": True}),
    ):
        plain = rule(merge_method=method)
        assert (plain.gate, plain.vote, plain.blend) == (Gate.ALL, Vote.NONE, usual)
        assert rule(merge_method=method, parameters=other).blend is not usual

    paper = rule()
    assert (paper.gate, paper.vote) == (Gate.MAGNITUDE, Vote.SUM)
    assert (paper.blend, paper.zero) == (Blend.MEAN_OF_AGREEING, Zero.MAJORITY)
    assert (paper.scope, paper.equal) == ("model", "keep")
    local = rule(parameters={"scope": "tensor", "equal": "first"})
    assert (local.scope, local.equal) == ("tensor", "first")

    mergekit = rule(semantics="mergekit")
    assert (mergekit.blend, mergekit.zero) == (Blend.WEIGHTED_MEAN_OF_AGREEING, Zero.POSITIVE)
    assert (mergekit.scope, mergekit.equal) == ("tensor", "first")
    plain_sum = rule(semantics="mergekit", parameters={"normalize": False})
    assert plain_sum.blend is Blend.SUM_OF_AGREEING


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_complete(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert method.__module__ == f"tallies.methods.{name}", "a method's file has its name"
    assert set(method.semantics) <= set(Semantics)
    assert method.summary().endswith(".")
    assert "=" in method.formula
    for semantics in method.semantics:
        for key, parameter in method.parameters(semantics).items():
            assert parameter.doc
            if parameter.default is not None:
                checked = check_parameters({key: parameter.default}, method, semantics)
                assert checked == {key: parameter.default}


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(InputError, match="'tie' is not known; did you mean 'ties'"):
        methods.get("tie")


def test_parameters_are_checked_without_heavy_imports() -> None:
    code = (
        "import sys, tallies.methods, tallies.recipe.parameters\n"
        "heavy = {'numpy', 'torch', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
