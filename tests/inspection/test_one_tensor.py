"""``tallies inspect PATH TENSOR``: one tensor of a checkpoint, a store or a patch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import tallies
from tests.support.checkpoints import FILE, write
from tests.support.command_line import printed

RNG = np.random.default_rng(5)
BASE = {
    "w": RNG.normal(size=(24, 40)).astype(np.float32),
    "norm": np.ones(8, np.float16),
    "ids": np.arange(3),
}
TUNED = {**BASE, "w": BASE["w"] + np.float32(0.1)}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, model in (("base", BASE), ("a", TUNED), ("b", {**TUNED, "w": 2 * BASE["w"]})):
        write(tmp_path / name, model)
    monkeypatch.chdir(tmp_path)


def looked_at(path: str, name: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed("inspect", path, name, "--json", *options))
    return found


def test_the_place_is_that_of_the_bytes() -> None:
    found = looked_at("a", "w")
    assert found == tallies.inspect("a", tensor="w")
    assert (found["kind"], found["name"], found["file"]) == ("tensor", "w", FILE)
    data = Path("a", found["file"]).read_bytes()
    assert data[found["offset"] :][: found["n_bytes"]] == TUNED["w"].tobytes()
    whole = tallies.inspect("a")["tensors"]["w"]
    assert {key: found[key] for key in whole} == whole


def test_the_numbers_are_those_of_the_values() -> None:
    w = BASE["w"].astype(np.float64)
    numbers = looked_at("base", "w")["values"]
    assert (numbers["min"], numbers["max"]) == (w.min(), w.max())
    assert np.allclose([numbers["mean"], numbers["std"]], [w.mean(), w.std()], rtol=1e-12)
    assert looked_at("base", "ids")["values"] is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_many_pieces_are_one_tensor(dtype: type) -> None:
    values = (100 + RNG.normal(size=5_000_000)).astype(dtype)
    values[:7], values[10:13], values[-2:] = 0, np.nan, [np.inf, -np.inf]
    write(Path("large"), {"w": values})
    numbers = tallies.inspect("large", tensor="w")["values"]
    finite = values[np.isfinite(values)].astype(np.float32).astype(np.float64)
    assert [numbers[key] for key in ("n_zeros", "n_nan", "n_infinite")] == [7, 3, 2]
    assert (numbers["min"], numbers["max"]) == (finite.min(), finite.max())
    assert np.allclose([numbers["mean"], numbers["std"]], [finite.mean(), finite.std()], rtol=1e-9)


@pytest.mark.parametrize("values", [[], [np.nan, np.inf]])
def test_without_finite_values_there_are_no_means(values: list[float]) -> None:
    write(Path("odd"), {"w": np.array(values, np.float32)})
    numbers = tallies.inspect("odd", tensor="w")["values"]
    assert {numbers[key] for key in ("min", "max", "mean", "std")} == {None}
    assert "mean" not in printed("inspect", "odd", "w")


def test_headers_alone_have_no_numbers() -> None:
    found = looked_at("a", "w", "--no-fingerprints")
    assert found["values"] is found["fingerprint"] is None


def test_a_page_of_a_checkpoint() -> None:
    text = printed("inspect", "a", "w")
    for said in ("F32 [24, 40]", "960 elements", "3.84 kB", FILE, "from byte", "0 NaN", "mean "):
        assert said in text
    assert looked_at("a", "w")["fingerprint"] in text
    assert max(map(len, text[text.index("form ") :].splitlines())) <= 80


def test_a_store_shows_masks_and_what_is_shared() -> None:
    tallies.pack("base", {"a": "a", "b": "b"}, "store")
    found = looked_at("store", "w")
    assert (found["dtype"], found["shape"], found["stored"]) == ("F32", [24, 40], "masked")
    assert found["shared"]["w"]["n_bytes"] == 3840
    counts = tallies.store.consensus("store")["tensors"]["w"]
    shares = [task["mask_share"] for task in found["tasks"].values()]
    assert np.isclose(sum(shares) * 960, counts[1] + 2 * counts[2])
    for task in found["tasks"].values():
        (entry,) = task["entries"].values()
        assert (entry["dtype"], entry["n_bytes"], task["n_bytes"]) == ("U8", 120, 120)
        with safe_open(Path("store", entry["file"]), "numpy") as file:
            mask = file.get_tensor("w")
        at = entry["offset"]
        assert Path("store", entry["file"]).read_bytes()[at : at + 120] == mask.tobytes()
    text = printed("inspect", "store", "w")
    assert f"its mask has {shares[0]:.2%}" in text and "as in the base" not in text
    assert printed("inspect", "store", "norm").count("as in the base") == 2


@pytest.mark.parametrize("codec", ["sparse", "lossless", "bitdelta"])
def test_all_entries_of_a_codec_are_there(codec: str) -> None:
    tallies.pack("base", {"a": "a", "b": "b"}, "store", codec=codec)
    found = looked_at("store", "w")
    listed = [one for task in found["tasks"].values() for one in task["entries"].values()]
    assert len(listed) > 2 and not found["shared"]
    assert (found["tasks"]["a"]["mask_share"] is not None) == (codec == "sparse")


def test_a_task_may_have_a_form_of_its_own() -> None:
    pytest.importorskip("zstandard", reason="lossless stores need zstandard")
    write(Path("c"), {**BASE, "norm": np.ones(9, np.float16), "new": np.zeros(4, np.float32)})
    tallies.pack("base", {"a": "a", "c": "c"}, "store", codec="lossless")
    found = looked_at("store", "new")
    assert found["dtype"] is None and found["tasks"]["a"]["lacking"]
    assert found["tasks"]["c"]["form"] == {"dtype": "F32", "shape": [4]}
    assert "a: lacks it" in printed("inspect", "store", "new")
    assert looked_at("store", "norm")["tasks"]["c"]["form"]["shape"] == [9]


def test_a_patch() -> None:
    tallies.make_patch("base", "a", "patch")
    found = looked_at("patch", "w")
    assert found["n_changed"] > 0 and found["change"] in printed("inspect", "patch", "w")


@pytest.mark.parametrize("path", ["a", "store", "patch"])
def test_an_unknown_name_has_its_neighbours(path: str) -> None:
    tallies.pack("base", {"a": "a"}, "store")
    tallies.make_patch("base", "a", "patch")
    with pytest.raises(tallies.InputError, match="'nrom' is not known"):
        tallies.inspect(path, tensor="nrom")
