"""Requests of people who use patches for the first time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tallies
from tallies import InputError, apply_patch, make_patch
from tallies.patches.foreign import delta_versions, trl
from tests.support.checkpoints import Model, assert_holds
from tests.support.command import assert_failed
from tests.support.command import tallies as run


def tied(step: float) -> dict[str, torch.Tensor]:
    weight = torch.arange(64.0).reshape(8, 8) + step
    return {"model.embed.weight": weight, "other": torch.ones(3), "lm_head.weight": weight}


@pytest.mark.parametrize("sides", ["dict dict", "file dict", "dict file"])
@pytest.mark.parametrize("kept", ["model.embed.weight", "lm_head.weight"])
def test_tied_weights_count_once(tmp_path: Path, sides: str, kept: str) -> None:
    steps, places = (tied(0), tied(1)), []
    for name, step in zip(("old", "new"), steps, strict=True):
        (tmp_path / name).mkdir()
        saved = {one: step[one] for one in (kept, "other")}
        save_file(saved, tmp_path / name / "model.safetensors")
        places.append(tmp_path / name)
    given: list[Any] = [
        place if kind == "file" else step
        for kind, place, step in zip(sides.split(), places, steps, strict=True)
    ]
    made = make_patch(given[0], given[1])
    assert made.tensors == {"changed": 1, "none": 1}
    if sides != "dict dict" or kept == "model.embed.weight":
        report = apply_patch(made, places[0], tmp_path / "made")
        assert report.new_fingerprint == tallies.inspect(places[1])["fingerprint"]
    tallies.torch.apply_patch(steps[0], made)
    assert torch.equal(steps[0]["lm_head.weight"], steps[1]["lm_head.weight"])


def test_ties_of_one_side_alone(tmp_path: Path) -> None:
    untied = {name: one.clone() for name, one in tied(0).items()}
    assert make_patch(untied, tied(1)).tensors == {"changed": 2, "none": 1}


def test_warnings(models: tuple[Model, Model]) -> None:
    old = {f"t{i}": torch.ones(4) for i in range(3)}
    report = make_patch(old, {f"x.{name}": one for name, one in old.items()})
    assert "share no name of a tensor" in report.warnings[0]
    assert "3 added, 3 removed" in str(report)
    assert "of 0 changed" not in str(report)
    report = make_patch(old, {name: one.bfloat16() for name, one in old.items()})
    assert "3 of 3 tensors have another dtype (F32 and BF16)" in report.warnings[0]
    assert make_patch(*models).warnings == []


def test_an_adapter_is_no_other_side(models: tuple[Model, Model], tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    factors = {f"base_model.model.q.lora_{one}.weight": torch.ones(2, 2) for one in "AB"}
    save_file(factors, tmp_path / "adapter/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"is an adapter, and the other side is a model; merge"):
        make_patch("old", "adapter")
    assert make_patch("adapter", "adapter").n_changed == 0


def test_wrong_python_values(models: tuple[Model, Model], tmp_path: Path) -> None:
    module: Any = torch.nn.Linear(2, 2)
    pairs: Any = list(module.state_dict().items())
    with pytest.raises(InputError, match=r"old: found Linear, .* state_dict\(\)"):
        make_patch(module, module)
    with pytest.raises(InputError, match=r"old: found list, .* dict\(\.\.\.\)"):
        make_patch(pairs, pairs)
    made = make_patch("old", "new")
    with pytest.raises(InputError, match=r"to: found Linear, .*tallies\.torch\.apply_patch"):
        apply_patch(made, module)
    for wrong in ({"a": 1}, 3, [3], module):
        with pytest.raises(InputError, match="patches: found "):
            apply_patch(wrong, "old", "made")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a: found OrderedDict, expected a path"):
        tallies.diff(module.state_dict(), "old")
    assert made.data is not None
    assert tallies.verify(made.data)["kind"] == "patch"


def test_reports_are_patches(models: tuple[Model, Model], tmp_path: Path) -> None:
    for name in ("patch", None):
        report = apply_patch(make_patch("old", "new", name), "old", f"made-{name}")
        assert_holds(tmp_path / f"made-{name}", models[1])
    with pytest.raises(InputError, match="found the report on patches that were applied"):
        apply_patch(report, "old", "x")


def test_sums_over_a_chain(models: tuple[Model, Model]) -> None:
    patches = [make_patch("old", "new"), make_patch("new", "old")]
    report = apply_patch(patches, "old", "made")
    assert f"{report.n_changed} changes of {report.n_elements} elements, in all" in str(report)
    assert "x smaller than the new tensors" in str(patches[0])


def test_nothing_to_take_back(models: tuple[Model, Model]) -> None:
    ended = run("apply", "--to", "old", "--in-place", "--undo")
    assert ended.status == 0
    assert ended.out.startswith("nothing to take back: no run was interrupted here\n")


def test_results_of_another_kind_stay(models: tuple[Model, Model]) -> None:
    run("patch", "old", "new", "--out", "patch")
    run("apply", "patch", "--to", "old", "--out", "made")
    run("patch", "old", "new", "--out", "second")
    text = assert_failed(run("apply", "patch", "--to", "old", "--out", "second", "--overwrite"), 2)
    assert "is a patch, and --overwrite replaces only a model here" in text
    text = assert_failed(run("patch", "old", "new", "--out", "made", "--overwrite"), 2)
    assert "is a model, and --overwrite replaces only a patch here" in text


def test_inspect(models: tuple[Model, Model]) -> None:
    run("patch", "old", "new", "--out", "patch")
    found = json.loads(run("inspect", "patch", "--json").out)
    one = found["tensors"]["t1.F32"]
    assert one["change"] == "changed"
    assert one["n_bytes"] > 0
    assert sum(one["n_changed"] for one in found["tensors"].values()) > 0
    assert "t1.F32" in run("inspect", "patch").out


def test_undo_says_what_is_amiss(models: tuple[Model, Model]) -> None:
    made = make_patch("old", "new", "patch")
    with pytest.raises(InputError, match="the old one already: nothing is to be taken back"):
        apply_patch(made, "old", "out", undo=True)
    with pytest.raises(InputError, match=r"starts from.*the new one already: were the patches app"):
        apply_patch(made, "new", "out")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_wrapped_modules(prefix: str) -> None:
    old = {"weight": torch.zeros(4), "bias": torch.zeros(2)}
    made = make_patch(old, {name: one + 1 for name, one in old.items()})
    with pytest.raises(InputError, match=f"give the module inside: model.{prefix[:-1]}"):
        tallies.torch.apply_patch({prefix + name: one for name, one in old.items()}, made)


def test_models_in_memory_where_paths_are_expected(tmp_path: Path) -> None:
    old = {"weight": torch.zeros(4)}
    made = make_patch(old, {"weight": torch.ones(4)})
    base: Any = old
    with pytest.raises(InputError, match="model: found dict, expected a path"):
        trl.from_patch(made, base, tmp_path / "step.safetensors")
    with pytest.raises(InputError, match="base: found dict, expected a path"):
        tallies.pack(base, {"a": tmp_path}, tmp_path / "store", codec="lossless")
    with pytest.raises(InputError, match="a: found dict, expected a path"):
        tallies.pack(tmp_path, {"a": base}, tmp_path / "store", codec="lossless")


def test_places_that_are_no_updates(tmp_path: Path) -> None:
    (tmp_path / "shared" / "weight_v000001").mkdir(parents=True)
    with pytest.raises(InputError, match="has versions in it and is none; name one of them: 'wei"):
        delta_versions.to_patch(tmp_path / "shared", tmp_path)
    with pytest.raises(InputError, match="is a directory, expected an update file of TRL"):
        trl.to_patch(tmp_path, tmp_path)
