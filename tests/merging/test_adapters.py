"""Models with adapters in merges: their results, and what plans, reports and cards say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies import InputError, merge, plan
from tests.support import adapters
from tests.support.checkpoints import Model, assert_holds, assert_same_tensors, data_bytes, write
from tests.support.command_line import printed
from tests.support.merges import request

BASE = adapters.model(np.dtype(np.float32))
LORA = adapters.lora(BASE)
STYLE = adapters.kohya(BASE, ["q_proj", "down_proj"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(Path("base"), BASE, config={"model_type": "llama"})
    write(Path("other"), adapters.model(np.dtype(np.float32), seed=9), config={})
    LORA.write(Path("lora"))
    STYLE.write(Path("style"))
    return tmp_path


def recipe(method: str, *models: str, base: str | None = None, **keys: Any) -> dict[str, Any]:
    return request(method, [Path(model) for model in models], base=base and Path(base), **keys)


def test_one_model_with_adapters(here: Path) -> None:
    merge(recipe("linear", "base+lora+style.safetensors"), "out")
    assert_holds(Path("out"), adapters.merged(BASE, LORA, STYLE))
    assert Path("out/config.json").is_file()


@pytest.mark.parametrize("expert", ["lora", "base+lora", "lora/adapter_model.safetensors"])
def test_adapters_as_experts(here: Path, expert: str) -> None:
    whole = adapters.merged(BASE, LORA)
    write(Path("whole"), whole, config={"model_type": "llama"})
    merge(recipe("ties", expert, "other", base="base"), "out")
    merge(recipe("ties", "whole", "other", base="base"), "expected")
    assert data_bytes(Path("out")) == data_bytes(Path("expected"))


def test_a_base_with_an_adapter(here: Path) -> None:
    whole = adapters.merged(BASE, LORA)
    write(Path("whole"), whole, config={"model_type": "llama"})
    merge(recipe("task_arithmetic", "other", base="base+lora"), "out")
    merge(recipe("task_arithmetic", "other", base="whole"), "expected")
    assert data_bytes(Path("out")) == data_bytes(Path("expected"))


def test_plan_report_and_card_name_the_adapters(here: Path) -> None:
    asked = recipe("ties", "lora", "other", base="base+style.safetensors")
    made = plan(asked)
    text = str(made)
    assert "base       base+style.safetensors\n" in text
    assert "adapter    style.safetensors: LoRA, changes 4 tensors\n" in text
    assert "adapter    lora: LoRA, changes 14 tensors\n" in text
    (first, second) = made.to_json_dict()["models"]
    assert [one["path"] for one in first["adapters"]] == ["style.safetensors", "lora"]
    assert second["adapters"] == []
    report = merge(asked, "deep/out")
    assert "adapter    lora: LoRA, changes 14 tensors\n" in str(report)
    said = json.loads(Path("deep/out/tallies.json").read_text())
    assert said["base"]["path"] == "../../base+../../style.safetensors"
    assert said["base"]["adapters"][0]["path"] == "../../style.safetensors"
    assert [one["tensors"] for one in said["experts"][0]["adapters"]] == [4, 14]
    card = Path("deep/out/README.md").read_text()
    assert "| lora | adapter |  | not stated |  |" in card
    assert str(here) not in card + json.dumps(said)


def test_a_report_repeats_its_merge(here: Path) -> None:
    merge(recipe("ties", "lora", "other", base="base"), "out")
    merge("out/tallies.json", "again")
    merge("out/mergekit_config.yml", "as-well")
    assert "# mergekit reads this file as well" in Path("out/mergekit_config.yml").read_text()
    assert data_bytes(Path("again")) == data_bytes(Path("out")) == data_bytes(Path("as-well"))


def test_reports_have_no_path_of_the_machine_that_trained(here: Path) -> None:
    for name, told in (("at-home", "/home/somebody/models/llama/"), ("here", str(here / "base"))):
        adapters.lora(BASE, base_model_name_or_path=told).write(Path(name))
    merge(recipe("ties", "at-home", "here", base="base"), "out")
    said = json.loads(Path("out/tallies.json").read_text())
    bases = [one["adapters"][0]["base"] for one in said["experts"]]
    assert bases == ["llama", "../base"]
    text = "".join(
        path.read_text() for path in Path("out").iterdir() if path.suffix != ".safetensors"
    )
    assert "somebody" not in text
    assert str(here) not in text


def test_an_adapter_of_another_base(here: Path) -> None:
    adapters.lora(BASE, base_model_name_or_path="org/llama").write(Path("far"))
    (warning,) = plan(recipe("ties", "far", "other", base="base")).warnings
    assert warning == (
        f"{here}/far: is an adapter on 'org/llama', as its configuration says, and is added to "
        "'base'; if these are different models, name its own before it (org/llama+...)"
    )


@pytest.mark.parametrize(
    "told", ["base", "./base", "org/base", "/home/somebody/models/Base", "llama-of-the-config"]
)
def test_an_adapter_of_the_base_by_another_name(here: Path, told: str) -> None:
    config = {"model_type": "llama", "_name_or_path": "llama-of-the-config"}
    Path("base/config.json").write_text(json.dumps(config))
    adapters.lora(BASE, base_model_name_or_path=told).write(Path("told"))
    assert plan(recipe("ties", "told", "other", base="base")).warnings == ()


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr_low"])
def test_an_adapter_without_effect(here: Path, kind: str) -> None:
    made = adapters.kohya(BASE, ["q_proj", "down_proj"], kind=kind)
    piece = {"lora": "up.weight", "loha": "w2_b", "lokr_low": "w2_a"}[kind]
    zeroed = [name for name in made.tensors if name.endswith(piece)]
    for name in zeroed:
        made.tensors[name][...] = 0
    made.write(Path("zero"))
    (warning,) = plan(recipe("ties", "zero.safetensors", "other", base="base")).warnings
    assert warning.startswith(
        f"{here}/zero.safetensors: changes nothing: all its products are zero"
    )
    made.tensors[zeroed[-1]][-1, -1] = 1
    made.write(Path("one"))
    assert plan(recipe("ties", "one.safetensors", "other", base="base")).warnings == ()


def test_adapters_that_change_during_a_merge_are_inputs(here: Path) -> None:
    files = plan(recipe("ties", "lora", "other", base="base")).input_files()
    assert str(Path("lora/adapter_model.safetensors")) in {
        str(Path(file).relative_to(here)) for file in files
    }
    with pytest.raises(InputError, match="lora"):
        merge(recipe("ties", "lora", "other", base="base"), "lora/out")


def test_an_adapter_without_its_tensors(here: Path) -> None:
    narrow: Model = {name: array for name, array in BASE.items() if ".1." not in name}
    write(Path("narrow"), narrow, config={})
    with pytest.raises(InputError, match=r"lora.*layers\.1.*which .*narrow lacks.*merge_and_unl"):
        plan(recipe("linear", "narrow+lora", "narrow"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "base+other",
            r"other: is no adapter, expected one on a model \(MODEL\+",
        ),
        ("base+none", r"none: no such file or directory"),
        ("none+lora", r"none: no such file or directory"),
        ("base+lora+other/model.safetensors", r"other/model.safetensors: is no adapter"),
    ],
)
def test_a_text_that_is_no_model_with_adapters(here: Path, text: str, match: str) -> None:
    for call in (lambda: plan(recipe("linear", text)), lambda: tallies.verify(text)):
        with pytest.raises(InputError, match=match):
            call()


def test_an_adapter_twice(here: Path) -> None:
    (warning,) = plan(recipe("linear", "base+lora+lora")).warnings
    assert warning == f"{here}/lora: is added to 'base' again, and counts again"
    merge(recipe("linear", "base+lora+lora"), "out")
    assert_holds(Path("out"), adapters.merged(BASE, LORA, LORA))
    assert "# mergekit does not read it" in Path("out/mergekit_config.yml").read_text()
    merge("out/mergekit_config.yml", "again")
    assert data_bytes(Path("again")) == data_bytes(Path("out"))


def test_from_the_command_line(here: Path) -> None:
    adapters.lora(BASE, rank=4, base_model_name_or_path="../base").write(Path("told"))
    shown = printed("inspect", "told", "--no-fingerprints")
    for line in (
        "factors    LoRA, rank 4, alpha 6, scale 1.5\n",
        "made for   ../base\n",
        "changes    14 tensors: 2 down_proj, 2 gate_proj, 2 k_proj, 2 o_proj, 2 q_proj,\n",
    ):
        assert line in shown
    shown = printed("inspect", "base+style.safetensors")
    assert f"adapter    {here}/style.safetensors\n" in shown
    assert printed("verify", "base+told").startswith(
        "base+told: checkpoint is whole: 21 tensors in 3 files"
    )
    models = ("--model", "told:weight=2", "--model", "base+lora:weight=0.5")
    shown = printed("merge", "--method", "linear", *models, "--out", "out")
    assert "model      base+told: weight 2\n" in shown


def test_refused_kinds_are_listed_and_not_read(here: Path) -> None:
    write(Path("ia3.safetensors"), {"base_model.model.k_proj.ia3_l": np.ones(4, np.float32)})
    (found,) = tallies.inspect("ia3.safetensors")["adapters"]
    assert found.keys() == {"refused"}
    assert "not read   " in printed("inspect", "ia3.safetensors")
    with pytest.raises(InputError, match=r"ia3.*merge_and_unload"):
        plan(recipe("linear", "base+ia3.safetensors"))


def test_the_tokenizer_beside_an_adapter(here: Path) -> None:
    for name in ("base", "lora"):
        Path(name, "tokenizer.json").write_text(json.dumps({"of": name}))
    Path("base/special_tokens_map.json").write_text("{}")
    made = plan(recipe("linear", "base+lora", "other"))
    assert "from base+lora; tokenizer.json from" in str(made).replace("\n           ", " ")
    merge(recipe("linear", "base+lora", "other"), "out")
    assert json.loads(Path("out/tokenizer.json").read_text()) == {"of": "lora"}
    merge(recipe("linear", "base", "other", files_from="base+lora"), "of-both")
    assert Path("of-both/tokenizer.json").read_text() == Path("out/tokenizer.json").read_text()
    merge(recipe("ties", "lora", "other", base="base"), "of-base")
    assert json.loads(Path("of-base/tokenizer.json").read_text()) == {"of": "base"}
    names = {path.name for path in Path("out").iterdir()}
    assert {"config.json", "special_tokens_map.json"} <= names
    assert "adapter_config.json" not in names


def test_values_that_are_not_finite_are_named(here: Path) -> None:
    broken = adapters.lora(BASE)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    broken.tensors[name][2, 1] = np.nan
    broken.write(Path("broken"))
    for call in (
        lambda: merge(recipe("ties", "broken", "other", base="base"), "out"),
        lambda: tallies.verify("base+broken"),
    ):
        with pytest.raises(InputError, match=r"broken.*layers\.0\.mlp\.up_proj"):
            call()


def test_verified(here: Path) -> None:
    found = tallies.verify("base+lora")
    assert (found["path"], found["kind"]) == (f"{here}/base+{here}/lora", "checkpoint")
    assert found["tensors"] == len(BASE)
    assert found["nonfinite"] == {}


def test_inspected(here: Path) -> None:
    merged = tallies.inspect("base+lora")
    (adapter,) = merged["adapters"]
    assert adapter["ranks"] == [4]
    assert adapter["scales"] == [1.5]
    assert adapter["targets"]["q_proj"] == 2
    report = merge(recipe("ties", "lora", "other", base="base"), "out")
    assert report.experts[0].fingerprint == merged["fingerprint"]
    assert tallies.inspect("lora")["adapters"][0]["alpha"] == 6.0
    assert tallies.inspect("base")["adapters"] == []


def test_packed(here: Path) -> None:
    adapter = adapters.lora(BASE, base_model_name_or_path="../base")
    adapter.write(Path("told"))
    tallies.pack("base", {"a": "told", "b": "base+style.safetensors"}, "store", codec="tall")
    data = json.loads(Path("store/store.json").read_text())
    sources = {name: task["source"] for name, task in data["tasks"].items()}
    assert sources == {"a": "../base+../told", "b": "../base+../style.safetensors"}
    for name, merged in (
        ("a", adapters.merged(BASE, adapter)),
        ("b", adapters.merged(BASE, STYLE)),
    ):
        write(Path("whole", name), merged, config={"model_type": "llama"})
    tallies.pack("base", {"a": "whole/a", "b": "whole/b"}, "expected", codec="tall")
    tallies.verify("store", tasks={"a": "told", "b": "base+style.safetensors"})
    with pytest.raises(InputError, match=r"is not the expert that task 'a'"):
        tallies.verify("store", tasks={"a": "base+style.safetensors"})
    for name in ("a", "b"):
        expected = tallies.Store.open("expected").load(name)
        assert_same_tensors(tallies.Store.open("store").load(name), expected)
