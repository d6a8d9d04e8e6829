"""Tensors that are not merged, and models that are one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies import InputError, merge, plan
from tests.reference.linear import linear
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support import checkpoints
from tests.support.checkpoints import Model, assert_holds, read, write
from tests.support.merges import (
    BF16,
    assert_fingerprints,
    assert_reports_ties,
    dyadic,
    f32,
    parameters,
    request,
)

# Tensors that are not merged.


INTS = {
    "ids": np.arange(7),
    "mask": np.array([True, False]),
    "bytes": np.arange(3, dtype=np.uint8).reshape(3, 1),
    "empty": np.zeros((2, 0), np.int32),
}


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_integers_and_booleans_are_copied(tmp_path: Path, method: str) -> None:
    base = write(tmp_path / "base", {"w": f32(1, 2), **INTS})
    expert = write(tmp_path / "expert", {"w": f32(2, 4), **INTS}, n_files=3)
    report = merge(
        request(method, [expert], base=base, parameters={"weight": 1.0}), tmp_path / "out"
    )
    found = read(tmp_path / "out")
    checkpoints.assert_same_tensors({name: found[name] for name in INTS}, INTS)
    assert (report.tensors_copied, report.tensors_merged, report.tensors_skipped) == (4, 1, 0)
    assert report.parameters == 2
    assert_fingerprints(report, base if method != "linear" else None, [expert])


@pytest.mark.parametrize("name", ["ids", "mask", "bytes"])
def test_integers_that_differ_are_refused_or_the_bases(tmp_path: Path, name: str) -> None:
    changed = {**INTS, name: INTS[name][::-1]}
    base = write(tmp_path / "base", {"w": f32(1, 2), **INTS})
    expert = write(tmp_path / "expert", {"w": f32(2, 4), **changed})
    recipe = request("task_arithmetic", [expert], base=base)
    with pytest.raises(InputError) as refusal:
        merge(recipe, tmp_path / "out")
    for part in (str(expert), repr(name), str(base), "--param integers=base"):
        assert part in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "expert"]
    report = merge({**recipe, "parameters": {"integers": "base"}}, tmp_path / "out")
    assert_holds(tmp_path / "out", {"w": f32(2, 4), **INTS})
    assert_fingerprints(report, base, [expert])


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

TIED = {"tie_word_embeddings": True}


def tied_model(seed: int) -> Model:
    rng = np.random.default_rng(seed)
    embedding = dyadic(rng, 6, 4)
    return {EMBEDDING: embedding, HEAD: embedding, "norm": dyadic(rng, 4)}


def without(model: Model, name: str) -> Model:
    return {key: array for key, array in model.items() if key != name}


@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_tied_tensors_are_both_written_and_counted_once(
    tmp_path: Path, method: str, n_files: int
) -> None:
    models = [tied_model(seed) for seed in range(3)]
    paths = [
        write(tmp_path / str(i), model, n_files=n_files, config=TIED)
        for i, model in enumerate(models)
    ]
    # One expert stores the embedding alone.
    paths.append(write(tmp_path / "alone", without(models[2], HEAD), config=TIED))
    base = paths[0] if method != "linear" else None
    made = request(method, paths[1:] if base else paths, base=base)
    report = merge(made, tmp_path / "out", max_shard_size=1 if n_files > 1 else "5GB")
    once = [without(model, HEAD) for model in [*models, models[2]]]
    expected = {}
    for name in once[0]:
        rows = [model[name] for model in once]
        if method == "linear":
            expected[name] = linear(rows)
        elif method == "task_arithmetic":
            expected[name] = task_arithmetic(rows[0], rows[1:])
    if method == "ties":
        expected = ties_model(once[0], once[1:], 0.2)
        assert_reports_ties(report, once[0], once[1:], [0.2] * 3)
    assert_holds(tmp_path / "out", {**expected, HEAD: expected[EMBEDDING]})
    assert (report.tensors_merged, report.tensors_tied, report.parameters) == (2, 1, 28)
    assert plan(made).to_json_dict()["tensors"][HEAD]["action"] == "tie"
    assert_fingerprints(report, base, paths[1:] if base else paths)


def test_tied_tensors_that_differ_are_refused(tmp_path: Path) -> None:
    base = write(tmp_path / "base", tied_model(0), config=TIED)
    wrong = {**tied_model(1), HEAD: tied_model(1)[HEAD] + 1}
    expert = write(tmp_path / "expert", wrong, config=TIED)
    with pytest.raises(InputError) as refusal:
        merge(request("ties", [expert], base=base), tmp_path / "out")
    for part in (str(expert), repr(EMBEDDING), repr(HEAD), "tie_word_embeddings"):
        assert part in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_an_expert_that_unties_the_head_has_it_merged_apart(tmp_path: Path) -> None:
    models = [tied_model(0), tied_model(1), {**tied_model(2), HEAD: tied_model(3)[HEAD]}]
    base = write(tmp_path / "base", models[0], config=TIED)
    experts = [
        write(tmp_path / "alone", without(models[1], HEAD), config=TIED),
        write(tmp_path / "untied", models[2]),
    ]
    report = merge(request("ties", experts, base=base), tmp_path / "out")
    assert_holds(tmp_path / "out", ties_model(models[0], models[1:], 0.2))
    assert report.tensors_tied == 0
    assert_fingerprints(report, base, experts)


def test_a_head_that_the_base_lacks_is_left_out_where_it_is_tied(tmp_path: Path) -> None:
    base, expert = without(tied_model(0), HEAD), tied_model(1)
    paths = write(tmp_path / "base", base, config=TIED), write(tmp_path / "e", expert, config=TIED)
    report = merge(request("task_arithmetic", paths[1:], base=paths[0]), tmp_path / "out")
    assert_holds(tmp_path / "out", without(expert, HEAD))
    assert_fingerprints(report, paths[0], paths[1:])
    untied = write(tmp_path / "untied", expert)
    with pytest.raises(InputError, match=f"has tensor '{HEAD}', which .* lacks"):
        plan(request("task_arithmetic", [untied], base=paths[0]))


# Bases and experts that are one another.


def test_linear_needs_no_base_and_may_average_it(tmp_path: Path) -> None:
    models = [{"w": f32(1, 2, -7)}, {"w": f32(2, 4, 0.5)}]
    one, other = (write(tmp_path / str(i), model) for i, model in enumerate(models))
    expected = {"w": linear([model["w"] for model in models], [3.0, 0.5])}
    own = parameters(weight=[3.0, 0.5])
    report = merge(request("linear", [one, other], own), tmp_path / "out")
    assert_holds(tmp_path / "out", expected)
    assert report.base is None and report.warnings == []
    report = merge(request("linear", [one, other], own, base=one), tmp_path / "with-base")
    assert_holds(tmp_path / "with-base", expected)
    assert report.warnings == []
    report = merge(request("linear", [other], base=one), tmp_path / "apart")
    assert_holds(tmp_path / "apart", models[1])
    assert report.warnings == [f"base_model {str(one)!r} takes no part in linear"]


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_the_base_among_the_models_is_left_out_with_a_warning(tmp_path: Path, method: str) -> None:
    base, expert = (
        write(tmp_path / "base", {"w": f32(1, 2)}),
        write(tmp_path / "e", {"w": f32(3, 5)}),
    )
    report = merge(
        request(method, [base, expert], base=base, parameters={"normalize": True}), tmp_path / "out"
    )
    assert [one.path for one in report.experts] == [str(expert)]
    assert report.warnings == [f"model {str(base)!r} is the base_model and adds nothing: left out"]
    assert report.to_json_dict()["recipe"]["models"][0]["model"] == "../base"


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_experts_equal_to_the_base_are_told_and_give_it_back(tmp_path: Path, method: str) -> None:
    model = {"a": f32(1, -0.0, 1e-45), "b": np.array(-0.0, BF16), "ids": np.arange(3)}
    base, *copies = (write(tmp_path / str(i), model) for i in range(3))
    report = merge(request(method, copies, base=base), tmp_path / "out")
    assert report.base is not None
    found = read(tmp_path / "out")
    assert all(np.array_equal(found[name], array) for name, array in model.items())
    for copy, said, expert in zip(copies, report.warnings, report.experts, strict=False):
        assert said.startswith(f"model {str(copy)!r}: all merged tensors equal the base's")
        assert (expert.n_equal_to_base, expert.fingerprint) == (2, report.base.fingerprint)


def test_a_result_equal_to_the_base_is_told(tmp_path: Path) -> None:
    base, expert = write(tmp_path / "b", {"w": f32(1, 2)}), write(tmp_path / "e", {"w": f32(3, 5)})
    recipe = request("task_arithmetic", [expert], base=base, parameters={"scale": 0.0})
    report = merge(recipe, tmp_path / "out")
    assert report.warnings == ["the result equals the base bit for bit"]
    assert report.base is not None
    assert report.output.fingerprint == report.base.fingerprint
    assert report.experts[0].n_equal_to_base == 0
