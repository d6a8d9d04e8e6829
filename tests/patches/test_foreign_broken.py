"""Broken updates of other tools: what lies, is missing or is no update at all is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tallies import InputError, make_patch
from tallies.patches.foreign import delta_versions, trl, vllm
from tests.support.foreign_updates import State, delta_version, trl_file, vllm_patches

INDEX = "model.safetensors.index.json"


def models() -> tuple[State, State]:
    torch.manual_seed(0)
    old = {"embed": torch.randn(30, 20).bfloat16(), "norm": torch.randn(33).bfloat16()}
    return old, {name: tensor * 1.5 for name, tensor in old.items()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    save_file(models()[0], tmp_path / "base/model.safetensors")
    return tmp_path / "base"


def rewritten(file: Path, change: Callable[[State, dict[str, str]], object]) -> Path:
    """Change the tensors and the metadata of a safetensors file."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, file, metadata=metadata)
    return file


TRL: list[tuple[str, Callable[[State, dict[str, str]], object], str]] = [
    ("gap_delta", lambda t, m: m.pop("version"), "has version None, expected '1'"),
    ("gap_delta", lambda t, m: m.pop("sparse"), "found sparse None, expected 'True' or 'False'"),
    ("gap_delta", lambda t, m: m.pop("encoding"), "are U16 in the encoding 'raw', expected I32"),
    (
        "gap_delta",
        lambda t, m: (t.pop("norm.idx"), t.pop("norm.val")),
        "has 600 values, and its header says '633'; write or copy the update again",
    ),
    (
        "gap_delta",
        lambda t, m: t.update({"norm.idx": torch.full((33,), 9, dtype=torch.uint16)}),
        "'norm': has position 329, expected one from 0 to 32",
    ),
    ("indices", lambda t, m: m.update(changed_params='["norm"]'), "has tensor 'embed', unlike"),
    ("indices", lambda t, m: m.update(changed_params='["x", "embed", "norm"]'), "lacks tensor 'x'"),
    ("indices", lambda t, m: m.update(changed_params="[["), "changed_params '.*', expected a list"),
    ("indices", lambda t, m: m.update(changed_params="[1]"), "changed_params '.*', expected a lis"),
]


@pytest.mark.parametrize(("encoding", "change", "message"), TRL, ids=[one[2] for one in TRL])
def test_trl_files(
    base: Path,
    tmp_path: Path,
    encoding: str,
    change: Callable[[State, dict[str, str]], object],
    message: str,
) -> None:
    file = trl_file(tmp_path / "step.safetensors", *models(), encoding)
    trl.to_patch(file, base)
    rewritten(file, change)
    with pytest.raises(InputError, match=message):
        trl.to_patch(file, base)


def test_a_shortened_anchor(base: Path, tmp_path: Path) -> None:
    file = trl_file(tmp_path / "step.safetensors", *models(), "raw", anchor=True)
    rewritten(file, lambda tensors, _: tensors.pop("norm"))
    with pytest.raises(InputError, match="has 600 values, and its header says '633'"):
        trl.to_patch(file, base)


def in_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        index = json.loads((path / INDEX).read_text())
        change(index)
        (path / INDEX).write_text(json.dumps(index))

    return apply


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def stray(path: Path) -> None:
    data = torch.zeros(3, dtype=torch.uint8)
    save_file({"other": data}, path / "stray.safetensors", metadata={"other": "00000001"})


def cut(path: Path) -> None:
    files(path)[0].write_bytes(files(path)[0].read_bytes()[:-1])


VERSIONS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: files(path)[1].unlink(), "'norm' is in file None, expected 'model-00001-of-0000"),
    (lambda path: [file.unlink() for file in files(path)], "'embed' is in file None, expected"),
    (stray, "'other' is in file 'stray.safetensors', expected None; copy the version again"),
    (cut, "truncated: has"),
    (in_index(lambda index: index["weight_map"].update(norm=3)), "'norm' is in .*, expected 3"),
    (in_index(lambda index: index.update(weight_map={})), "is in .*, expected None"),
    (in_index(lambda index: index.update(weight_map=[1])), r"weight_map \[1\], expected an object"),
    (in_index(lambda index: index["metadata"].pop("version")), "found version None"),
    (in_index(lambda index: index["metadata"].update(version=1)), "found version 1, expected a te"),
    (
        in_index(lambda index: index["metadata"].update(checksum_format="xxh3-128")),
        "makes checksum .* the delta is damaged, or the model is not in version 000000",
    ),
    (in_index(lambda index: index["metadata"].update(delta_encoding="overwrite")), "for .* positi"),
    (
        lambda path: rewritten(files(path)[0], lambda _, sums: sums.update(embed="deadbeef")),
        "makes checksum .*, expected deadbeef",
    ),
    (
        lambda path: rewritten(files(path)[0], lambda _, sums: sums.clear()),
        "with checksum None, expected U8 with one",
    ),
]


@pytest.mark.parametrize(("change", "message"), VERSIONS, ids=[one[1] for one in VERSIONS])
def test_delta_versions(
    base: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    path = delta_version(tmp_path / "shared", 1, *models(), "xor", "adler32", n_files=2)
    delta_versions.to_patch(path, base)
    change(path)
    with pytest.raises(InputError, match=message):
        delta_versions.to_patch(path, base)


def test_an_index_without_a_map(base: Path, tmp_path: Path) -> None:
    path = delta_version(tmp_path / "shared", 1, *models(), "xor", "adler32", n_files=2)
    in_index(lambda index: index.pop("weight_map"))(path)
    assert delta_versions.to_patch(path, base).tensors == {"changed": 2}


VLLM: list[tuple[dict[str, Any], str]] = [
    ({"values": [1.0]}, "'embed': found values of type list, expected a tensor of torch"),
    ({"indices": [1]}, "'embed': found indices of type list, expected a tensor of torch"),
    ({"name": 3}, "found the name 3, expected a text"),
    ({"dtype": torch.float32}, "says dtype float32, and its values are BF16"),
    ({"dtype": None}, "says dtype None, and its values are BF16"),
    ({"shape": 5}, "found shape 5, expected a tuple"),
    ({"indices": torch.zeros(1, 600, dtype=torch.int32)}, r"positions \[1, 600\] and values \[600"),
]


@pytest.mark.parametrize(("change", "message"), VLLM)
def test_patches_of_vllm(base: Path, change: dict[str, Any], message: str) -> None:
    (one, _) = vllm_patches(*models())
    with pytest.raises(InputError, match=message):
        vllm.to_patch([one._replace(**change)], base)


def test_what_is_no_update(base: Path, tmp_path: Path) -> None:
    update: Any
    for update, message in (
        (None, "patches: found NoneType, expected a list"),
        ([("norm", None)], "found tuple without 'name', expected CheckpointWeightPatch"),
        ("patch", "found str without 'name'"),
    ):
        with pytest.raises(InputError, match=message):
            vllm.to_patch(update, base)
    for update in (None, 3, [None]):
        with pytest.raises(InputError, match="expected the path of a directory"):
            delta_versions.to_patch(update, base)
    with pytest.raises(InputError, match="is a file, expected the directory of a version"):
        delta_versions.to_patch(base / "model.safetensors", base)
    with pytest.raises(InputError, match="update: found NoneType, expected a path"):
        trl.to_patch(None, base)  # type: ignore[arg-type]
    patch = make_patch(base, models()[1]).data
    with pytest.raises(InputError, match="model_version: found 'x', expected a whole number"):
        trl.from_patch(patch, base, tmp_path / "x", model_version="x")  # type: ignore[arg-type]
