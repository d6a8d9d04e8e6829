"""Embeddings and heads of a result that the request gives in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, plan
from tests.reference.linear import linear
from tests.reference.ties import ties_model
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.command import tallies
from tests.support.merges import BF16, dyadic, request

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def model(seed: int, n_tokens: int) -> Model:
    rng = np.random.default_rng(seed)
    shapes = {EMBEDDING: (n_tokens, 4), HEAD: (n_tokens, 4), NORM: (4,)}
    return {name: dyadic(rng, *shape) for name, shape in shapes.items()}


BASE, EXPERTS = model(0, 9), [model(1, 7), model(2, 10)]
GIVEN = {name: dyadic(np.random.default_rng(5), 12, 4).astype(BF16) for name in (EMBEDDING, HEAD)}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    write(tmp_path / "given.safetensors", GIVEN)
    return [
        write(tmp_path / str(i), one, config={"vocab_size": len(one[HEAD])})
        for i, one in enumerate([BASE, *EXPERTS])
    ]


@pytest.mark.parametrize("method", ["ties", "linear"])
def test_the_result_has_the_tensors_of_the_file(
    paths: list[Path], tmp_path: Path, method: str
) -> None:
    recipe = request(method, paths[1:], base=paths[0] if method == "ties" else None)
    recipe["embeddings"] = str(tmp_path / "given.safetensors")
    report = merge(recipe, tmp_path / "out", max_shard_size=200)
    norms = [{NORM: one[NORM]} for one in (BASE, *EXPERTS)]
    if method == "ties":
        merged = ties_model(norms[0], norms[1:], 0.2)
    else:
        merged = {NORM: linear([one[NORM] for one in norms[1:]])}
    assert_holds(tmp_path / "out", {**merged, **GIVEN})
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 12
    assert (report.tensors_merged, report.tensors_copied) == (1, 2)
    again = merge(tmp_path / "out/tallies.json", tmp_path / "again")
    assert again.output.fingerprint == report.output.fingerprint


def test_paths_lead_from_the_recipe_and_the_shell(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "1"}, {"model": "2"}],
        "embeddings": "given.safetensors",
    }
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    options = ["--method", "linear", "--model", "1", "--model", "2"]
    done = tallies("merge", *options, "--embeddings", "given.safetensors", "--out", "shell")
    assert done.status == 0
    said = json.loads((tmp_path / "shell/tallies.json").read_text())["recipe"]["embeddings"]
    assert said == "../given.safetensors"
    for out in ("out", "shell"):
        assert_holds(tmp_path / out, {NORM: linear([e[NORM] for e in EXPERTS]), **GIVEN})


def test_a_head_that_is_tied_is_given_with_its_embedding(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    models = [{**one, HEAD: one[EMBEDDING]} for one in (BASE, *EXPERTS)]
    paths = [write(tmp_path / str(i), one, config=tied) for i, one in enumerate(models)]
    given = write(tmp_path / "given.safetensors", {EMBEDDING: GIVEN[EMBEDDING]})
    merge(request("ties", paths[1:], base=paths[0], embeddings=str(given)), tmp_path / "out")
    expected = {EMBEDDING: GIVEN[EMBEDDING], HEAD: GIVEN[EMBEDDING]}
    norms = [{NORM: one[NORM]} for one in models]
    assert_holds(tmp_path / "out", {**ties_model(norms[0], norms[1:], 0.2), **expected})


def test_a_model_may_lack_what_is_given(tmp_path: Path) -> None:
    models = [BASE, {name: one for name, one in EXPERTS[0].items() if name != HEAD}]
    paths = [write(tmp_path / str(i), one) for i, one in enumerate(models)]
    given = write(tmp_path / "given.safetensors", GIVEN)
    merge(request("linear", paths, embeddings=str(given)), tmp_path / "out")
    assert_holds(tmp_path / "out", {NORM: linear([m[NORM] for m in models]), **GIVEN})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.embed.weight": GIVEN[HEAD]}, r"'model\.embed\.weight' is not known; did you mean"),
        ({HEAD: np.zeros((9, 5), np.float32)}, r"shape \[9, 5\], expected rows of .*\[9, 4\]"),
        ({HEAD: np.zeros((9, 4), np.int32)}, r"'lm_head\.weight' is I32, and F32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    paths: list[Path], tmp_path: Path, tensors: Any, message: str
) -> None:
    bad = write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(InputError, match=r"bad\.safetensors: .*" + message):
        plan(request("linear", paths, embeddings=str(bad)))


@pytest.mark.parametrize("word", ["base-row", "truncated", 3])
def test_words_that_are_misspelt_are_no_files(word: Any) -> None:
    with pytest.raises(InputError, match=r"embeddings: .* is not known.*or a file such as"):
        plan(request("linear", ["a", "b"], embeddings=word))


def test_a_file_that_is_not_there_is_refused(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors"):
        plan(request("linear", paths, embeddings=str(tmp_path / "none.safetensors")))


def test_the_file_is_an_input(paths: list[Path], tmp_path: Path) -> None:
    recipe = request("linear", paths, embeddings=str(tmp_path / "given.safetensors"))
    made = plan(recipe)
    assert str(tmp_path / "given.safetensors") in made.input_files()
    said = " ".join(str(made).split())
    assert f"given 'lm_head.weight', 'model.embed_tokens.weight' from {tmp_path}" in said
    with pytest.raises(InputError, match=r"given\.safetensors"):
        merge(recipe, tmp_path / "given.safetensors", overwrite=True)


def test_layers_are_stacked_under_given_embeddings(tmp_path: Path) -> None:
    weight = "model.layers.{}.mlp.up_proj.weight"
    models = [
        {**model(seed, 9), **{weight.format(i): np.full((4, 4), seed + i, np.float32)}}
        for seed, i in ((0, 0), (1, 0))
    ]
    config = {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 9}
    paths = [write(tmp_path / str(i), one, config=config) for i, one in enumerate(models)]
    slices = [{"sources": [{"model": str(p), "layer_range": [0, 1]}]} for p in (*paths, paths[0])]
    recipe = {
        "merge_method": "passthrough",
        "slices": slices,
        "embeddings": str(write(tmp_path / "given.safetensors", GIVEN)),
    }
    merge(recipe, tmp_path / "out")
    stacked = {
        weight.format(i): models[number][weight.format(0)] for i, number in enumerate((0, 1, 0))
    }
    assert_holds(tmp_path / "out", {NORM: models[0][NORM], **stacked, **GIVEN})
