"""Every registered method: its facts, the laws that hold for all, and examples worked by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from tallies import InputError, cpu, merge, methods
from tallies.cli import group
from tallies.methods._matrix import MatrixMethod
from tallies.methods._method import Method
from tallies.spec.choices import Semantics
from tallies.spec.rules import Blend, Rule, Vote
from tallies.store.codecs import registry as codecs
from tests.reference.dtype import Array, Floats
from tests.reference.task_arithmetic import task_vectors
from tests.support.checkpoints import Model, data_bytes, read, write

PAIRS = [(name, one) for name in methods.names() for one in methods.get(name).semantics]
"""Every method in each of its semantics."""

Rows = Sequence[float] | npt.NDArray[Any]


def f32(values: Rows) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def merged(
    root: Path,
    method: str,
    base: Model,
    experts: Sequence[Model],
    own: Sequence[Mapping[str, Any]] = (),
    *,
    semantics: str = "paper",
    threads: int = 2,
    **parameters: Any,
) -> Model:
    """The merge of these models by way of files, with the base where the method can have one.

    A weight is 1, a density 0.2 and others 0.5 if they must be given. Parameters that the method
    does not have are left out.
    """
    known = methods.get(method).parameters(semantics)
    if "weight" in known:
        parameters.setdefault("weight", 1.0)
    for key, parameter in known.items():
        if parameter.default is None:
            parameters.setdefault(key, {"density": 0.2}.get(key, 0.5))
    recipe = {
        "merge_method": method,
        "semantics": semantics,
        "models": [
            {
                "model": str(write(root / f"{i}", expert)),
                "parameters": {name: value for name, value in given.items() if name in known},
            }
            for i, (expert, given) in enumerate(
                zip(experts, own or [{}] * len(experts), strict=True)
            )
        ],
        "parameters": {name: value for name, value in parameters.items() if name in known},
    }
    if methods.get(method).forms_task_vectors(has_base=True):
        recipe["base_model"] = str(write(root / "base", base))
    merge(recipe, root / "out", threads=threads)
    return read(root / "out")


# Facts.


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
    assert set(method.semantics) <= set(tuple(Semantics)) and method.semantics[0] == "paper"


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
    assert by_kind == {"method": methods.names(), "codec": codecs.names()}
    with pytest.raises(InputError, match="'tie' is not known; did you mean 'ties'"):
        methods.get("tie")


def solves(name: str, semantics: str) -> bool:
    survey = default_rule(name, semantics).survey
    return survey is not None and survey.name == "inner_products"


def default_rule(name: str, semantics: str) -> Rule:
    """What the method does with the defaults of all parameters."""
    parameters = methods.get(name).parameters(semantics)
    return methods.get(name).rule({key: one.default for key, one in parameters.items()}, semantics)


def leaves_vectors(name: str, semantics: str) -> bool:
    """Whether the method leaves tensors that are no matrices to the base."""
    others = methods.get(name).parameters(semantics).get("others")
    return others is not None and others.default == "base"


# Laws. The values are multiples of 1/8 small enough that float32 adds them exactly.


def dyadic(seed: int, *, low: int = -16, high: int = 17) -> Model:
    rng = np.random.default_rng(seed)
    shapes = {"a": (40, 33), "b": (7,), "c": (), "d": (3, 0)}
    return {n: np.asarray(f32(rng.integers(low, high, s) / 8)) for n, s in shapes.items()}


def assert_equal(found: Model, expected: Model) -> None:
    """Equal as numbers: +0 and -0 are the same."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name


def assert_agrees(name: str, found: Model, expected: Model) -> None:
    """Equal as numbers; what comes of linear algebra in float64, up to the rounding of a result."""
    if not issubclass(methods.get(name), MatrixMethod):
        assert_equal(found, expected)
        return
    for key, array in expected.items():
        error = np.linalg.norm((found[key] - array).astype(np.float64))
        assert error <= 2.0**-22 * np.linalg.norm(array.astype(np.float64)), key


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        if methods.get(pair[0]).keeps_one_expert and methods.get(pair[0]).least_models == 1
    ],
)
def test_one_expert_untrimmed_and_unscaled_is_the_result(
    tmp_path: Path, name: str, semantics: str
) -> None:
    base, expert = dyadic(0), dyadic(1)
    whole = {"density": 1.0, "trim_density": 1.0, "scale": 1.0, "k": 1}
    found = merged(tmp_path, name, base, [expert], semantics=semantics, **whole)
    assert_agrees(name, found, expert)


@pytest.mark.parametrize(
    ("name", "semantics"),
    [pair for pair in PAIRS if "scale" in methods.get(pair[0]).parameters(pair[1])],
)
def test_a_scale_of_zero_is_the_base(tmp_path: Path, name: str, semantics: str) -> None:
    base = dyadic(0)
    found = merged(tmp_path, name, base, [dyadic(1), dyadic(2)], semantics=semantics, scale=0.0)
    assert_equal(found, base)


@pytest.mark.parametrize(
    ("name", "semantics"),
    [pair for pair in PAIRS if "density" in methods.get(pair[0]).parameters(pair[1])],
)
def test_a_density_of_zero_is_the_base(tmp_path: Path, name: str, semantics: str) -> None:
    base = dyadic(0)
    found = merged(tmp_path, name, base, [dyadic(1), dyadic(2)], semantics=semantics, density=0.0)
    assert_equal(found, base)


ROUNDED = (
    Blend.CLAMPED_MEAN_OF_AGREEING,
    Blend.ALONE_OR_MEAN,
    Blend.SCORE_WEIGHTED_MEAN,
)
"""Blends that round terms before they add them."""


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        if not methods.get(pair[0]).has_order
        and default_rule(*pair).blend not in ROUNDED
        and not solves(*pair)
    ],
)
def test_the_order_of_the_experts_changes_no_exact_sum(
    tmp_path: Path, name: str, semantics: str
) -> None:
    experts = [dyadic(seed) for seed in range(1, 5)]
    own = [{"weight": weight} for weight in (1.0, 0.5, 2.0, -0.25)]
    order = [2, 0, 3, 1]
    one = merged(tmp_path / "one", name, dyadic(0), experts, own, semantics=semantics)
    other = merged(
        tmp_path / "other",
        name,
        dyadic(0),
        [experts[i] for i in order],
        [own[i] for i in order],
        semantics=semantics,
    )
    assert_agrees(name, other, one)


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        if default_rule(*pair).vote is Vote.NONE
        and not (methods.get(pair[0]).has_order or leaves_vectors(*pair))
        and not methods.get(pair[0]).number_objection(8)
        and default_rule(*pair).blend not in ROUNDED
    ],
)
def test_the_order_of_the_experts_changes_an_average_by_rounding_alone(
    tmp_path: Path, name: str, semantics: str
) -> None:
    rng = np.random.default_rng(3)
    base, *experts = ({"w": f32(rng.standard_normal(5000))} for _ in range(9))
    one = merged(tmp_path / "one", name, base, experts, semantics=semantics)["w"]
    other = merged(tmp_path / "other", name, base, experts[::-1], semantics=semantics)["w"]
    rows = np.stack([expert["w"] for expert in experts])
    size = np.abs(rows).sum(axis=0)
    if methods.get(name).forms_task_vectors(has_base=True):
        size = np.abs(task_vectors(base["w"], list(rows))).sum(axis=0) + np.abs(base["w"])
    # Each of the additions, and what is done with their sum, rounds by half a unit at most.
    bound = 2 * (len(experts) + 3) * np.finfo(np.float32).eps / 2 * size
    assert (np.abs(one - other) <= bound).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("name", "semantics"), [pair for pair in PAIRS if default_rule(*pair).blend in ROUNDED]
)
def test_the_order_of_the_experts_changes_a_weighted_mean_by_rounding_alone(
    tmp_path: Path, name: str, semantics: str
) -> None:
    base, *experts = (dyadic(seed) for seed in range(5))
    one = merged(tmp_path / "one", name, base, experts, semantics=semantics)
    other = merged(tmp_path / "other", name, base, experts[::-1], semantics=semantics)
    for key, value in one.items():
        largest = np.abs([expert[key] - base[key] for expert in experts]).max(axis=0)
        # Each term is a product or quotient and an addition, of values and of weights.
        bound = (4 * len(experts) + 4) * np.finfo(np.float32).eps / 2 * largest
        bound = bound + np.finfo(np.float32).eps / 2 * np.abs(value)
        assert (np.abs(value - other[key]) <= bound).all(), key


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_threads_and_instruction_sets_change_no_byte(
    tmp_path: Path, name: str, semantics: str
) -> None:
    rng = np.random.default_rng(4)
    models: list[Model] = [
        {
            "smooth": f32(rng.standard_normal((130, 257))),
            "few": (rng.integers(-4, 5, 40_001) / 8).astype(np.float16),
        }
        for _ in range(1 + (methods.get(name).most_models or 3))
    ]
    before, results = cpu.target(), []
    try:
        for target in cpu.targets():
            cpu.set_target(target)
            for threads in (1, 3):
                root = tmp_path / f"{target}-{threads}"
                merged(root, name, models[0], models[1:], semantics=semantics, threads=threads)
                results.append(data_bytes(root / "out"))
    finally:
        cpu.set_target(before)
    assert len(results) >= 4
    assert results == [results[0]] * len(results)


# Examples that tell apart the variants that go by the name of TIES.


def ties(
    root: Path, *deltas: Rows, semantics: str = "paper", weights: Rows = (), **parameters: Any
) -> Floats:
    """What TIES makes of these task vectors, by way of files and a base of zeros."""
    own = [{"weight": float(weight)} for weight in weights]
    base = {"x": np.zeros(len(deltas[0]), np.float32)}
    experts = [{"x": f32(delta)} for delta in deltas]
    found = merged(root / semantics, "ties", base, experts, own, semantics=semantics, **parameters)
    return found["x"].astype(np.float32)


def test_how_many_of_ten_a_fifth_is(tmp_path: Path) -> None:
    x = f32(np.arange(1, 11) / 10)
    assert np.flatnonzero(ties(tmp_path, x, density=0.2)).tolist() == [7, 8, 9]
    assert np.flatnonzero(ties(tmp_path / "first", x, density=0.2, equal="first")).tolist() == [
        8,
        9,
    ]
    for semantics, kept in (("mergekit", [8, 9]), ("peft", [8, 9]), ("fusionbench", [7, 8, 9])):
        found = ties(tmp_path, x, density=0.2, semantics=semantics)
        assert np.flatnonzero(found).tolist() == kept


def test_equal_magnitudes_at_the_threshold(tmp_path: Path) -> None:
    x = [1, -2, 1, 2, -1, 2, 1, -2, 2, 1]
    assert np.flatnonzero(ties(tmp_path, x, density=0.3)).tolist() == [1, 3, 5, 7, 8]
    variants: list[tuple[str, dict[str, Any]]] = [("paper", {"equal": "first"}), ("mergekit", {})]
    variants.append(("peft", {}))
    for semantics, options in variants:
        found = ties(tmp_path / "first", x, density=0.3, semantics=semantics, **options)
        assert np.flatnonzero(found).tolist() == [1, 3, 5]


def test_a_density_of_less_than_one_entry(tmp_path: Path) -> None:
    x = [1, 3, -2]
    for semantics, kept in (("paper", [1]), ("mergekit", [1]), ("peft", []), ("fusionbench", [1])):
        found = ties(tmp_path, x, density=0.1, semantics=semantics)
        assert np.flatnonzero(found).tolist() == kept


@pytest.mark.parametrize("semantics", methods.get("ties").semantics)
def test_a_density_of_one_is_everything_not_a_percent(tmp_path: Path, semantics: str) -> None:
    x = f32(np.arange(-50, 51))
    assert np.array_equal(ties(tmp_path, x, density=1, semantics=semantics, scale=1), x)


def test_a_cancelled_vote_takes_the_majority(tmp_path: Path) -> None:
    one, other = [1, -1, -2, -3], [-1, -1, -2, -3]
    assert ties(tmp_path, one, other, density=1).tolist() == [-1, -1, -2, -3]
    for semantics in ("mergekit", "peft"):
        found = ties(tmp_path, one, other, density=1, semantics=semantics)
        assert found.tolist() == [1, -1, -2, -3]
    found = ties(tmp_path, one, other, density=1, semantics="fusionbench", scale=1)
    assert found.tolist() == [-1, -2, -4, -6]


def test_a_cancelled_vote_without_a_majority(tmp_path: Path) -> None:
    assert ties(tmp_path, [1], [-1], density=1).tolist() == [-1]
    for semantics, value in (("mergekit", 1), ("peft", 1), ("fusionbench", -1)):
        found = ties(tmp_path, [1], [-1], density=1, semantics=semantics, scale=1)
        assert found.tolist() == [value]
    # EMR elects the negative sign, whatever other elements elect.
    experts = [{"x": f32([1, 3])}, {"x": f32([-1, 2])}]
    unified = merged(tmp_path / "emr", "emr", {"x": f32([0, 0])}, experts)
    assert unified["x"].tolist() == [-1, 3]


def test_weights_count_in_the_mean(tmp_path: Path) -> None:
    rows = [1.0], [3.0]
    assert ties(tmp_path / "none", *rows, density=1).tolist() == [2]
    assert ties(tmp_path, *rows, weights=[1, 3], density=1).tolist() == [5]
    sums = ties(tmp_path / "sum", *rows, weights=[1, 1], density=1, normalize=False)
    assert sums.tolist() == [4]
    found = ties(tmp_path, *rows, weights=[1, 3], density=1, semantics="mergekit")
    assert found.tolist() == [2.5]
    assert ties(tmp_path, *rows, weights=[1, 3], density=1, semantics="peft").tolist() == [5]
    assert ties(tmp_path, *rows, density=1, semantics="fusionbench", scale=1).tolist() == [4]


def test_weights_count_in_the_election(tmp_path: Path) -> None:
    rows = [2.0], [-1.5]
    assert ties(tmp_path, *rows, weights=[1, 2], density=1).tolist() == [-3]
    for semantics, value in (("mergekit", -1.5), ("peft", 2)):
        found = ties(tmp_path, *rows, weights=[1, 2], density=1, semantics=semantics)
        assert found.tolist() == [value]


def test_the_scope_of_the_trim(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large: Array = f32(1 + rng.permutation(100) / 100) * rng.choice(f32([-1, 1]), 100)
    small: Array = f32(rng.permutation(100) / 101)
    zeros = {"a": np.zeros(100, np.float32), "b": np.zeros(100, np.float32)}
    expert = {"a": large, "b": small}

    def kept(root: str, **options: Any) -> list[int]:
        found = merged(tmp_path / root, "ties", zeros, [expert], density=0.5, **options)
        return [int(np.count_nonzero(found[name])) for name in ("a", "b")]

    assert kept("model") == [100, 1]
    assert kept("tensor", scope="tensor") == [51, 51]
    assert kept("mergekit", semantics="mergekit") == [50, 50]
    assert kept("peft", semantics="peft") == [50, 50]
    assert kept("fusionbench", semantics="fusionbench") == [100, 1]


def test_what_one_expert_alone_changed_is_not_averaged(tmp_path: Path) -> None:
    base = {"x": f32([0, 0, 0, 0])}
    experts = [{"x": f32([4, 4, 1, 0])}, {"x": f32([0, 2, 1, 8])}, {"x": f32([0, 3, 4, 0])}]
    assert merged(tmp_path / "ram", "ram", base, experts)["x"].tolist() == [4, 3, 2, 8]
    found = merged(tmp_path / "epsilon", "ram", base, experts, epsilon=1)["x"]
    assert found.tolist() == [4, 3, 4, 8]
    # The first and second share two entries and have one alone: 1 + r min(2, alpha).
    found = merged(tmp_path / "plus", "ramplus", base, experts, r=0.5, alpha=1)["x"]
    assert found.tolist() == [6, 3, 2, 12]


def test_scope_of_the_counts_of_ramplus(tmp_path: Path) -> None:
    base = {"a": f32([0, 0]), "b": f32([0, 0, 0])}
    experts = [{"a": f32([1, 1]), "b": f32([1, 1, 1])}, {"a": f32([1, 0]), "b": f32([0, 0, 0])}]
    options: dict[str, Any] = {"r": 1, "alpha": 10}
    found = merged(tmp_path / "tensor", "ramplus", base, experts, scope="tensor", **options)
    assert found["a"].tolist() == [1, 2] and found["b"].tolist() == [1, 1, 1]
    found = merged(tmp_path / "model", "ramplus", base, experts, scope="model", **options)
    assert found["a"].tolist() == [1, 1.25] and found["b"].tolist() == [1.25] * 3


def test_small_changes_weigh_equally_in_mergekits_sce(tmp_path: Path) -> None:
    base = {"x": np.zeros(100, np.float32)}
    experts = [{"x": f32([1e-4] * 100)}, {"x": f32([5e-4] * 100)}]
    found = merged(tmp_path / "paper", "sce", base, experts)["x"]
    assert found == pytest.approx(f32([(1e-4 + 25 * 5e-4) / 26] * 100), rel=1e-6)
    found = merged(tmp_path / "mergekit", "sce", base, experts, semantics="mergekit")["x"]
    assert found == pytest.approx(f32([3e-4] * 100), rel=1e-6)


def test_sce_selects_where_experts_differ(tmp_path: Path) -> None:
    base = {"x": f32([0, 0, 0, 0, 0])}
    # Variances 0, 4, 1, 4, 0 of five; of three that are not zero two stay, the first of equals.
    experts = [{"x": f32([9, 5, 4, 1, 0])}, {"x": f32([9, 1, 2, -3, 0])}]
    found = merged(tmp_path, "sce", base, experts, select_topk=0.67, fallback=True)["x"]
    assert np.flatnonzero(found).tolist() == [1, 3]
    found = merged(tmp_path / "one", "sce", base, experts, select_topk=0.4, fallback=True)["x"]
    assert np.flatnonzero(found).tolist() == [1]


def test_the_two_programs_of_pcb(tmp_path: Path) -> None:
    base = {"x": np.zeros(10, np.float32)}
    experts = [
        {"x": f32([0.01, -0.02, 0.03, 0.10, -0.20, 0.05, 0.00, 0.30, -0.04, 0.07])},
        {"x": f32([0.02, 0.03, -0.01, 0.12, 0.15, -0.05, 0.06, 0.25, -0.08, 0.01])},
    ]
    found = merged(tmp_path / "global", "pcb", base, experts, ratio=0.3)["x"]
    assert found == pytest.approx(f32([0, 0, 0, 0.12, -0.2, 0, 0, 0.175, 0, 0]), abs=1e-6)
    found = merged(tmp_path / "vision", "pcb", base, experts, ratio=0.3, variant="vision")["x"]
    assert found == pytest.approx(f32([0, 0, 0, 0.11482, 0, 0, 0, 0.175, 0, 0]), abs=5e-6)


def test_pcb_of_magnitudes_that_are_all_equal(tmp_path: Path) -> None:
    base = {"x": np.zeros(4, np.float32)}
    experts = [{"x": f32([1, 1, -1, 1])}, {"x": f32([1, -1, -1, 1])}]
    # Of equal size, so that agreement alone decides; the least score of each counts for nothing.
    found = merged(tmp_path, "pcb", base, experts, ratio=1)["x"]
    assert found.tolist() == [1, 0, -1, 1]
    assert merged(tmp_path / "one", "pcb", base, experts[:1], ratio=1)["x"].tolist() == [0] * 4
