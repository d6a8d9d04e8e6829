"""Models of vocabularies of different sizes: rows that not all have are the base's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, plan
from tests.reference.linear import linear
from tests.reference.ties import ties_model
from tests.support import adapters
from tests.support.checkpoints import Model, assert_holds, read, write
from tests.support.command import tallies
from tests.support.merges import BF16, assert_fingerprints, dyadic, request

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def model(seed: int, n_tokens: int, dtype: Any = np.float32) -> Model:
    rng = np.random.default_rng(seed)
    shapes = {EMBEDDING: (n_tokens, 4), HEAD: (n_tokens, 4), "model.norm.weight": (4,)}
    return {name: dyadic(rng, *shape).astype(dtype) for name, shape in shapes.items()}


def first(tensors: Model, n_rows: int) -> Model:
    return {n: a if a.ndim == 1 else a[:n_rows] for n, a in tensors.items()}


def with_rows_of(base: Model, merged: Model) -> Model:
    return {n: np.concatenate([a, base[n][len(a) :]]) for n, a in merged.items()}


SIZES = [(9, [7]), (7, [9]), (9, [7, 8, 9]), (8, [9, 6])]


@pytest.mark.parametrize(("of_base", "of_experts"), SIZES)
@pytest.mark.parametrize("method", ["ties", "linear"])
@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_rows_that_not_all_models_have_are_the_bases(
    tmp_path: Path, of_base: int, of_experts: list[int], method: str, dtype: Any
) -> None:
    base = model(0, of_base, dtype)
    experts = [model(1 + i, n) for i, n in enumerate(of_experts)]
    paths = [write(tmp_path / f"e{i}", one, n_files=2) for i, one in enumerate(experts)]
    origin = write(tmp_path / "base", base)
    recipe = request(method, paths, base=origin)
    with pytest.raises(InputError, match=r"tokenizer: .source: base.*embeddings: base-rows"):
        plan(recipe)
    recipe["embeddings"] = "base-rows"
    report = merge(recipe, tmp_path / "out", max_shard_size=200)
    common = min(of_base, *of_experts)
    heads = [first(one, common) for one in experts]
    if method == "ties":
        expected = ties_model(first(base, common), heads, 0.2)
    else:
        expected = {n: linear([one[n] for one in heads]).astype(a.dtype) for n, a in base.items()}
    assert_holds(tmp_path / "out", with_rows_of(base, expected))
    assert_fingerprints(report, origin if method == "ties" else None, paths)
    assert sum(EMBEDDING in warning and "rows" in warning for warning in report.warnings) == 1


@pytest.mark.parametrize("out", ["float16", "float32"])
def test_rows_of_the_base_take_the_dtype_of_the_result(tmp_path: Path, out: str) -> None:
    base, expert = model(0, 9, BF16), model(1, 7)
    paths = write(tmp_path / "base", base), write(tmp_path / "e", expert)
    options = ["--base", paths[0], "--model", paths[1], "--embeddings", "base-rows"]
    made = ["merge", "--method", "task_arithmetic", *options, "--out-dtype", out]
    assert tallies(*made, "--out", tmp_path / "out").status == 0
    merged = {
        n: np.concatenate([a, base[n][len(a) :].astype(np.float32)]) for n, a in expert.items()
    }
    assert_holds(tmp_path / "out", {n: a.astype(out) for n, a in merged.items()})


def test_a_tied_head_gets_the_rows_too(tmp_path: Path) -> None:
    base, expert = ({**m, HEAD: m[EMBEDDING]} for m in (model(0, 9), model(1, 7)))
    tied = {"tie_word_embeddings": True}
    paths = [write(tmp_path / str(i), m, config=tied) for i, m in enumerate((base, expert))]
    recipe = request("task_arithmetic", paths[1:], base=paths[0], embeddings="base-rows")
    report = merge(recipe, tmp_path / "out")
    assert report.tensors_tied == 1
    assert_holds(tmp_path / "out", with_rows_of(base, expert))
    assert_fingerprints(report, paths[0], paths[1:])


def test_other_tensors_must_have_one_shape(tmp_path: Path) -> None:
    base, expert = model(0, 9), {**model(1, 7), "model.norm.weight": np.ones(5, np.float32)}
    paths = write(tmp_path / "base", base), write(tmp_path / "e", expert)
    recipe = request("task_arithmetic", paths[1:], base=paths[0], embeddings="base-rows")
    with pytest.raises(InputError, match=r"'model\.norm\.weight' has shape \[5\]"):
        plan(recipe)


def test_base_rows_need_a_base(tmp_path: Path) -> None:
    paths = [write(tmp_path / str(i), model(i, 7 + i)) for i in range(2)]
    with pytest.raises(InputError, match="the merge has no base"):
        plan(request("linear", paths, embeddings="base-rows"))


@pytest.mark.parametrize("method", ["ties", "linear"])
@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_rows_that_not_all_models_have_are_left_out(
    tmp_path: Path, method: str, dtype: Any
) -> None:
    base, experts = model(0, 9, dtype), [model(1, 8, dtype), model(2, 7, dtype)]
    paths = [
        write(tmp_path / f"e{i}", one, n_files=2, config={"vocab_size": 9 - i})
        for i, one in enumerate([base, *experts])
    ]
    recipe = request(method, paths[1:], base=paths[0], embeddings="truncate")
    report = merge(recipe, tmp_path / "out")
    cut = [first(one, 7) for one in (base, *experts)]
    if method == "ties":
        expected = ties_model(cut[0], cut[1:], 0.2)
    else:
        expected = {n: linear([one[n] for one in cut[1:]]).astype(dtype) for n in base}
    assert_holds(tmp_path / "out", expected)
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"vocab_size": 7}
    (embedding, head) = (w for w in report.warnings if "first 7 rows" in w)
    assert HEAD in embedding + head
    assert all("e0 9" in one and "e2 7" in one for one in (embedding, head))


def test_a_model_with_an_adapter_is_cut_too(tmp_path: Path) -> None:
    base, other = (adapters.model(np.dtype(np.float32), seed=seed) for seed in (0, 9))
    name = next(name for name in base if "embed_tokens" in name)
    adapters.embedding(base).write(tmp_path / "lora")
    other[name] = other[name][:-3]
    paths = [write(tmp_path / str(i), one, config={}) for i, one in enumerate((base, other))]
    merge(request("linear", [f"{paths[0]}+{tmp_path / 'lora'}"]), tmp_path / "changed")
    recipe = request("linear", [f"{paths[0]}+{tmp_path / 'lora'}", paths[1]], embeddings="truncate")
    merge(recipe, tmp_path / "out")
    changed = read(tmp_path / "changed")
    changed[name] = changed[name][:-3]
    assert_holds(tmp_path / "out", {n: linear([a, other[n]]) for n, a in changed.items()})


def test_a_tied_head_is_cut_with_its_embedding(tmp_path: Path) -> None:
    base, expert = ({**m, HEAD: m[EMBEDDING]} for m in (model(0, 9), model(1, 7)))
    tied = {"tie_word_embeddings": True}
    paths = [write(tmp_path / str(i), m, config=tied) for i, m in enumerate((base, expert))]
    recipe = request("task_arithmetic", paths[1:], base=paths[0], embeddings="truncate")
    report = merge(recipe, tmp_path / "out")
    assert report.tensors_tied == 1
    assert_holds(tmp_path / "out", expert)
