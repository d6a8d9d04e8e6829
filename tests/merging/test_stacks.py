"""Stacks of slices on disk against the reference, and their reports, plans and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import tallies
from tallies import MergeReport
from tallies.errors import InputError
from tests.reference import linear, passthrough
from tests.support.bits import assert_same_bits
from tests.support.checkpoints import Model, assert_holds, data_bytes, read, write
from tests.support.recipes import assert_words

EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
LAYER = "model.layers.{}.mlp.up_proj.weight"
N_LAYERS = 4
DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": N_LAYERS,
    "layer_types": ["a", "b", "c", "d"],
    "hidden_size": 3,
    "vocab_size": 5,
}


def model(seed: int, dtype: np.dtype[Any] = DTYPES[0], width: int = 3) -> Model:
    rng = np.random.default_rng(seed)
    names = [EMBED, *(LAYER.format(layer) for layer in range(N_LAYERS)), NORM, HEAD]
    shapes = {EMBED: (5, width), HEAD: (5, width), NORM: (width,)}
    return {name: rng.normal(size=shapes.get(name, (4, width))).astype(dtype) for name in names}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three models of four layers each."""
    for seed, name in enumerate("abc"):
        write(tmp_path / name, model(seed), config=CONFIG)
    return tmp_path


def merge(recipe: Any, out: Path, **options: Any) -> MergeReport:
    report = tallies.merge(recipe, out, **options)
    assert isinstance(report, MergeReport)
    return report


def source(folder: Path, name: str, first: int, end: int, **keys: Any) -> dict[str, Any]:
    return {"model": str(folder / name), "layer_range": [first, end], **keys}


def recipe(folder: Path, *slices: list[passthrough.Source], **keys: Any) -> dict[str, Any]:
    """A recipe of slices, which are ``passthrough`` where nothing else is said."""
    rows = [{"sources": [source(folder, *one) for one in sources]} for sources in slices]
    return {"merge_method": "passthrough", "slices": rows, **keys}


@st.composite
def stacks(draw: st.DrawFn, most: int = 1) -> list[list[passthrough.Source]]:
    """Draw slices of one to ``most`` of the three models; in a slice, each model is there once."""
    slices = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, N_LAYERS))
        names = draw(st.permutations("abc"))[: draw(st.integers(1, most))]
        starts = [draw(st.integers(0, N_LAYERS - n)) for _ in names]
        slices.append([(name, first, first + n) for name, first in zip(names, starts, strict=True)])
    return slices


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=15)
@given(slices=stacks(), scale=st.sampled_from([1.0, 0.5, -1.5]), wide=st.booleans())
def test_layers_are_copied_or_scaled(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: np.dtype[Any],
    slices: list[list[passthrough.Source]],
    scale: float,
    wide: bool,
) -> None:
    folder = tmp_path_factory.mktemp("stack")
    models = {name: model(seed, dtype) for seed, name in enumerate("abc")}
    models["a"][EMBED][0] = -0.0
    for name, one in models.items():
        write(folder / name, one, config=CONFIG)
    out = DTYPES[0] if wide else dtype
    keys = {"parameters": {"scale": scale}, "out_dtype": str(out)}
    merge(recipe(folder, *slices, **keys), folder / "out")
    found = read(folder / "out")
    expected = passthrough.stacked(slices, LAYER, [EMBED], [NORM, HEAD])
    assert found.keys() == expected.keys()
    for name, (_, [(own, at)]) in expected.items():
        assert_same_bits(found[name], passthrough.passthrough(models[own][at], scale, out))


@settings(max_examples=25)
@given(slices=stacks(most=3), weights=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2))
def test_slices_of_several_models_are_merged_with_gradients_of_their_own(
    tmp_path_factory: pytest.TempPathFactory,
    slices: list[list[passthrough.Source]],
    weights: list[float],
) -> None:
    folder = tmp_path_factory.mktemp("stack")
    models = {name: model(seed) for seed, name in enumerate("abc")}
    for name, one in models.items():
        write(folder / name, one, config=CONFIG)
    given_weights = {"parameters": {"weight": weights}}
    made = recipe(folder, *slices, merge_method="linear", **given_weights)
    # A second source of parameters: of the first model in each slice.
    for one in made["slices"]:
        one["sources"][0]["parameters"] = {"weight": [{"filter": "mlp", "value": 0.25}]}
    merge(made, folder / "out")
    found = read(folder / "out")
    for name, (t, taken) in passthrough.stacked(slices, LAYER, [EMBED], [NORM, HEAD]).items():
        at = t * (len(weights) - 1)
        left = int(at)
        right = weights[min(left + 1, len(weights) - 1)]
        shared = (1 - (at - left)) * weights[left] + (at - left) * right
        each = [shared] * len(taken)
        if "mlp" in name:
            each[0] = 0.25
        tensors = [models[own][stored] for own, stored in taken]
        assert_same_bits(found[name], linear.linear(tensors, each))


def test_the_configuration_tells_of_the_layers(three: Path) -> None:
    made = recipe(three, [("a", 0, 2)], [("b", 1, 4)])
    merge(made, three / "out")
    config = json.loads((three / "out" / "config.json").read_text())
    assert config == {
        **CONFIG,
        "num_hidden_layers": 5,
        "layer_types": ["a", "b", "b", "c", "d"],
    }


def test_models_of_a_stack_may_have_other_numbers_of_layers(three: Path) -> None:
    short = {name: one for name, one in model(7).items() if name != LAYER.format(3)}
    config = {**CONFIG, "num_hidden_layers": 3, "layer_types": ["x", "y", "z"]}
    write(three / "short", short, config=config)
    report = merge(recipe(three, [("a", 2, 4)], [("short", 0, 3)]), three / "out")
    assert report.warnings == []
    told = json.loads((three / "out" / "config.json").read_text())
    assert told["layer_types"] == ["c", "d", "x", "y", "z"]


def test_report_and_plan_name_the_layers(three: Path) -> None:
    made = recipe(three, [("a", 0, 2)], [("b", 1, 4)], [("a", 1, 3)])
    planned = tallies.plan(made)
    tensor = planned.to_json_dict()["tensors"][LAYER.format(2)]
    assert tensor["sources"] == [{"model": str(three / "b"), "tensor": LAYER.format(1)}]
    assert tensor["slice"] == "slices[1]"
    assert "model.layers 0-1, model.layers 1-2" in " ".join(str(planned).split())
    report = merge(made, three / "out")
    assert [one.layers for one in report.experts] == [
        ["model.layers 0-1", "model.layers 1-2"],
        ["model.layers 1-3"],
    ]
    assert report.tensors_copied == 10 and report.tensors_tied == 0
    again = merge(three / "out" / "tallies.json", three / "again")
    assert again.output.fingerprint == report.output.fingerprint
    assert data_bytes(three / "again") == data_bytes(three / "out")
    by_file = merge(three / "out" / "mergekit_config.yml", three / "third")
    assert by_file.output.fingerprint == report.output.fingerprint


def test_the_fingerprint_of_a_whole_model_is_that_of_the_model(three: Path) -> None:
    whole = merge({"merge_method": "passthrough", "models": [str(three / "a")]}, three / "whole")
    made = recipe(three, [("a", 0, 2)], [("a", 0, 4)])
    assert merge(made, three / "out").experts[0].fingerprint == whole.output.fingerprint
    assert_holds(three / "whole", model(0))


def test_a_stack_may_be_one_file(three: Path) -> None:
    made = recipe(three, [("a", 0, 2)], [("b", 1, 4)])
    report = merge(made, three / "out.safetensors")
    assert merge(made, three / "out").output.fingerprint == report.output.fingerprint
    with safe_open(three / "out.safetensors", "np") as file:
        told = json.loads(file.metadata()["tallies"])
    assert [one["sources"][0]["model"] for one in told["slices"]] == ["a", "b"]


def test_a_head_behind_layers_of_another_model_is_not_the_embedding(tmp_path: Path) -> None:
    tied = {name: one for name, one in model(0).items() if name != HEAD}
    write(tmp_path / "tied", tied, config={**CONFIG, "tie_word_embeddings": True})
    write(tmp_path / "b", model(1), config={**CONFIG, "tie_word_embeddings": False})
    for first, last in (("tied", "b"), ("b", "tied"), ("tied", "tied")):
        out = tmp_path / f"{first}-{last}"
        merge(recipe(tmp_path, [(first, 0, 2)], [(last, 1, 4)]), out)
        found = read(out)
        config = json.loads((out / "config.json").read_text())
        assert config["tie_word_embeddings"] is ((first, last) == ("tied", "tied"))
        if first != last:
            head = tied[EMBED] if last == "tied" else model(1)[HEAD]
            assert_same_bits(found[HEAD], head)
        else:
            assert HEAD not in found


def test_slices_have_bases_of_their_own(three: Path) -> None:
    made = recipe(three, [("a", 0, 2), ("b", 0, 2)], [("c", 1, 3), ("b", 0, 2)], [("a", 3, 4)])
    made["slices"][1]["base_model"] = str(three / "c")
    made |= {"merge_method": "task_arithmetic", "base_model": str(three / "a")}
    made |= {"parameters": {"weight": 0.5}}
    report = merge(made, three / "out")
    found, (a, b, c) = read(three / "out"), (model(seed) for seed in range(3))

    def merged(base: Any, other: Any) -> Any:
        return base + (other - base) * np.float32(0.5)

    assert_same_bits(found[EMBED], merged(a[EMBED], b[EMBED]))
    assert_same_bits(found[LAYER.format(1)], merged(a[LAYER.format(1)], b[LAYER.format(1)]))
    assert_same_bits(found[LAYER.format(2)], merged(c[LAYER.format(1)], b[LAYER.format(0)]))
    # The last slice has the base alone, which stays as it is.
    assert_same_bits(found[LAYER.format(4)], a[LAYER.format(3)])
    assert_same_bits(found[NORM], a[NORM])
    assert [one.layers for one in report.experts] == [["model.layers 0-1", "model.layers 0-1"]]


def test_weights_that_mergekit_requires_of_slices(three: Path) -> None:
    slices = [[("a", 0, 2), ("b", 0, 2)]]
    asked = recipe(
        three, *slices, merge_method="ties", base_model=str(three / "a"), semantics="mergekit"
    )
    (warning,) = (one for one in tallies.plan(asked).warnings if "weight" in one)
    assert_words(warning, "b'", "mergekit refuses", "1 is taken")
    rules = {"weight": [{"filter": "layers", "value": 1}]}
    with pytest.raises(InputError, match=r"slices\[0\]: no rule of 'weight' fits tensor"):
        tallies.plan({**asked, "parameters": rules})


def test_a_run_that_failed_goes_on(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(three, [("a", 0, 2)], [("b", 0, 3), ("c", 1, 4)], merge_method="linear")
    expected = merge(made, three / "at_once", max_shard_size=60)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("tallies.merging.finishing.naming_all_files", _fail)
        merge(made, three / "out", resume=True, max_shard_size=60)
    report = merge(made, three / "out", resume=True, max_shard_size=60)
    assert report.output.fingerprint == expected.output.fingerprint
    assert data_bytes(three / "out") == data_bytes(three / "at_once")


def _fail(*_: Any) -> Any:
    raise RuntimeError


def test_overrides_reach_the_sources(three: Path) -> None:
    made = recipe(three, [("a", 0, 2), ("b", 0, 2)], [("b", 2, 4), ("c", 2, 4)])
    made |= {"merge_method": "linear", "parameters": {"weight": 1.0}}
    made["slices"][0]["sources"][1]["parameters"] = {"weight": 0.25}
    from tallies.recipe.config import MergeConfig
    from tallies.recipe.overrides import Overrides

    changed = MergeConfig.load(made, Overrides(settings={"models.b.weight": 0.75}))
    own = [[s.parameters for s in one.sources] for one in changed.slices or ()]
    assert own == [[{}, {"weight": 0.75}], [{"weight": 0.75}, {}]]
    changed = MergeConfig.load(made, Overrides(parameters={"weight": 3.0}))
    assert all(s.parameters == {} for one in changed.slices or () for s in one.sources)
    assert changed.parameters == {"weight": 3.0}


@pytest.mark.parametrize(
    ("slices", "keys", "words"),
    [
        (
            [[("a", 2, 5)]],
            {},
            ["slices[0]", "a'", "has no layer 4", "4 layers, 0 to 3", "END at most 4"],
        ),
        ([[("a", 0, 2)], [("w", 0, 2)]], {}, ["up_proj", "[4, 2]", "[4, 3]", "one shape"]),
        ([[("a", 0, 2), ("w", 0, 2)]], {"merge_method": "linear"}, ["slices[0]", "[4, 2]"]),
        ([[("a", 0, 2), ("o", 0, 2)]], {"merge_method": "linear"}, ["slices[0]", "layer 0", "odd"]),
        ([[("a", 0, 2)]], {"missing": "base"}, ["missing", "beside slices"]),
        (
            [[("a", 0, 2), ("b", 0, 2)], [("a", 0, 2), ("b", 0, 2), ("c", 0, 2)]],
            {"merge_method": "ties"},
            ["slices: ties in paper semantics", "--semantics mergekit"],
        ),
        (
            [[("a", 0, 2), ("b", 0, 2)], [("a", 0, 2), ("b", 0, 2), ("c", 0, 2)]],
            {"merge_method": "task_arithmetic", "drop_layers": {"fraction": 0.5}},
            ["drop_layers"],
        ),
    ],
)
def test_stacks_that_cannot_be_made_are_refused(
    three: Path, slices: list[list[passthrough.Source]], keys: dict[str, Any], words: list[str]
) -> None:
    write(three / "w", model(5, width=2), config=CONFIG)
    odd = model(6)
    odd["model.layers.0.odd.weight"] = odd[NORM]
    write(three / "o", odd, config=CONFIG)
    if keys.get("merge_method") in ("ties", "task_arithmetic"):
        keys = {**keys, "base_model": str(three / "a")}
    with pytest.raises(InputError) as caught:
        tallies.plan(recipe(three, *slices, **keys))
    assert_words(str(caught.value), *words)
