"""The renaming that brings one model's names to another's, and its application."""

from __future__ import annotations

import pytest

from tallies import InputError
from tallies.checkpoint.prefixes import find_renaming
from tallies.checkpoint.rename import renamed

LLAMA = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "model.norm.weight",
]


def shapes(names: list[str]) -> dict[str, tuple[int, ...]]:
    return {name: (len(name) % 3 + 1, 2) if "proj" in name else (2,) for name in names}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"": "module."}, {"module.": ""}),
        ({"": "_orig_mod."}, {"_orig_mod.": ""}),
        ({"": "base_model.model."}, {"base_model.model.": ""}),
        ({"model.": "model.language_model."}, {"model.language_model.": "model."}),
        ({"model.": "transformer.h."}, {"transformer.h.": "model."}),
        (
            {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
            {"language_model.": ""},
        ),
    ],
    ids=lambda rules: next(iter(rules.values())) or "none",
)
def test_the_renaming_of_prefixes_is_found_and_undoes_them(
    rules: dict[str, str], expected: dict[str, str]
) -> None:
    names = {name: 0 for name in LLAMA}
    other = renamed("other", names, rules)
    ours, theirs = ({n: (2, 2) for n in one} for one in (names, other))
    found = find_renaming(theirs, ours)
    assert found is not None and found.rules == expected
    assert (found.missing, found.extra) == ((), ())
    assert sorted(renamed("other", other, found.rules)) == sorted(LLAMA)


def test_names_without_any_prefix_are_told_apart_by_what_follows() -> None:
    bare = [name.removeprefix("model.") for name in LLAMA]
    found = find_renaming({n: (2, 2) for n in bare}, {n: (2, 2) for n in LLAMA})
    assert found is not None
    assert found.rules == {
        "embed_tokens.": "model.embed_tokens.",
        "layers.": "model.layers.",
        "norm.": "model.norm.",
    }
    assert sorted(renamed("", dict.fromkeys(bare), found.rules)) == sorted(LLAMA)


def test_components_of_wrappers_inside_of_names_are_found() -> None:
    compiled = {name.replace("layers.0", "layers.0._orig_mod"): 0 for name in LLAMA}
    compiled = {name.replace("layers.1", "layers.1._orig_mod"): 0 for name in compiled}
    found = find_renaming({n: (2, 2) for n in compiled}, {n: (2, 2) for n in LLAMA})
    assert found is not None and found.rules == {"*._orig_mod.": ""}
    assert sorted(renamed("m", compiled, found.rules)) == sorted(LLAMA)


def test_what_differs_beside_the_prefix_is_told() -> None:
    wrapped = {f"module.{name}": (2, 2) for name in LLAMA} | {"module.value.weight": (1, 2)}
    found = find_renaming(wrapped, {n: (2, 2) for n in LLAMA} | {"score.weight": (3, 2)})
    assert found is not None and found.rules == {"module.": ""}
    assert (found.missing, found.extra) == (("score.weight",), ("value.weight",))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"a": (1,)}, {"a": (1,)}),
        ({"a.weight": (1,)}, {}),
        ({"conv.weight": (3,), "x": (1,)}, {"linear.weight": (4,), "x": (1,)}),
    ],
    ids=["equal", "nothing", "another shape"],
)
def test_other_differences_are_no_renaming(
    ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]]
) -> None:
    assert find_renaming(ours, theirs) is None


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        ("model.norm.weight", {"model": "m"}, "m.norm.weight"),
        ("model.norm.weight", {"model.": "m."}, "m.norm.weight"),
        ("models.norm.weight", {"model": "m", "models": "ms"}, "ms.norm.weight"),
        ("a.b.c", {"a": "x", "a.b.": "y.", "": "z."}, "y.c"),
        ("a.b.c", {"": "z", "b": "w"}, "z.a.b.c"),
        ("a.b.c", {"a.b.c": "d"}, "d"),
        ("a.w.b.w.c", {"*.w": ""}, "a.b.c"),
        ("w.a.w", {"*.w.": ""}, "a"),
        ("a.w.c", {"*.w": "v.", "a.v": "x"}, "x.c"),
        ("1_Dense/linear.weight", {"1_Dense/": "2_Dense/"}, "2_Dense/linear.weight"),
        ("1_Dense/linear.weight", {"1_Dense": ""}, "linear.weight"),
        ("linear.weight", {"": "2_Dense/"}, "2_Dense/linear.weight"),
    ],
)
def test_the_longest_prefix_of_whole_components_counts(
    name: str, rules: dict[str, str], expected: str
) -> None:
    plain = [old for old in rules if old not in ("", name) and "*" not in old and "v" not in old]
    others = {f"{old.rstrip('./')}.other": 0 for old in plain}
    assert expected in renamed("m", {name: 1, **others}, rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"a.": "b."}, "m: rename makes one name, 'b.w', of 'a.w' and 'b.w'"),
        ({"bb": "c"}, "m: rename: no tensor's name begins with 'bb'; expected .* such as 'a', 'b'"),
        ({"a": "c", "a.": "d"}, "m: rename: found one prefix twice"),
        ({"*.x": ""}, r"m: rename: no tensor's name begins with '\*\.x'"),
        ({"a.w": ""}, "m: rename leaves nothing of 'a.w'"),
    ],
)
def test_renamings_that_are_refused(rules: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        renamed("m", {"a.w": 0, "b.w": 1}, rules)


def test_a_misspelt_prefix_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"did you mean 'transformer\.h'"):
        renamed("m", {"transformer.h.0.w": 0}, {"tranformer.h.": ""})
