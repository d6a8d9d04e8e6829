"""Plans of models of the hub: everything that headers say, and nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallies import InputError, plan
from tests.support.checkpoints import Model, write
from tests.support.command_line import printed
from tests.support.hub import Body, Hub

REQUEST = ("--method", "ties", "--base", "org/base", "--model", "org/one", "--model", "org/two")


def recipe(*names: str, base: str | None = None, **keys: object) -> dict[str, object]:
    models = [{"model": name} for name in names]
    return {"merge_method": "linear", "models": models, **keys} | (
        {"base_model": base, "merge_method": "ties"} if base else {}
    )


def test_a_plan_of_three_models(models: dict[str, Model], hub: Hub, home: Path) -> None:
    said = json.loads(printed("plan", *REQUEST, "--json"))
    for name, tensor in models["base"].items():
        assert said["tensors"][name]["shape"] == list(tensor.shape)
        assert said["tensors"][name]["dtype"] == "F32"
        assert said["tensors"][name]["action"] == "merge"
    commits = {name: hub.models[f"org/{name}"].refs["main"] for name in models}
    assert said["recipe"]["base_model"] == f"org/base@{commits['base']}"
    texts = [entry["model"] for entry in said["recipe"]["models"]]
    assert texts == [f"org/one@{commits['one']}", f"org/two@{commits['two']}"]
    sizes = {name: sum(tensor.nbytes for tensor in models[name].values()) for name in models}
    for name, download in zip(("base", "one", "two"), said["downloads"], strict=True):
        assert download["model"] == f"org/{name}@{commits[name]}"
        assert download["files"] == 3
        assert sizes[name] < download["n_bytes"] == download["n_bytes_missing"]
    assert hub.asked("onnx") == hub.asked(".bin") == hub.asked("tokenizer.json") == 0
    assert hub.n_bytes < 64 << 10
    assert not list(home.rglob("*.safetensors"))


def test_a_plan_says_what_the_cache_has(models: dict[str, Model], hub: Hub) -> None:
    printed("merge", *REQUEST, "out", "--quiet")
    hub.model("org/one", {**hub.models["org/one"].commits[hub.models["org/one"].refs["v1"]]})
    assert "downloads" not in printed("plan", *REQUEST)
    files = hub.models["org/one"].commits[hub.models["org/one"].refs["v1"]]
    hub.model("org/one", {**files, "notes.txt": b"a new file"})
    text = printed("plan", *REQUEST)
    assert "downloads  10 bytes of org/one@" in text
    assert "are in the cache" in text


def test_a_header_longer_than_the_first_request(hub: Hub) -> None:
    entries = {
        f"a.long.name.of.a.tensor.{i:05}": {
            "dtype": "BF16",
            "shape": [1024, 1024],
            "data_offsets": [i << 21, (i + 1) << 21],
        }
        for i in range(2000)
    }
    text = json.dumps(entries).encode()
    start = len(text).to_bytes(8, "little") + text
    for name in ("a/one", "a/two"):
        hub.model(name, {"model.safetensors": Body(start, len(start) + (2000 << 21))})
    made = plan(recipe("a/one", "a/two"))
    assert list(made.match.merged) == sorted(entries)
    assert made.bytes_downloaded == 2 * (len(start) + (2000 << 21))
    assert 2 * len(start) < hub.n_bytes < 2 * len(start) + (64 << 10)


def test_a_server_that_knows_no_ranges(models: dict[str, Model], hub: Hub) -> None:
    hub.faults += [("/cdn/", "no ranges", None)] * 3
    made = plan(recipe("org/one", "org/two"))
    assert list(made.match.merged) == sorted(models["one"])


def test_models_that_do_not_fit_are_refused_before_any_download(
    models: dict[str, Model], hub: Hub, home: Path, tmp_path: Path
) -> None:
    other = dict(models["one"])
    other["norm.weight"] = other["norm.weight"][:16]
    hub.directory("org/other", write(tmp_path / "published" / "other", other))
    with pytest.raises(InputError) as caught:
        plan(recipe("org/one", "org/other", base="org/base"))
    commit = hub.models["org/other"].refs["main"]
    assert f"org/other@{commit[:10]}: tensor 'norm.weight' has shape [16]" in str(caught.value)
    assert "tallies-hub-" not in str(caught.value)
    assert not list(home.rglob("*.safetensors"))


def test_local_and_hub_models_together(models: dict[str, Model], tmp_path: Path) -> None:
    local = write(tmp_path / "here" / "org" / "one", models["one"])
    made = plan(recipe("org/one", "org/two", base="org/base"))
    assert made.experts[0].path == local
    assert [one.listing.model.repo for one in made.downloads] == ["org/base", "org/two"]


def test_models_of_other_formats_say_that_they_need_a_download(hub: Hub, tmp_path: Path) -> None:
    hub.model("org/old", {"pytorch_model.bin": b"zip" * 5000, "config.json": b"{}"})
    with pytest.raises(InputError) as caught:
        plan(recipe("org/old", "org/old@main"))
    for part in ("org/old@", "no safetensors", "15.00 kB", "hf download org/old"):
        assert part in str(caught.value)
