"""Every command that takes a model takes one of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tallies import InputError, Store, pack
from tests.support.checkpoints import Model, assert_holds, data_bytes, write
from tests.support.command import assert_failed, tallies
from tests.support.command_line import printed
from tests.support.hub import Hub

EXACT = ("--codec", "sparse", "--param", "density=1")
TASKS = ("--task", "one=org/one", "--task", "two=hf://org/two@v1")


def test_a_store_of_models_of_the_hub(models: dict[str, Model], hub: Hub, home: Path) -> None:
    printed("pack", "--base", "org/base", *TASKS, *EXACT, "--out", "store")
    text = Path("store/store.json").read_text()
    commits = {name: hub.models[f"org/{name}"].refs["main"] for name in models}
    for name, commit in commits.items():
        assert f'"hf://org/{name}@{commit}"' in text
    assert str(home) not in text
    printed("unpack", "store", "one", "unpacked")
    assert_holds(Path("unpacked"), models["one"])
    printed("unpack", "store", "one", "again", "--base", "org/base", "--files-from", "org/two")
    assert data_bytes(Path("again")) == data_bytes(Path("unpacked"))
    opened = Store.open("store", base="org/base")
    assert np.array_equal(opened.tensor("two", "norm.weight"), models["two"]["norm.weight"])
    printed("verify", "store", "--offline")
    printed("unpack", "store", "two", "offline", "--offline")
    assert_holds(Path("offline"), models["two"])


def test_a_task_of_the_hub_is_added(models: dict[str, Model]) -> None:
    printed("pack", "--base", "org/base", *TASKS[:2], "--codec", "tall", "--out", "store")
    printed("add", "store", "--task", "two=org/two")
    printed("pack", "--base", "org/base", *TASKS, "--codec", "tall", "--out", "at once")
    for task in ("one", "two"):
        assert Store.open("store").load(task).keys() == models[task].keys()
        for name, tensor in Store.open("at once").load(task).items():
            assert np.array_equal(tensor, Store.open("store").load(task)[name])
    printed("remove", "store", "one")


def test_experts_that_do_not_fit_are_not_downloaded(
    models: dict[str, Model], hub: Hub, home: Path, tmp_path: Path
) -> None:
    other = {name: tensor[:16] for name, tensor in models["one"].items()}
    hub.directory("org/other", write(tmp_path / "published" / "other", other))
    with pytest.raises(
        InputError, match=r"^task 'other': org/other@[0-9a-f]{10}: tensor .* has shape"
    ):
        pack("org/base", {"other": "org/other"}, "store")
    assert not list(home.rglob("*.safetensors"))


def test_inspect_reads_headers_and_verify_reads_all(models: dict[str, Model], home: Path) -> None:
    said = json.loads(printed("inspect", "org/one@v1", "--json"))
    assert said["path"].startswith("org/one@")
    assert {name: one["shape"] for name, one in said["tensors"].items()} == {
        name: list(tensor.shape) for name, tensor in models["one"].items()
    }
    assert said["fingerprint"] is None
    assert not list(home.rglob("*.safetensors"))
    assert "is whole: 3 tensors" in printed("verify", "org/one@v1")
    said = json.loads(printed("inspect", "org/one@v1", "--json"))
    assert said["fingerprint"]


def test_models_in_torch_format_are_downloaded_by_a_merge(
    hub: Hub, home: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    for seed in range(2):
        path = tmp_path / f"{seed}.bin"
        torch.save({"w": torch.full((40, 40), float(seed))}, path)
        files = {"pytorch_model.bin": path.read_bytes(), "config.json": b"{}"}
        hub.model(f"org/{seed}", {**files, "training_args.bin": b"x" * 5000})
    request = ("--method", "linear", "--model", "org/0", "--model", "org/1")
    line = assert_failed(tallies("plan", *request), 2)
    assert "download" in line
    printed("merge", *request, "out")
    assert_holds(Path("out"), {"w": np.full((40, 40), 0.5, np.float32)})
    assert not list(home.rglob("training_args.bin"))
    printed("plan", *request)


def test_a_tilde_in_every_command(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "published"))
    printed("inspect", "~/one")
    printed("verify", "~/one")
    printed("pack", "--base", "~/base", "--task", "one=~/one", *EXACT, "--out", "store")
    printed("unpack", "store", "one", "out", "--base", "~/base", "--files-from", "~/two")
    assert_holds(Path("out"), models["one"])
    printed("inspect", "store")
