"""Results whose output head is the embedding, or a tensor of its own, as asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, plan
from tests.reference.task_arithmetic import task_arithmetic
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.command import tallies
from tests.support.merges import assert_fingerprints, dyadic, request

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def model(seed: int, head: str) -> Model:
    """A model without a head, with its embedding for a head, or with one of its own."""
    rng = np.random.default_rng(seed)
    made = {EMBEDDING: dyadic(rng, 6, 4), "model.norm.weight": dyadic(rng, 4)}
    if head != "none":
        made[HEAD] = made[EMBEDDING] if head == "tied" else dyadic(rng, 6, 4)
    return made


def saved(path: Path, tensors: Model, tied: bool | None, **keys: Any) -> Path:
    config = {"model_type": "llama", **({} if tied is None else {"tie_word_embeddings": tied})}
    return write(path, tensors, config={**config, **keys})


def with_head(tensors: Model) -> Model:
    return {**tensors, HEAD: tensors.get(HEAD, tensors[EMBEDDING])}


def config_of(path: Path) -> Any:
    return json.loads((path / "config.json").read_text())


@pytest.mark.parametrize("heads", [("none", "own"), ("tied", "own"), ("none", "tied")])
@pytest.mark.parametrize("stated", [True, None])
def test_untied_heads_are_merged_apart(
    tmp_path: Path, heads: tuple[str, str], stated: bool | None
) -> None:
    models = [model(0, heads[0]), model(1, heads[1]), model(2, "none")]
    base, *experts = (
        saved(tmp_path / str(i), one, True if i == 2 else stated) for i, one in enumerate(models)
    )
    recipe = request("task_arithmetic", experts, base=base, tied="untie")
    report = merge(recipe, tmp_path / "out")
    whole = [with_head(one) for one in models]
    assert_holds(
        tmp_path / "out",
        {
            name: task_arithmetic(one, [m[name] for m in whole[1:]])
            for name, one in whole[0].items()
        },
    )
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False
    assert report.tensors_tied == 0
    assert_fingerprints(report, base, experts)
    assert plan(tmp_path / "out" / "tallies.json").config.tied == "untie"


def test_heads_of_models_that_no_model_stores_get_the_usual_name(tmp_path: Path) -> None:
    base, expert = (saved(tmp_path / str(i), model(i, "none"), True) for i in range(2))
    merge(request("task_arithmetic", [expert], base=base, tied="untie"), tmp_path / "out")
    assert_holds(tmp_path / "out", with_head(model(1, "none")))
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("stated", [True, False, None])
def test_a_tied_result_has_no_head(tmp_path: Path, method: str, stated: bool | None) -> None:
    models = [model(0, "tied"), model(1, "none"), model(2, "tied")]
    paths = [saved(tmp_path / str(i), one, stated) for i, one in enumerate(models)]
    own = {"parameters": {"normalize": False}} if method == "linear" else {}
    chosen = request(method, paths[1:], base=paths[0], tied="tie", **own)
    merge(chosen, tmp_path / "out")
    bare = [{n: a for n, a in one.items() if n != HEAD} for one in models]
    expected = {
        name: bare[1][name] + bare[2][name]
        if method == "linear"
        else task_arithmetic(one, [m[name] for m in bare[1:]])
        for name, one in bare[0].items()
    }
    assert_holds(tmp_path / "out", expected)
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True


@pytest.mark.parametrize("which", [0, 1])
def test_a_tied_result_needs_equal_heads(tmp_path: Path, which: int) -> None:
    models = [model(i, "own" if i == which else "none") for i in range(2)]
    base, expert = (saved(tmp_path / str(i), one, False) for i, one in enumerate(models))
    with pytest.raises(InputError) as refusal:
        merge(request("task_arithmetic", [expert], base=base, tied="tie"), tmp_path / "out")
    for part in (str((base, expert)[which]), repr(HEAD), "differ, but 'tied: tie' asks"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_expert_whose_head_is_its_embedding_fits_a_base_with_a_head(
    tmp_path: Path, family: str
) -> None:
    models = [model(0, "own"), model(1, "none")]
    base = saved(tmp_path / "base", models[0], False, model_type=family)
    tied = None if family == "gpt2" else True
    expert = saved(tmp_path / "expert", models[1], tied, model_type=family)
    report = merge(request("task_arithmetic", [expert], base=base), tmp_path / "out")
    assert_holds(tmp_path / "out", with_head(models[1]))
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False
    assert_fingerprints(report, base, [expert])


def test_an_expert_that_merely_lacks_its_head_is_refused(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", model(0, "own"), False)
    expert = saved(tmp_path / "expert", model(1, "none"), False)
    with pytest.raises(InputError, match=f"lacks tensor '{HEAD}'.*tied: untie"):
        plan(request("task_arithmetic", [expert], base=base))


def test_a_head_beside_those_of_a_tied_base_is_refused_with_the_way_out(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", model(0, "none"), True)
    expert = saved(tmp_path / "expert", model(1, "own"), False)
    options = ["--method", "task_arithmetic", "--base", base, "--model", expert]
    refused = tallies("merge", *options, "--out", tmp_path / "out")
    assert refused.status == 2
    assert f"has tensor '{HEAD}'" in refused.err and "--tied untie" in refused.err
    assert tallies("merge", *options, "--tied", "untie", "--out", tmp_path / "out").status == 0
    assert_holds(tmp_path / "out", model(1, "own"))


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        ("tied", "tied: 'tied' is not known; did you mean 'tie'"),
        ("tie", "found no input embedding among its tensors"),
        ("untie", "found no input embedding among its tensors"),
    ],
)
def test_states_that_are_refused(tmp_path: Path, tied: str, message: str) -> None:
    base, expert = (write(tmp_path / str(i), {"w": np.ones(2, np.float32)}) for i in range(2))
    with pytest.raises(InputError, match=message):
        plan(request("task_arithmetic", [expert], base=base, tied=tied))
