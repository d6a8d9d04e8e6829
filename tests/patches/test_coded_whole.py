"""Tensors that are added or replaced are coded as changed ones are, where there is a coder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, apply_patch, inspect, make_patch
from tallies.patches import layout
from tests.reference import patches as reference
from tests.support.checkpoints import DTYPES, Array, Model, assert_holds, write
from tests.support.patches import bits, pair, reshaped, tensor

zstandard = pytest.importorskip("zstandard", reason="the extra zstd is not installed")

VALUES = ("xor", "difference", "new")
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def decoded(stored: Array, sizes: Array, unit: int, n: int) -> Array:
    """Return the elements of a coded entry, by the words of docs/patches.md alone."""
    blocks = [np.empty(0, f"u{unit}")]
    at = 0
    for block, first in enumerate(range(0, n, 65_536)):
        n_own = min(65_536, n - first)
        planes = []
        for size in map(int, sizes[block * unit :][:unit]):
            frame = stored[at : at + size].tobytes()
            if size < n_own:
                frame = zstandard.ZstdDecompressor().decompress(frame)
            planes.append(np.frombuffer(frame, np.uint8))
            at += size
        blocks.append(np.stack(planes, 1).reshape(-1).view(f"u{unit}"))
    return np.concatenate(blocks)


def decoded_patch(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the manifest and the entries of a coded patch as the reference reads uncoded ones."""
    manifest, entries = STORED(path)
    found = {name: one for name, one in entries.items() if f"{name}.frames" not in entries}
    for record in manifest["tensors"]:
        whole = record["change"] in ("added", "replaced")
        unit = DTYPES[record["dtype"]].itemsize
        for number, part in enumerate(record.get("parts", [])):

            def entry(
                kind: str, unit: int, n: int, of: str = f"{record['name']}::{number}"
            ) -> None:
                name = f"{of}.{kind}"
                if name in entries:
                    found[name] = decoded(entries[name], entries[f"{name}.frames"], unit, n)

            of = f"{record['name']}::{number}"
            entry("blocks", 4, 2 * -(-part["n_elements"] // 65_536), of)
            if f"{of}.positions" in entries:
                entry("positions", 1, int(found[f"{of}.blocks"][-2]), of)
            entry("values", unit, part["n_elements" if part["layout"] == "dense" else "n_changed"])
            if f"{of}.values" not in found:
                continue
            values = found[f"{of}.values"]
            if manifest["values"] == "difference" and not whole:
                values = (values >> 1) ^ -(values & 1)
            elif (whole or manifest["values"] == "new") and record["dtype"] in FLOATS:
                values = (values >> 1) | (values << (8 * unit - 1))
            found[f"{of}.values"] = values
    return manifest, found


STORED = reference.read


def test_a_stranger_decodes_what_is_coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "read", decoded_patch)
    old, _ = pair()
    new = reshaped(pair()[1])
    new["half"] = np.linspace(-1, 1, 70_000, dtype=np.float16)
    new["words"] = np.arange(70_000, dtype=np.int64)
    new["bytes"] = tensor(np.random.default_rng(1), "F8_E4M3", (11, 13))
    for values in VALUES:
        made = make_patch(old, new, tmp_path / values, values=values, coder="zstd")
        assert made.tensors["added"] == 4
        found = reference.apply(bits(old), tmp_path / values)
        assert found.keys() == new.keys()
        for name, one in new.items():
            assert found[name].tobytes() == one.tobytes(), (values, name)


@pytest.fixture
def models(tmp_path: Path) -> tuple[Model, Model]:
    old = {"a": np.zeros(100, np.float32), "b": np.arange(50_000, dtype=np.float32)}
    new = {
        "a": np.zeros((10, 11), np.float32),
        "b": old["b"].astype(np.float16),
        "c": np.linspace(0, 1, 300_000, dtype=np.float32),
        "d": np.empty((0, 4), np.int64),
    }
    write(tmp_path / "old", old)
    write(tmp_path / "new", new, n_files=2)
    return old, new


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("out", ["patch", "patch.safetensors", None])
def test_they_take_fewer_bytes_and_come_back(
    models: tuple[Model, Model], tmp_path: Path, values: str, out: str | None
) -> None:
    place = None if out is None else tmp_path / out
    sides = (tmp_path / "old", tmp_path / "new")
    made = make_patch(*sides, place, values=values, coder="zstd")
    again = make_patch(*sides, values=values, coder="zstd", threads=1, max_memory="64MiB")
    plain = make_patch(*sides, values=values)
    assert again.data is not None
    assert made.data in (None, again.data)
    assert made.n_bytes < 0.75 * plain.n_bytes
    assert made.n_changed == plain.n_changed == 0
    assert made.tensors == {"added": 2, "replaced": 2}
    assert made.layouts == {}
    patch: Any = again.data if place is None else place
    apply_patch(patch, sides[0], tmp_path / "made")
    assert_holds(tmp_path / "made", models[1])
    if place is not None:
        assert inspect(place)["tensors"]["c"]["n_bytes"] < models[1]["c"].nbytes


def test_parts_are_decoded_one_by_one(
    models: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PART_BYTES", 1 << 18)
    sides = (tmp_path / "old", tmp_path / "new")
    make_patch(*sides, tmp_path / "patch", coder="zstd")
    manifest = json.loads((tmp_path / "patch/patch.json").read_text())
    assert manifest["version"] == 2
    (c,) = [one for one in manifest["tensors"] if one["name"] == "c"]
    assert [part["first"] for part in c["parts"]] == [0, 65_536, 131_072, 196_608, 262_144]
    assert {part["layout"] for part in c["parts"]} == {"dense"}
    apply_patch(tmp_path / "patch", sides[0], tmp_path / "made")
    assert_holds(tmp_path / "made", models[1])


@pytest.mark.parametrize("values", VALUES)
def test_later_links_change_them(models: tuple[Model, Model], tmp_path: Path, values: str) -> None:
    old, new = models
    last = {**new, "c": new["c"].copy()}
    last["c"][[5, 70_000, 299_999]] += 1
    middle = {**new, "b": new["b"].astype(np.float32)}
    chain = [(old, new), (new, last), (last, middle), (middle, last)]
    patches = [make_patch(*one, values=values, coder="zstd").data for one in chain]
    apply_patch([one for one in patches if one], tmp_path / "old", tmp_path / "made")
    assert_holds(tmp_path / "made", last)
    with pytest.raises(InputError, match="is replaced, and in place only"):
        apply_patch(patches[0] or b"", tmp_path / "old")
    with pytest.raises(InputError, match=r"taken back|lead one way"):
        apply_patch(patches[0] or b"", tmp_path / "new", tmp_path / "back", undo=True)


def test_versions(models: tuple[Model, Model], tmp_path: Path) -> None:
    old, new = models
    places = {"none": 1, "zstd": 2}
    for coder, version in places.items():
        make_patch(old, new, tmp_path / coder, coder=coder)
        found = json.loads((tmp_path / coder / "patch.json").read_text())
        assert found["version"] == version
    make_patch(old, {**old, "a": old["a"] + 1}, tmp_path / "changed", coder="zstd")
    assert json.loads((tmp_path / "changed/patch.json").read_text())["version"] == 1
    place = tmp_path / "zstd/patch.json"
    found = json.loads(place.read_text())
    for version, message in (
        (3, "format version 3, .* reads versions 1 to 2; upgrade"),
        (1, "is damaged: its checksum"),
    ):
        place.write_text(json.dumps({**found, "version": version}))
        with pytest.raises(InputError, match=message):
            apply_patch(tmp_path / "zstd", tmp_path / "old", tmp_path / "made")


def signed(manifest: dict[str, Any]) -> str:
    """Return a manifest with the checksum of what it says now."""
    import hashlib

    rest = {key: one for key, one in manifest.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True).encode()
    return json.dumps({**rest, "checksum": hashlib.blake2b(text, digest_size=8).hexdigest()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "has parts of whole tensors, .* which version 1 lacks"),
        ({"layout": "gaps"}, "a tensor that is added is 'dense'"),
        ({"n_changed": 5}, "a tensor that is added is 'dense'"),
        ({"n_elements": 299_999}, "its parts are not those of its dtype and shape"),
    ],
)
def test_manifests_that_contradict_themselves(
    models: tuple[Model, Model], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    make_patch(*models, tmp_path / "patch", coder="zstd")
    place = tmp_path / "patch/patch.json"
    found = json.loads(place.read_text())
    (c,) = [one for one in found["tensors"] if one["name"] == "c"]
    if "version" in change:
        found |= change
    else:
        c["parts"][0] |= change
    place.write_text(signed(found))
    with pytest.raises(InputError, match=message):
        apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_damage_is_found(models: tuple[Model, Model], tmp_path: Path) -> None:
    make_patch(*models, tmp_path / "patch", coder="zstd")
    file = tmp_path / "patch/changes-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-20_000] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "made")
    assert not (tmp_path / "made").exists()
