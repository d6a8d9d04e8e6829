"""Patches hold exactly what differs, as docs/patches.md says; NumPy alone makes the new model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

import tallies
from tallies import InputError, make_patch
from tests.reference import patches as reference
from tests.support.checkpoints import Array, Model, assert_holds, write
from tests.support.command import tree
from tests.support.patches import altered, bits, pair, reshaped, tensor

VALUES = ("xor", "difference", "new")


def assert_makes(patch: Path, old: Model, new: Model) -> None:
    found = reference.apply(bits(old), patch)
    assert found.keys() == new.keys()
    for name, one in new.items():
        assert found[name].tobytes() == one.tobytes(), name


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("out", ["patch", "patch.safetensors", None])
@pytest.mark.parametrize("kind", ["same tensors", "other tensors"])
def test_numpy_makes_the_new_model(tmp_path: Path, values: str, out: str | None, kind: str) -> None:
    old, new = pair()
    if kind == "other tensors":
        new = reshaped(new)
    write(tmp_path / "old", old, n_files=2)
    write(tmp_path / "new", new, n_files=3)
    before = tree(tmp_path)
    place = None if out is None else tmp_path / out
    report = make_patch(tmp_path / "old", tmp_path / "new", place, values=values)
    if report.data is not None:
        place = tmp_path / "bytes.safetensors"
        place.write_bytes(report.data)
    assert place is not None
    assert_makes(place, old, new)
    assert before.items() <= tree(tmp_path).items()
    kinds = ("added", "changed", "none", "removed", "replaced")
    expected = dict(zip(kinds, (1, 6, 1, 1, 2), strict=True))
    assert report.tensors == (expected if kind == "other tensors" else {"changed": 6, "none": 4})


@given(
    seed=st.integers(0, 2**32),
    n=st.sampled_from([0, 1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 140_000]),
    share=st.sampled_from([0.0, 1e-5, 1e-3, 0.02, 0.12, 0.3, 0.99, 1.0]),
    dtype=st.sampled_from(["BF16", "F8_E5M2", "F32", "I64", "BOOL"]),
    values=st.sampled_from(VALUES),
)
def test_any_dtype_size_and_share(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    n: int,
    share: float,
    dtype: str,
    values: str,
) -> None:
    rng = np.random.default_rng(seed)
    old = {"x": tensor(rng, dtype, (n,))}
    new = {"x": altered(rng, old["x"], share)}
    place = tmp_path_factory.mktemp("patch") / "patch.safetensors"
    report = make_patch(old, new, values=values)
    assert report.data is not None
    place.write_bytes(report.data)
    assert_makes(place, old, new)
    a, b = bits(old)["x"], bits(new)["x"]
    changed = np.flatnonzero(a != b)
    assert report.n_changed == len(changed)
    manifest, entries = reference.read(place)
    parts = manifest["tensors"][0].get("parts", [])
    stored = sum(one.nbytes for one in entries.values())
    if len(changed) == 0:
        assert (parts, stored) == ([], 0)
    else:
        least = smallest(changed, n, a.itemsize)
        assert parts[0]["layout"] in least
        # Each of three entries may be filled up to eight bytes.
        assert least[parts[0]["layout"]] <= stored < least[parts[0]["layout"]] + 24
        assert least[parts[0]["layout"]] == min(least.values())


def smallest(changed: Array, n: int, unit: int) -> dict[str, int]:
    """The bytes of each layout."""
    gaps = 0
    for block in range(-(-n // 65_536)):
        first = 65_536 * block
        own = changed[(changed >= first) & (changed < first + 65_536)]
        gaps += int(np.sum(1 + (np.diff(own, prepend=first - 1) - 1) // 255))
    ends, values = 8 * -(-n // 65_536), unit * len(changed)
    return {"gaps": gaps + values + ends, "mask": -(-n // 8) + values + ends, "dense": unit * n}


@pytest.mark.parametrize("values", VALUES)
def test_parts_of_large_tensors(tmp_path: Path, values: str) -> None:
    old, new = pair(1, n=150_000)
    with mock.patch("tallies.patches.layout.PART_BYTES", 1 << 17):
        report = make_patch(old, new, tmp_path / "patch", values=values)
        assert_makes(tmp_path / "patch", old, new)
        write(tmp_path / "old", old)
        tallies.apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "made")
    assert sum(report.layouts.values()) > 20
    assert_holds(tmp_path / "made", new)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_state_dicts_make_the_bytes_of_checkpoints(tmp_path: Path, framework: str) -> None:
    old, new = pair()
    write(tmp_path / "old", old)
    write(tmp_path / "new", new)
    expected = make_patch(tmp_path / "old", tmp_path / "new").data
    sides: list[Any] = [old, new]
    if framework == "torch":
        sides = [load_torch(tmp_path / name / "model.safetensors") for name in ("old", "new")]
    report = make_patch(*sides)
    assert report.data == expected
    assert (report.old, report.new, report.path) == ("old", "new", None)
    assert make_patch(tmp_path / "old", sides[1]).data == expected


def test_strided_arrays_are_read_in_order() -> None:
    old = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}
    new = {"x": np.asfortranarray(old["x"] + 1)}
    assert make_patch(old, new).data == make_patch(old, {"x": new["x"].copy("C")}).data


def test_same_bytes_whatever_threads_and_memory(tmp_path: Path) -> None:
    old, new = pair(2, n=400_000)
    write(tmp_path / "old", old, n_files=3)
    found = set()
    for threads in (1, 2, 5):
        for memory in ("64KiB", "1GiB"):
            report = make_patch(tmp_path / "old", new, threads=threads, max_memory=memory)
            found.add(report.data)
    assert len(found) == 1


def test_the_stock_library_reads_aligned_entries(tmp_path: Path) -> None:
    old, new = pair(3)
    for out in ("patch", "patch.safetensors"):
        make_patch(old, reshaped(new), tmp_path / out)
    for file in (tmp_path / "patch/changes-00001.safetensors", tmp_path / "patch.safetensors"):
        assert load_file(file).keys() == load_torch(file).keys()
        data = file.read_bytes()
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        head.pop("__metadata__", None)
        sizes = {"U8": 1, "U16": 2, "U32": 4, "U64": 8, "F16": 2, "BF16": 2, "F32": 4}
        assert all(one["data_offsets"][0] % sizes[one["dtype"]] == 0 for one in head.values())


def test_fingerprints_are_those_of_the_models(tmp_path: Path) -> None:
    old, new = pair()
    write(tmp_path / "old", old)
    write(tmp_path / "new", new, n_files=2)
    report = make_patch(tmp_path / "old", tmp_path / "new")
    expected = [tallies.inspect(tmp_path / name)["fingerprint"] for name in ("old", "new")]
    assert [report.old_fingerprint, report.new_fingerprint] == expected


def test_small_files_that_differ_are_kept(tmp_path: Path) -> None:
    old, new = pair()
    for name, model in (("old", old), ("new", new)):
        write(tmp_path / name, model, config={"name": name})
        (tmp_path / name / "tokenizer.json").write_text("{}")
        (tmp_path / name / f"only-{name}.txt").write_text(name)
    report = make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    assert report.small_files == {
        "config.json": "changed",
        "only-new.txt": "added",
        "only-old.txt": "removed",
    }
    for folder, only in (("files", "only-new.txt"), ("old-files", "only-old.txt")):
        kept = {path.name for path in (tmp_path / "patch" / folder).iterdir()}
        assert kept == {"config.json", only}
    make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch", values="new", overwrite=True)
    assert not (tmp_path / "patch/old-files").exists()


def test_an_earlier_patch_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    old, new = pair()
    for out in ("patch", "patch.safetensors"):
        make_patch(old, new, tmp_path / out)
        with pytest.raises(InputError, match="--overwrite"):
            make_patch(old, new, tmp_path / out)
        make_patch(new, old, tmp_path / out, overwrite=True)
        assert_makes(tmp_path / out, new, old)
    (tmp_path / "patch/mine.txt").touch()
    with pytest.raises(InputError, match="tallies did not write"):
        make_patch(old, new, tmp_path / "patch", overwrite=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": "sum"}, "values: found 'sum', expected xor, difference or new"),
        ({"coder": "lz4"}, "coder: found 'lz4', expected none or zstd"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    old, new = pair()
    with pytest.raises(InputError, match=words):
        make_patch(old, new, **options)


def test_models_with_adapters_and_odd_dicts_are_refused(tmp_path: Path) -> None:
    old, _ = pair()
    write(tmp_path / "old", old)
    with pytest.raises(InputError, match="model with adapters"):
        make_patch(f"{tmp_path}/old+{tmp_path}/old", old)
    with pytest.raises(InputError, match="found the key 3"):
        make_patch(old, {3: old["wide"]})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="'x'"):
        make_patch(old, {"x": "text"})
    make_patch(old, old, tmp_path / "patch")
    with pytest.raises(InputError, match=r"is a patch, expected a model; apply it first"):
        make_patch(tmp_path / "patch", old)
