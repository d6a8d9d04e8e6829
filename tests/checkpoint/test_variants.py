"""The names of files decide which weights of a directory are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.weight_names import parse_name
from tallies.errors import InputError
from tests.support.handmade import write_file, write_index


def write(root: Path, *names: str) -> None:
    """Write files that each hold a tensor of the file's own name; an index names such files."""
    for name in names:
        if name.endswith(".json"):
            stem, _, files = name.partition(": ")
            write_index(root, {file: file for file in files.removesuffix(".json").split()}, "x")
            (root / "x.safetensors.index.json").rename(root / stem)
        else:
            write_file(root / name, name)


INDEX = "model.safetensors.index"
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
V, W = "model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"
X, Y = "model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"


@pytest.mark.parametrize(
    ("names", "asked", "read", "stem", "variant"),
    [
        ([A, B], "", [A, B], "model", ""),
        (["m-1-of-002.safetensors", "m-02-of-2.safetensors"], "", "all", "m", ""),
        (
            [A.replace("00002", "000002"), B.replace("of-00002", "of-000002")],
            "",
            "all",
            "model",
            "",
        ),
        (["w-00000-of-00002.safetensors", "w-00001-of-00002.safetensors"], "", "all", "w", ""),
        ([A, B, "model-00001-of-00003.safetensors"], "", [A, B], "model", ""),
        ([A, "other.safetensors"], "", None, "", ""),
        (["one.safetensors"], "", "all", "one", ""),
        (["v1.5.safetensors"], "", "all", "v1.5", ""),
        (["diffusion_pytorch_model.safetensors", "x.safetensors"], "", 1, "", ""),
        (["model.safetensors", "adapter_model.safetensors"], "", 1, "model", ""),
        (["one.safetensors", "adapter_model.safetensors"], "", 1, "one", ""),
        (["model.safetensors", "consolidated.safetensors"], "", 1, "model", ""),
        (["model.fp16.safetensors"], "", "all", "model", "fp16"),
        (["model.safetensors", "model.fp16.safetensors"], "", 1, "model", ""),
        (["model.fp16.safetensors", "model.safetensors"], "fp16", 1, "model", "fp16"),
        (["model.safetensors"], "fp16", "all", "model", ""),
        (["model.safetensors", "model.bf16.safetensors"], "fp16", None, "", ""),
        ([V, W, f"{INDEX}.fp16.json: {V} {W}.json"], "", [V, W], "model", "fp16"),
        ([X, Y, f"{INDEX}.fp16.json: {X} {Y}.json"], "", [X, Y], "model", "fp16"),
        ([X, Y, f"model.safetensors.fp16.index.json: {X} {Y}.json"], "", [X, Y], "model", "fp16"),
        ([V, W, f"model.fp16.safetensors.index.json: {V} {W}.json"], "", [V, W], "model", "fp16"),
        ([V, W], "", [V, W], "model", "fp16"),
        ([X, Y], "", [X, Y], "model", "fp16"),
        ([A, B, V, W, f"{INDEX}.json: {A} {B}.json"], "", [A, B], "model", ""),
        ([A, B, V, W, f"{INDEX}.json: {A} {B}.json"], "fp16", [V, W], "model", "fp16"),
        ([A, V, W, f"{INDEX}.json: {A} {B}.json"], "", [V, W], "model", "fp16"),
        ([A, f"{INDEX}.json: {A} {B}.json"], "", None, "", ""),
        ([A, B, "model.safetensors"], "", None, "", ""),
    ],
)
def test_files_of_a_directory(
    tmp_path: Path,
    names: list[str],
    asked: str,
    read: list[str] | str | int | None,
    stem: str,
    variant: str,
) -> None:
    write(tmp_path, *names)
    files = [name for name in names if not name.endswith(".json")]
    if read is None:
        with pytest.raises(InputError):
            Checkpoint.open(tmp_path, variant=asked)
        return
    expected: list[str] = files if read == "all" else files[:1] if read == 1 else list(read)  # type: ignore[arg-type]
    checkpoint = Checkpoint.open(tmp_path, variant=asked)
    assert [file.name for file in checkpoint.files] == sorted(expected)
    if stem:
        (part,) = checkpoint.parts
        assert (part.folder, part.stem, part.variant) == ("", stem, variant)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("pytorch_model.bin", "model"), ("diffusion_pytorch_model.bin", "diffusion_pytorch_model")],
)
def test_stem_of_torch_files_is_that_of_safetensors(name: str, stem: str) -> None:
    parsed = parse_name(name)
    assert parsed is not None
    assert parsed.saved_stem == stem


def test_message_names_the_variants(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", "model.bf16.safetensors")
    with pytest.raises(
        InputError, match="has no variant 'fp16', only bf16 and the weights without variant; choose"
    ):
        Checkpoint.open(tmp_path, variant="fp16")
