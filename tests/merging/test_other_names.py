"""Models of one architecture whose names, buffers and tensors differ by the library's version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, merge_state_dicts, plan
from tests.reference.linear import linear
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.command import tallies
from tests.support.merges import assert_fingerprints, dyadic, request
from tests.support.refusals import assert_names

MASK = np.tril(np.ones((1, 1, 4, 4), np.uint8))
CONSTANTS: Model = {
    "h.0.attn.bias": MASK,
    "h.0.attn.masked_bias": np.array(-1e4, np.float32),
    "h.0.rotary_emb.inv_freq": np.linspace(1, 0.1, 4, dtype=np.float32),
}
IDS: Model = {"embeddings.position_ids": np.arange(8)[None], "bn.num_batches_tracked": np.array(7)}


def model(seed: int) -> Model:
    rng = np.random.default_rng(seed)
    return {"h.0.attn.weight": dyadic(rng, 4, 4), "h.1.ln.bias": dyadic(rng, 4)}


# Names.


def test_a_renamed_model_merges_as_under_the_names_of_the_base(tmp_path: Path) -> None:
    models = [model(seed) for seed in range(3)]
    base, expert = (write(tmp_path / str(i), models[i]) for i in range(2))
    wrapped = write(tmp_path / "w", {f"module.{name}": a for name, a in models[2].items()})
    recipe = request("ties", [expert, wrapped], base=base)
    with pytest.raises(InputError) as refusal:
        plan(recipe)
    assert_names(
        str(refusal.value),
        f"{wrapped}: names differ from those of {base} by a prefix",
        """rename: {"module.": ""}""",
        f"--rename '{wrapped}=module.:'",
    )
    recipe["models"][1]["rename"] = {"module.": ""}
    report = merge(recipe, tmp_path / "out")
    assert_holds(tmp_path / "out", ties_model(models[0], models[1:], 0.2))
    again = merge(tmp_path / "out" / "tallies.json", tmp_path / "again")
    assert again.output.fingerprint == report.output.fingerprint
    options = ["--method", "ties", "--base", base, "--model", expert, "--model", wrapped]
    rename = f"{wrapped}=module.:"
    assert tallies("merge", *options, "--rename", rename, "--out", tmp_path / "o").status == 0
    assert_holds(tmp_path / "o", ties_model(models[0], models[1:], 0.2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w", "--rename 'w': expected MODEL=OLD:NEW"),
        ("x=module.:", "--rename 'x' is not known"),
        ("w=modul.:", "no tensor's name begins with 'modul.'; did you mean 'module'"),
    ],
)
def test_options_of_renaming_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("w"), {f"module.{name}": array for name, array in model(1).items()})
    line = tallies("merge", "--method", "linear", "--model", "w", "--rename", text, "--out", "o")
    assert line.status == 2
    assert_names(line.err, message)


def test_wrapped_names_in_memory_are_told_with_the_expression_that_renames() -> None:
    base, expert = model(0), {f"module.{name}": array for name, array in model(1).items()}
    with pytest.raises(InputError, match=r"rename its keys: {k\.removeprefix\('module\.'\): v for"):
        merge_state_dicts(base, [expert])


# Buffers.


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
@pytest.mark.parametrize("who", ["base", "expert"])
def test_buffers_of_one_of_the_models_are_the_bases(tmp_path: Path, method: str, who: str) -> None:
    buffers = {**CONSTANTS, **IDS}
    models = [model(0) | buffers, model(1)] if who == "base" else [model(0), model(1) | buffers]
    paths = [write(tmp_path / str(i), one) for i, one in enumerate(models)]
    if method == "linear":
        recipe = request(method, paths)
        expected = {n: linear([m[n] for m in models]) for n in model(0)}
    else:
        recipe = request(method, paths[1:], base=paths[0])
        expected = {n: task_arithmetic(models[0][n], [models[1][n]]) for n in model(0)}
        if method == "ties":
            expected = ties_model(
                {n: models[0][n] for n in model(0)}, [{n: models[1][n] for n in model(0)}], 0.2
            )
            if who == "base":  # zeros of buffers are among the entries that are ranked
                whole = {n: a for n, a in models[0].items() if a.dtype.kind == "f"}
                expected = ties_model(whole, [{**whole, **models[1]}], 0.2)
    report = merge(recipe, tmp_path / "out")
    assert_holds(tmp_path / "out", {**expected, **(buffers if who == "base" else {})})
    assert report.buffers == sorted(buffers)
    assert plan(recipe).to_json_dict()["buffers"] == sorted(buffers)
    bases = None if method == "linear" else paths[0]
    assert_fingerprints(report, bases, paths[1:] if bases else paths)
    dicts = merge_state_dicts(
        None if method == "linear" else models[0],
        models if method == "linear" else models[1:],
        method=method,
    )
    assert sorted(dicts) == sorted({**expected, **(buffers if who == "base" else {})})
    assert all(np.array_equal(dicts[name], array) for name, array in expected.items())


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_constants_that_differ_are_the_bases(tmp_path: Path, method: str) -> None:
    other = {
        "h.0.attn.bias": np.tril(np.ones((1, 1, 2, 2), np.bool_)),
        "h.0.attn.masked_bias": np.array(-5e4, np.float16),
        "h.0.rotary_emb.inv_freq": CONSTANTS["h.0.rotary_emb.inv_freq"].astype(np.float16),
    }
    base = write(tmp_path / "base", model(0) | CONSTANTS)
    expert = write(tmp_path / "expert", model(1) | other)
    if method == "linear":
        merge(request(method, [base, expert]), tmp_path / "out")
        expected = {n: linear([model(0)[n], model(1)[n]]) for n in model(0)}
    else:
        merge(request(method, [expert], base=base), tmp_path / "out")
        expected = model(1)
    assert_holds(tmp_path / "out", {**expected, **CONSTANTS})


def test_counters_are_the_bases_and_need_a_base(tmp_path: Path) -> None:
    name = "bn.num_batches_tracked"
    one = write(tmp_path / "one", model(0) | {name: np.array(3)})
    two = write(tmp_path / "two", model(1) | {name: np.array(9)})
    merge(request("task_arithmetic", [two], base=one), tmp_path / "out")
    assert_holds(tmp_path / "out", model(1) | {name: np.array(3)})
    with pytest.raises(InputError, match=f"'{name}' is I64 and differs .* integers=base"):
        merge(request("linear", [one, two]), tmp_path / "linear")


def test_a_learned_bias_of_attention_is_merged() -> None:
    bias = {"h.0.attn.bias": np.float32([1, 2, 3, 4])}
    merged = merge_state_dicts(bias, [{"h.0.attn.bias": np.float32([3, 2, 1, 0])}], density=1.0)
    assert merged["h.0.attn.bias"].tolist() == [3, 2, 1, 0]


# Tensors that not all models have.


def test_missing_and_extra_tensors_are_refused_with_the_keys_that_allow_them(
    tmp_path: Path,
) -> None:
    base = write(tmp_path / "base", model(0) | {"score.weight": np.ones((2, 4), np.float32)})
    expert = write(tmp_path / "e", model(1) | {"value.weight": np.ones((1, 4), np.float32)})
    recipe = request("task_arithmetic", [expert], base=base)
    with pytest.raises(InputError, match=r"lacks tensor 'score.weight'.*missing: base"):
        plan(recipe)
    with pytest.raises(InputError, match=r"has tensor 'value.weight'.*extra: drop"):
        plan({**recipe, "missing": "base"})
    rules = {"missing": [{"filter": "score", "value": "base"}], "extra": "drop"}
    report = merge({**recipe, **rules}, tmp_path / "out")
    assert_holds(tmp_path / "out", model(1) | {"score.weight": np.ones((2, 4), np.float32)})
    (told,) = report.experts
    assert (told.missing, told.dropped) == (["score.weight"], ["value.weight"])
    assert_fingerprints_lack(report.experts[0].fingerprint, expert)
    options = ["--method", "task_arithmetic", "--base", base, "--model", expert]
    rules_typed = ["--missing", "score=base", "--extra", "drop"]
    assert tallies("merge", *options, *rules_typed, "--out", tmp_path / "o").status == 0
    assert_holds(tmp_path / "o", model(1) | {"score.weight": np.ones((2, 4), np.float32)})


def assert_fingerprints_lack(fingerprint: str, path: Path) -> None:
    """The fingerprint is that of the tensors that were read, and not of the one left out."""
    from tallies.inspection.checkpoints import inspect

    assert fingerprint != inspect(path)["fingerprint"]


def test_a_head_of_other_classes_is_the_bases_on_request(tmp_path: Path) -> None:
    heads = [np.full((n, 4), n, np.float32) for n in (2, 3)]
    base = write(tmp_path / "base", model(0) | {"classifier.weight": heads[0]})
    expert = write(tmp_path / "e", model(1) | {"classifier.weight": heads[1]})
    recipe = request("task_arithmetic", [expert], base=base)
    with pytest.raises(InputError) as refusal:
        plan(recipe)
    assert_names(str(refusal.value), "heads of 3 and 2 classes", "--missing classifier.weight=base")
    assert "vocabular" not in str(refusal.value)
    with pytest.raises(InputError, match="has shape"):
        plan({**recipe, "missing": "base"})
    merge({**recipe, "missing": "base", "extra": "drop"}, tmp_path / "out")
    assert_holds(tmp_path / "out", model(1) | {"classifier.weight": heads[0]})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"missing": "basse"}, "missing: 'basse' is not known; did you mean 'base'"),
        ({"extra": "base"}, "extra: 'base' is not known"),
        ({"missing": [{"filter": "scroe", "value": "base"}]}, "missing: filter 'scroe' fits no"),
        ({"rename": {"a": "b"}}, "key 'rename' is not known"),
    ],
)
def test_rules_that_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    base, expert = (write(tmp_path / str(seed), model(seed)) for seed in range(2))
    with pytest.raises(InputError, match=message):
        plan({**request("task_arithmetic", [expert], base=base), **keys})


def test_without_a_base_nothing_stands_for_a_tensor_that_a_model_lacks(tmp_path: Path) -> None:
    one = write(tmp_path / "one", model(0) | {"score.weight": np.ones((2, 4), np.float32)})
    two = write(tmp_path / "two", model(1))
    with pytest.raises(InputError, match="the merge has no base"):
        plan(request("linear", [one, two], missing="base"))
    merge(request("linear", [two, one], extra="drop"), tmp_path / "out")
    assert_holds(tmp_path / "out", {n: linear([model(1)[n], model(0)[n]]) for n in model(0)})


# Empty weights.


def test_empty_weights_are_named_with_their_cause(tmp_path: Path) -> None:
    empty = {n: np.zeros(0, np.float32) if n.startswith("h.0") else a for n, a in model(1).items()}
    whole, bare = write(tmp_path / "whole", model(0)), write(tmp_path / "bare", empty)
    with pytest.raises(InputError, match=r"has shape \[0\], .*ZeRO-3.*save_16bit_model"):
        plan(request("ties", [bare], base=whole))
    made = plan(request("linear", [bare, bare]))
    assert any("1 tensor is empty" in warning and "ZeRO-3" in warning for warning in made.warnings)
    report = merge(request("linear", [bare]), tmp_path / "out")
    assert any("'h.0.attn.weight'" in warning for warning in report.warnings)
