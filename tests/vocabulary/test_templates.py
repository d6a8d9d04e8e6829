"""Chat templates by name."""

from __future__ import annotations

import sys

import pytest

from tallies.vocabulary.templates import AUTO, TEMPLATES, checked, chosen


def test_names_and_texts_are_templates() -> None:
    for name in (AUTO, *TEMPLATES, "{{ messages }}", "{% for m in messages %}\n{% endfor %}"):
        assert checked(name) == name
    for name, text in TEMPLATES.items():
        assert chosen(name, ()) == text
        assert checked(text) == text
    assert chosen("{{ messages }}", ["a"]) == "{{ messages }}"


@pytest.mark.parametrize("wrong", [3, "chatlm", "one\ntwo", "x" * 300])
def test_other_values_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"expected|not known"):
        checked(wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% for x in %}", r"'\{% for x in %\}', which is no jinja: line 1: "),
        ("{{ a }}\n{% if b %}", "no jinja: line 2: Unexpected end of template"),
        ("{% bogus %}", "unknown tag 'bogus'"),
        ("{{ " + "(" * 100_000, "no jinja"),
    ],
)
def test_errors_of_syntax_are_refused(text: str, words: str) -> None:
    pytest.importorskip("jinja2", reason="the syntax is checked by jinja2")
    with pytest.raises(ValueError, match=words):
        checked(text)


def test_tags_of_transformers_are_jinja() -> None:
    text = (
        "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content | unknown_filter }}{% endgeneration %}{% endfor %}"
    )
    assert checked(text) == text


def test_syntax_is_not_checked_without_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert checked("{% for x in %}") == "{% for x in %}"


@pytest.mark.parametrize(
    ("of_models", "expected"),
    [
        (["a", "b ", "b"], "b"),
        (["a", "b"], "a"),
        ([None, "", "b", None], "b"),
        ([None, " "], None),
        ([], None),
    ],
)
def test_most_models_decide(of_models: list[str | None], expected: str | None) -> None:
    assert chosen(AUTO, of_models) == expected
