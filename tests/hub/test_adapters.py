"""Adapters of the hub, on models of the hub and on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tallies
from tallies import InputError, merge, plan
from tests.support import adapters
from tests.support.checkpoints import assert_holds, data_bytes, write
from tests.support.command_line import printed
from tests.support.hub import Hub

BASE = adapters.model(np.dtype(np.float32), n_layers=1)
LORA = adapters.lora(BASE, base_model_name_or_path="org/base", revision="v1")


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> Hub:
    """``org/base`` and the adapters ``org/lora`` and ``org/pickled`` of it on the hub."""
    base = write(tmp_path / "published/base", BASE, config={"model_type": "llama"})
    hub.directory("org/base", base, "v1")
    hub.directory("org/lora", LORA.write(tmp_path / "published/lora"), "v2")
    pickled = tmp_path / "published/pickled"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_text(json.dumps(LORA.config))
    tensors = {name: torch.from_numpy(array) for name, array in LORA.tensors.items()}
    torch.save(tensors, pickled / "adapter_model.bin")
    hub.directory("org/pickled", pickled)
    return hub


@pytest.mark.parametrize(
    "text", ["org/base+org/lora", "org/lora", "org/lora@v2", "hf://org/base@v1+hf://org/lora"]
)
def test_merged(published: Hub, text: str) -> None:
    report = merge({"merge_method": "linear", "semantics": "paper", "models": [text]}, "out")
    assert_holds(Path("out"), adapters.merged(BASE, LORA))
    commits = [published.models[f"org/{name}"].refs["main"] for name in ("base", "lora")]
    (model,) = report.recipe["models"]
    assert model["model"] == "+".join(
        f"org/{name}@{commit}" for name, commit in zip(("base", "lora"), commits, strict=True)
    )
    card = Path("out/README.md").read_text()
    assert "base_model:\n- org/base\n- org/lora\n" in card
    assert report.warnings == []


@pytest.mark.parametrize("text", ["org/base+org/pickled", "org/pickled"])
def test_a_pickled_adapter(published: Hub, text: str) -> None:
    merge({"merge_method": "linear", "models": [text]}, "out")
    assert_holds(Path("out"), adapters.merged(BASE, LORA))


def test_an_adapter_on_a_local_base(published: Hub) -> None:
    write(Path("base"), BASE, config={"model_type": "llama"})
    models = ["org/lora", "base+org/lora"]
    asked = {"merge_method": "ties", "base_model": "base", "models": models, "semantics": "paper"}
    made = plan(asked)
    assert all(str(one.listing.model).startswith("org/lora") for one in made.downloads)
    assert not published.asked("org/base/resolve")
    assert len(made.warnings) == 1
    assert "is listed again and counts again" in made.warnings[0]


def test_a_plan_downloads_adapters_alone(published: Hub) -> None:
    published.requests.clear()
    made = plan({"merge_method": "linear", "models": ["org/base+org/lora"], "semantics": "paper"})
    (download,) = made.downloads
    assert str(download.listing.model).startswith("org/base")
    assert "adapter    org/lora@" in str(made)


def test_a_repeat_takes_the_commits_of_the_report(published: Hub, tmp_path: Path) -> None:
    asked = ("--method", "linear", "--model", "org/lora")
    printed("merge", *asked, "out")
    later = adapters.lora(BASE, seed=7, base_model_name_or_path="org/base")
    published.directory("org/lora", later.write(tmp_path / "published/later"))
    printed("merge", "out/tallies.json", "again")
    assert data_bytes(Path("again")) == data_bytes(Path("out"))


def test_verified_inspected_and_packed(published: Hub) -> None:
    assert tallies.verify("org/base+org/lora")["kind"] == "checkpoint"
    (adapter,) = tallies.inspect("org/lora", fingerprints=False)["adapters"]
    assert (adapter["base"], adapter["ranks"]) == ("org/base", [4])
    tallies.pack("org/base", {"a": "org/lora"}, "store", codec="tall")
    source = json.loads(Path("store/store.json").read_text())["tasks"]["a"]["source"]
    commits = {name: published.models[f"org/{name}"].refs["main"] for name in ("base", "lora")}
    assert source == f"hf://org/base@{commits['base']}+hf://org/lora@{commits['lora']}"
    assert tallies.Store.open("store").load("a").keys() == BASE.keys()


def test_no_such_adapter(published: Hub) -> None:
    with pytest.raises(InputError, match="org/none"):
        plan({"merge_method": "linear", "models": ["org/base+org/none"]})
