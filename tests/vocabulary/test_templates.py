"""Chat templates by name."""

from __future__ import annotations

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
