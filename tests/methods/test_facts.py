"""The facts of every method, and where the command line prints them."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from tallies import InputError, methods
from tallies.cli import group
from tallies.methods._method import Method
from tallies.spec.choices import Semantics
from tallies.store.codecs import registry as codecs
from tests.support.methods import PAIRS


@pytest.mark.parametrize("name", methods.names())
def test_a_method_says_what_it_is(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert method.summary().endswith(".") and "\n" not in method.summary()
    assert method.formula.startswith("out = ")
    source = re.search(r"(?:arXiv |doi |https://)(\S+)$", method.paper)
    assert source is not None
    # The docstring is what 'tallies methods NAME' prints.
    text = method.__doc__ or ""
    for subject in ("NaN", "zero", source[1]):
        assert subject in text
    assert set(method.semantics) <= set(Semantics) and method.semantics[0] == "paper"


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_every_parameter_is_documented_and_checked(name: str, semantics: str) -> None:
    for key, parameter in methods.get(name).parameters(semantics).items():
        assert parameter.doc, key
        if parameter.choices is not None:
            assert parameter.default in parameter.choices, key
        elif isinstance(parameter.default, float):
            for bound, sign in ((parameter.low, 1), (parameter.high, -1)):
                assert bound is None or sign * parameter.default >= sign * bound, key
        assert not {key, *parameter.aliases} & (
            {*methods.get(name).parameters(semantics)} - {key}
        ), key


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(group, ["methods", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", methods.names())
def test_the_command_line_prints_the_facts(name: str) -> None:
    method = methods.get(name)
    page, entry = printed(name), printed()
    facts, *codec = json.loads(printed(name, "--json"))
    assert facts["kind"] == "method" and all(one["kind"] == "codec" for one in codec)
    for line in (method.__doc__ or "").splitlines():
        assert line.strip() in page
    for text in (method.summary(), method.formula, method.paper):
        assert text in entry
    assert (facts["name"], facts["formula"]) == (name, method.formula)
    assert (facts["summary"], facts["paper"]) == (method.summary(), method.paper)
    assert facts["semantics"] == list(method.semantics)
    assert f"\nModels: {method.number_of_models()}, " in page
    for semantics in method.semantics:
        for key, parameter in method.parameters(semantics).items():
            assert f"  {key}: {parameter.doc} (" in page
            assert f"{key}=" in entry
            said = facts["parameters"][key]
            assert semantics in said["semantics"]
            assert said["default_by_semantics"].get(semantics, said["default"]) == parameter.default
            assert tuple(said["choices"] or ()) == (parameter.choices or ())
            for alias in parameter.aliases:
                assert f"also called {alias}" in page


@pytest.mark.parametrize(
    ("least", "most", "words"), [(1, None, "at least 1"), (2, 2, "exactly 2"), (2, 5, "2 to 5")]
)
def test_how_many_models_a_method_merges(least: int, most: int | None, words: str) -> None:
    class Some(Method):
        name = "some"
        least_models, most_models = least, most

    assert Some.number_of_models() == words
    assert Some.number_objection(least) is None
    assert Some.number_objection(least - 1) == f"found {least - 1}, and some merges {words}"
    assert (Some.number_objection(6) is None) == (most is None)


@pytest.mark.parametrize("name", methods.names())
def test_markdown_has_the_facts_in_a_table(name: str) -> None:
    method = methods.get(name)
    # After it may come a codec of that name.
    text = "\n## ".join(printed(name, "--markdown").split("\n## ")[:2])
    assert f"## {name}\n" in text and f"```text\n{method.formula}\n```" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 for row in rows)
    keys = {key for one in method.semantics for key in method.parameters(one)}
    assert {row[0].strip("| `") for row in rows} == keys


def test_all_methods_are_listed() -> None:
    said = json.loads(printed("--json"))
    by_kind = {
        kind: [facts["name"] for facts in said if facts["kind"] == kind]
        for kind in ("method", "codec")
    }
    of_all = [*methods.names(), *methods.of_adapters()]
    assert by_kind == {"method": of_all, "codec": codecs.names()}
    with pytest.raises(InputError, match="'tie' is not known; did you mean 'ties'"):
        methods.get("tie")
