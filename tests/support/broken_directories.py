"""Broken model directories, each with the text its refusal must contain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.handmade import write_file, write_index


def _places(weight_map: object) -> Callable[[Path], None]:
    """Return a maker of a directory whose sound file of tensor a differs from the index."""

    def make(root: Path) -> None:
        write_file(root / "model-1.safetensors", "a")
        write_index(root, weight_map)

    return make


def _index_text(text: str | bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        write_file(root / "model-1.safetensors", "a")
        content = text.encode() if isinstance(text, str) else text
        (root / "model.safetensors.index.json").write_bytes(content)

    return make


def _holds(*names: str) -> Callable[[Path], None]:
    """Return a maker of a directory of files; one of safetensors has a tensor of its name."""

    def make(root: Path) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".safetensors"):
                write_file(root / name, name)
            else:
                (root / name).write_bytes(b"{}")

    return make


def _tensor_in_two_files(root: Path) -> None:
    write_file(root / "model-1.safetensors", "a", "b")
    write_file(root / "model-2.safetensors", "b")
    write_index(root, {"a": "model-1.safetensors", "b": "model-2.safetensors"})


def _unnamed_tensor(root: Path) -> None:
    write_file(root / "model-1.safetensors", "a", "b")
    write_index(root, {"a": "model-1.safetensors"})


def _stale_file(root: Path) -> None:
    write_file(root / "model.safetensors", "a")
    write_file(root / "model-1.safetensors", "a")
    write_index(root, {"a": "model-1.safetensors"})


def _two_indexes(root: Path) -> None:
    write_file(root / "model-1.safetensors", "a")
    write_index(root, {"a": "model-1.safetensors"})
    write_index(root, {"a": "model-1.safetensors"}, "diffusion_pytorch_model")


def _two_variants(root: Path) -> None:
    write_file(root / "model.fp16.safetensors", "a")
    write_file(root / "model.bf16.safetensors", "a")


def _one_of_many_shards(root: Path) -> None:
    write_file(root / "model-00002-of-999999999.safetensors", "a")


def _stale_shards(root: Path) -> None:
    for name in ("model-1-of-2", "model-2-of-2", "model-00002-of-00002"):
        write_file(root / f"{name}.safetensors", name)


def _shared_tensor_in_shards(root: Path) -> None:
    write_file(root / "model-00001-of-00002.safetensors", "a", "b")
    write_file(root / "model-00002-of-00002.safetensors", "b")


def _index_of_another_build(root: Path) -> None:
    write_file(root / "model-00001-of-00002.safetensors", "a")
    write_file(root / "model-00002-of-00002.safetensors", "b")
    write_index(root, {"a": "model-00001-of-00001.safetensors"})


def _pointer(name: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        if "index" in name or "modules" in name:
            write_file(root / "model-1.safetensors", "a")
        (root / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")

    return make


def _web_page(root: Path) -> None:
    (root / "model.safetensors").write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")


def _store(root: Path) -> None:
    write_file(root / "shared.safetensors", "a")
    (root / "store.json").write_text("{}")


def _hub_cache(*commits: str, main: str | None = None) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for commit in commits:
            (root / "snapshots" / commit).mkdir(parents=True)
            write_file(root / "snapshots" / commit / "model.safetensors", "a")
        if main is not None:
            (root / "refs").mkdir()
            (root / "refs" / "main").write_text(main)

    return make


def _modules(*paths: object) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        write_file(root / "model.safetensors", "a")
        (root / "modules.json").write_text(json.dumps([{"path": path} for path in paths]))

    return make


def _name_of_a_part(root: Path) -> None:
    write_file(root / "model.safetensors", "2_Dense/linear.weight")
    (root / "2_Dense").mkdir()
    write_file(root / "2_Dense" / "model.safetensors", "linear.weight")
    (root / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}]))


def _same_tensor_no_index(root: Path) -> None:
    write_file(root / "one.safetensors", "a", "b")
    write_file(root / "two.safetensors", "b", "c")


def _linked_folder_outside(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    write_file(outside / "model-1.safetensors", "a")
    (root / "inside").symlink_to(outside)
    write_index(root, {"a": "inside/model-1.safetensors"})


def _link_to_nothing(root: Path) -> None:
    (root / "model.safetensors").symlink_to(root / "blob")


def _damaged_shard(root: Path) -> None:
    (root / "model-1.safetensors").write_bytes(bytes(8))
    write_index(root, {"a": "model-1.safetensors"})


NO_WEIGHTS = "holds no file of weights named .safetensors, .bin, .pt or .pth"

DIRECTORIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (_holds(), f"{NO_WEIGHTS}; give the directory of a model"),
    ".bin that is none": (_holds("pytorch_model.bin", "config.json"), "begins with b'{}'"),
    ".bin shards of an index of nothing": (
        _holds("pytorch_model.bin.index.json", "p-1.bin", "p-2.bin", "p-3.bin"),
        "pytorch_model.bin.index.json: weight_map is None",
    ),
    ".bin shards without an index": (
        _holds("config.json", "p-1.bin", "p-2.bin"),
        "p-1.bin: begins with b'{}'",
    ),
    ".pth that is none": (_holds("consolidated.00.pth"), "consolidated.00.pth: begins with b'{}'"),
    "only what trainers leave": (
        _holds("optimizer.pt", "rng_state_0.pth", "training_args.bin"),
        f"{NO_WEIGHTS}, only 'optimizer.pt', 'rng_state_0.pth', 'training_args.bin'; convert",
    ),
    "only GGUF": (_holds("model-Q4_K_M.gguf"), "only 'model-Q4_K_M.gguf'; convert"),
    "hidden weights": (_holds("._model.safetensors"), NO_WEIGHTS),
    "a pipeline": (
        _holds("unet/a.safetensors", "vae/b.safetensors", "vae/c.safetensors"),
        "give one of its sub-directories ('unet', 'vae')",
    ),
    "two files": (
        _holds("one.safetensors", "two.safetensors"),
        "holds 2 files named .safetensors ('one.safetensors', 'two.safetensors') and no index; "
        "give the",
    ),
    "two files with a tensor each has": (
        _same_tensor_no_index,
        "no index; tensor 'b' is in 'one.safetensors' and in 'two.safetensors'; give the one",
    ),
    "one part of three": (
        _holds("model-00002-of-00003.safetensors"),
        "model of 3 ('model-00002-of-00003.safetensors') and no index: parts 1, 3 of 3 are absent; "
        "download the rest",
    ),
    "one part of very many": (_one_of_many_shards, "parts 1, 3, 4, ... of 999999999 are absent"),
    "a part twice": (_stale_shards, "holds 3 files of a model of 2 ('model-1-of-2.safetensors', "),
    "parts with a tensor each has": (
        _shared_tensor_in_shards,
        "00002-of-00002.safetensors: holds tensor 'b', which model-00001-of-00002.safetensors "
        "holds as well",
    ),
    "an index of another build": (
        _index_of_another_build,
        "names 1 file, of which 1 is absent ('model-00001-of-00001.safetensors'); it is the index "
        "of another build than 'model-00001-of-00002.safetensors'",
    ),
    "two variants": (_two_variants, "holds the variants bf16 or fp16, expected one; name it"),
    "a Git LFS pointer": (_pointer("model.safetensors"), "is a Git LFS pointer, expected"),
    "an index that is a Git LFS pointer": (
        _pointer("model.safetensors.index.json"),
        "model.safetensors.index.json: is a Git LFS pointer, expected the file itself; run git lfs",
    ),
    "modules that are a Git LFS pointer": (_pointer("modules.json"), "is a Git LFS pointer"),
    "a web page": (_web_page, "is a web page (HTML), expected the file itself; download it again"),
    "a store": (_store, "is a store, expected a model; unpack a task of it first (tallies unpack"),
    "a hub's cache": (_hub_cache("0a", "0b"), "snapshots/0a (or another of 2 snapshots)"),
    "a hub's cache with a branch": (_hub_cache("0a", "0b", main="0b\n"), "give "),
    "a hub's cache with a lost branch": (_hub_cache("0a", main="0c"), "snapshots/0a"),
    "a module outside": (
        _modules("../2_Dense"),
        "modules.json: names the directory '../2_Dense', expected one inside the model",
    ),
    "a module at an absolute path": (_modules("/tmp"), "modules.json: names the directory '/tmp'"),
    "a tensor with the name of a part's": (_name_of_a_part, "has the name of one in"),
    "link to nothing": (_link_to_nothing, "model.safetensors: no such file"),
    "damaged shard": (_damaged_shard, "model-1.safetensors: header: not valid JSON"),
    "two indexes": (_two_indexes, "holds 2 indexes"),
    "stale file": (_stale_file, "holds model.safetensors and model.safetensors.index.json"),
    "tensor in two files": (
        _tensor_in_two_files,
        "1.safetensors: holds tensor 'b', which the index places in model-2.safetensors (1 such)",
    ),
    "tensor the index does not name": (
        _unnamed_tensor,
        "model-1.safetensors: holds tensor 'b', which the index does not name",
    ),
    "tensor not in its file": (
        _places({name: "model-1.safetensors" for name in "abcde"}),
        "holds 1 of the 5 tensors that the index places in it, not 'b', 'c', 'd', ...;",
    ),
    "file absent": (
        _places({"a": "model-1.safetensors", "b": "model-2.safetensors"}),
        "names 2 files, of which 1 is absent ('model-2.safetensors')",
    ),
    "index of nothing": (_places({}), "weight_map is {}"),
    "index of a list": (_places(["a"]), "weight_map is ['a']"),
    "index of numbers": (_places({"a": 1}), "weight_map is {'a': 1}"),
    "index without map": (_index_text("{}"), "weight_map is None"),
    "index an array": (_index_text("[]"), "found [], expected a JSON object"),
    "index not JSON": (_index_text(""), "not valid JSON"),
    "index not UTF-8": (_index_text(b"\xff"), "not UTF-8"),
    "index nested": (_index_text("[" * 100_000), "nested beyond all sense"),
    "index of 5000 digits": (_index_text("9" * 5000), "expected a JSON object"),
    "index with a name twice": (
        _index_text('{"weight_map":{"a":"model-1.safetensors","a":"model-1.safetensors"}}'),
        "the key 'a' appears twice",
    ),
    "index with a lone surrogate": (
        _index_text('{"weight_map":{"a":"\\ud800.safetensors"}}'),
        "weight_map is",
    ),
    "linked folder outside": (_linked_folder_outside, "expected a file named .safetensors inside"),
}
DIRECTORIES |= {
    f"index naming {label}": (_places({"a": file}), "expected a file named .safetensors inside")
    for label, file in {
        "an absolute path": "/model-1.safetensors",
        "its parent": "../model-1.safetensors",
        "its parent, after a detour": "x/../../model-1.safetensors",
        "its parent, as Windows writes it": "..\\model-1.safetensors",
        "a drive": "C:model-1.safetensors",
        "a network path": "\\\\host\\share\\model-1.safetensors",
        "a zero byte": "model-1.safetensors\0.safetensors",
        "a line break": "\n.safetensors",
        "nothing": "",
        "its own directory": ".",
        "another kind of file": "model-1.bin",
    }.items()
}
DIRECTORIES["index naming a file too long"] = (
    _places({"a": "x" * 5000 + ".safetensors"}),
    "of which 1 is absent",
)
