"""Damaged and lying patches are refused, and nothing is written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, TalliesError, apply_patch, make_patch
from tests.support.checkpoints import Array, Model, write
from tests.support.command import tree
from tests.support.patches import forge, pair

Manifest = dict[str, Any]
Entries = dict[str, Array]


@pytest.fixture
def models(tmp_path: Path) -> tuple[Model, Model]:
    old, new = pair()
    write(tmp_path / "old", old)
    return old, new


def refused(patch: Path, tmp_path: Path) -> str:
    """The message, elsewhere and in place."""
    before = tree(tmp_path)
    messages = set()
    for out in (tmp_path / "made", None):
        with pytest.raises(TalliesError) as raised:
            apply_patch(patch, tmp_path / "old", out)
        assert isinstance(raised.value, InputError), raised.value
        assert tree(tmp_path) == before
        messages.add(str(raised.value))
    return " | ".join(messages)


@pytest.mark.parametrize("out", ["patch", "patch.safetensors"])
def test_any_byte_that_changes_is_noticed(
    models: tuple[Model, Model], tmp_path: Path, out: str
) -> None:
    make_patch(*models, tmp_path / out)
    files = [tmp_path / out] if out.endswith("s") else sorted((tmp_path / out).iterdir())
    rng = np.random.default_rng(0)
    for file in files:
        good = file.read_bytes()
        for at in rng.integers(0, len(good), 40):
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(0, 7))
            if json_equal(good, bad):
                continue
            file.write_bytes(bad)
            refused(tmp_path / out, tmp_path)
        file.write_bytes(good[: len(good) // 2])
        refused(tmp_path / out, tmp_path)
        file.write_bytes(good)


def json_equal(good: bytes, bad: bytes) -> bool:
    """Tell if a changed byte is white space of a header or of patch.json, or its writer's name."""

    def parsed(data: bytes) -> object:
        text = data if data[:1] == b"{" else data[8 : 8 + int.from_bytes(data[:8], "little")]
        return json.loads(text), data[8 + int.from_bytes(data[:8], "little") :]

    try:
        return parsed(good) == parsed(bytes(bad))
    except ValueError:
        return False


def first_part(layout: str) -> Callable[[Manifest], tuple[str, dict[str, Any]]]:
    def find(manifest: Manifest) -> tuple[str, dict[str, Any]]:
        for tensor in manifest["tensors"]:
            for number, part in enumerate(tensor.get("parts", ())):
                if part["layout"] == layout:
                    return f"{tensor['name']}::{number}", part
        raise AssertionError(layout)

    return find


def farther(manifest: Manifest, entries: Entries) -> None:
    """The first gap leads beyond the end of the block, by escapes in the place of gaps."""
    name, _ = first_part("gaps")(manifest)
    codes = entries[f"{name}.positions"].copy()
    end = int(entries[f"{name}.blocks"].ravel()[0])
    codes[: end - 1] = 254
    entries[f"{name}.positions"] = codes


def more_ends(manifest: Manifest, entries: Entries) -> None:
    name, _ = first_part("gaps")(manifest)
    blocks = entries[f"{name}.blocks"].copy()
    blocks[-2] += 1
    entries[f"{name}.blocks"] = blocks


def falling_ends(manifest: Manifest, entries: Entries) -> None:
    name = "wide::0"
    blocks = entries[f"{name}.blocks"].copy()
    blocks[2], blocks[0] = blocks[0], blocks[2]
    entries[f"{name}.blocks"] = blocks


def huge_ends(manifest: Manifest, entries: Entries) -> None:
    name, _ = first_part("gaps")(manifest)
    entries[f"{name}.blocks"] = np.full_like(entries[f"{name}.blocks"], 2**32 - 1)


def other_counts(manifest: Manifest, entries: Entries) -> None:
    name, _part = first_part("mask")(manifest)
    codes = entries[f"{name}.positions"].copy()
    codes[0] ^= 255
    entries[f"{name}.positions"] = codes


def bits_beyond(manifest: Manifest, entries: Entries) -> None:
    name, part = first_part("mask")(manifest)
    codes = entries[f"{name}.positions"].copy()
    last = (part["n_elements"] - 1) // 8
    codes[last] |= 0x80
    entries[f"{name}.positions"] = codes


def filled_up(manifest: Manifest, entries: Entries) -> None:
    for name in entries:
        if name.endswith(".values"):
            one = entries[name].copy()
            one[-1] = 1
            entries[name] = one


def fewer(manifest: Manifest, entries: Entries) -> None:
    _name, part = first_part("gaps")(manifest)
    part["n_changed"] -= 1


def more_than_all(manifest: Manifest, entries: Entries) -> None:
    _name, part = first_part("gaps")(manifest)
    part["n_changed"] = part["n_elements"] + 1


def other_elements(manifest: Manifest, entries: Entries) -> None:
    _, part = first_part("gaps")(manifest)
    part["n_elements"] += 1


def other_layout(manifest: Manifest, entries: Entries) -> None:
    _, part = first_part("gaps")(manifest)
    part["layout"] = "mask"


def other_values(manifest: Manifest, entries: Entries) -> None:
    name, _ = first_part("gaps")(manifest)
    entries[f"{name}.values"] = entries[f"{name}.values"] ^ entries[f"{name}.values"].dtype.type(1)


def no_entry(manifest: Manifest, entries: Entries) -> None:
    name, _ = first_part("gaps")(manifest)
    del entries[f"{name}.values"]


def no_record(manifest: Manifest, entries: Entries) -> None:
    name, _ = first_part("gaps")(manifest)
    del entries[f"{name}.values"], manifest["stored"][f"{name}.values"]


def other_whole(manifest: Manifest, entries: Entries) -> None:
    manifest["new"] = "0" * 32


def newer(manifest: Manifest, entries: Entries) -> None:
    manifest["version"] = 3


def unknown_key(manifest: Manifest, entries: Entries) -> None:
    manifest["more"] = 1


def hidden_file(manifest: Manifest, entries: Entries) -> None:
    one = {"change": "added", "old": None, "new": "0" * 16, "n_bytes": 1, "n_old_bytes": 0}
    manifest["small_files"]["../../.bashrc"] = one


def weights_as_small_file(manifest: Manifest, entries: Entries) -> None:
    one = {"change": "added", "old": None, "new": "0" * 16, "n_bytes": 1, "n_old_bytes": 0}
    manifest["small_files"]["model.safetensors"] = one


LIES: list[tuple[Callable[[Manifest, Entries], None], str]] = [
    (farther, "position|ends|count|damaged"),
    (more_ends, "ends|count|bytes|damaged"),
    (falling_ends, "end|count|damaged"),
    (huge_ends, "ends at 4294967295 bytes of positions, too many for"),
    (other_counts, "count|damaged|fingerprint"),
    (bits_beyond, "beyond|count|damaged|fingerprint"),
    (filled_up, "zeros up to"),
    (fewer, "expected|zeros"),
    (more_than_all, "elements changed, in the layout"),
    (other_elements, "its parts are not those of its dtype and shape"),
    (other_layout, "bytes, expected|count|damaged"),
    (other_values, "would have fingerprint"),
    (no_entry, "lacks entry"),
    (no_record, "lacks the entry"),
    (other_whole, "the fingerprint of the new model is"),
    (newer, "has format version 3, .* upgrade tallies"),
    (unknown_key, "more: found 1"),
    (hidden_file, "small file '../../.bashrc'"),
    (weights_as_small_file, "small file 'model.safetensors'"),
]


@pytest.mark.parametrize(("lie", "words"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_lies_with_right_checksums(
    models: tuple[Model, Model],
    tmp_path: Path,
    lie: Callable[[Manifest, Entries], None],
    words: str,
) -> None:
    make_patch(*models, tmp_path / "patch.safetensors")
    forge(tmp_path / "patch.safetensors", lie)
    assert re.search(words, refused(tmp_path / "patch.safetensors", tmp_path))


def test_files_that_are_missing_or_strange(models: tuple[Model, Model], tmp_path: Path) -> None:
    make_patch(*models, tmp_path / "patch")
    os.rename(tmp_path / "patch/changes-00001.safetensors", tmp_path / "gone")
    assert "is missing from the patch" in refused(tmp_path / "patch", tmp_path)
    (tmp_path / "patch/patch.json").write_text('{"format": "another"}')
    assert "this is no patch" in refused(tmp_path / "patch", tmp_path)
    (tmp_path / "patch/patch.json").write_text("[1]")
    assert "expected a JSON object" in refused(tmp_path / "patch", tmp_path)


def test_damaged_small_files(tmp_path: Path) -> None:
    old, new = pair()
    write(tmp_path / "old", old, config={"a": 1})
    write(tmp_path / "new", new, config={"a": 2})
    make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    (tmp_path / "patch/files/config.json").write_text('{"a": 3}')
    assert "config.json: is damaged: its checksum is" in refused(tmp_path / "patch", tmp_path)
    make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch", overwrite=True)
    (tmp_path / "patch/old-files/config.json").write_text('{"a": 3}')
    with pytest.raises(InputError, match=r"old-files/config\.json: is damaged"):
        apply_patch(tmp_path / "patch", tmp_path / "new", tmp_path / "made", undo=True)
