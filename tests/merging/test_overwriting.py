"""``overwrite`` replaces what an earlier run wrote, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tallies import InputError, merge, pack
from tallies.store import Store
from tests.support.checkpoints import write
from tests.support.merges import f32, request

SIDE = {"tokenizer/vocab.txt": "a b", "config.json": "{}"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    paths = [
        write(tmp_path / name, {"v": f32(1, i), "w": f32(3, i)}) for i, name in enumerate("ab")
    ]
    for name, text in SIDE.items():
        (paths[0] / name).parent.mkdir(exist_ok=True)
        (paths[0] / name).write_text(text)
    return paths


def merged(models: list[Path], **options: object) -> None:
    merge(request("linear", models, max_shard_size=8), "out", **options)  # type: ignore[arg-type]


def packed(models: list[Path], **options: object) -> None:
    base, task = models
    pack(base, {"t": task}, "out", **options)  # type: ignore[arg-type]


def unpacked(models: list[Path], **options: object) -> None:
    base, task = models
    if not Path("store").exists():
        pack(base, {"t": task}, "store")
    Store.open("store").unpack("t", "out", **options)


RUNS = (merged, packed, unpacked)
Run = Callable[..., None]


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "tallies.json"
    }


@pytest.mark.parametrize("first", RUNS)
@pytest.mark.parametrize("second", RUNS)
def test_one_result_replaces_another(models: list[Path], first: Run, second: Run) -> None:
    second(models)
    expected = tree(Path("out"))
    first(models, overwrite=True)
    second(models, overwrite=True)
    assert tree(Path("out")) == expected
    with pytest.raises(InputError, match="is not empty; pass --overwrite"):
        second(models)


def link(path: Path) -> None:
    path.symlink_to("/")


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("name", "leave", "named"),
    [
        ("thesis.tex", put, "thesis.tex"),
        (".git/config", put, ".git/"),
        (".DS_Store", put, ".DS_Store"),
        ("llama/model.safetensors", put, "llama/"),
        ("empty", Path.mkdir, "empty/"),
        ("folder", link, "folder"),
        ("two\nlines", put, "two\\nlines"),
    ],
)
def test_whatever_else_is_there_is_refused_by_name(
    models: list[Path], run: Run, name: str, leave: Callable[[Path], None], named: str
) -> None:
    run(models)
    leave(Path("out", name))
    before = sorted(Path("out").rglob("*"))
    with pytest.raises(InputError) as refused:
        run(models, overwrite=True)
    assert "\n" not in str(refused.value)
    for text in ("output 'out': holds", repr(named).replace("\\\\", "\\"), "(1 such)", "remove it"):
        assert text in str(refused.value)
    assert sorted(Path("out").rglob("*")) == before


@pytest.mark.parametrize("name", ["tokenizer/notes.txt", "tokenizer/vocab.txt/"])
def test_strangers_among_files_of_ours(models: list[Path], name: str) -> None:
    merged(models)
    path = Path("out", name)
    if name.endswith("/"):
        path.unlink()
        path.symlink_to(models[0] / "config.json")
    else:
        path.write_text("mine")
    with pytest.raises(InputError, match=f"holds '{name.rstrip('/')}'"):
        merged(models, overwrite=True)


def test_a_tensor_file_that_somebody_replaced(models: list[Path]) -> None:
    merged(models)
    file = Path("out/model-00001-of-00002.safetensors")
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(InputError, match=f"holds '{file.name} .of another size than was written."):
        merged(models, overwrite=True)


@pytest.mark.parametrize("record", [None, "[]", '{"output": 3, "tallies": "1"}', "{", '{"a": 1}'])
def test_a_model_that_is_no_result(models: list[Path], record: str | None) -> None:
    write(Path("out"), {"v": np.ones(3, np.float32)}, config={})
    if record is not None:
        Path("out/tallies.json").write_text(record)
    with pytest.raises(InputError, match=r"holds 'config\.json', 'model\.safetensors'"):
        merged(models, overwrite=True)


def test_results_of_older_versions(models: list[Path]) -> None:
    merged(models)
    report = json.loads(Path("out/tallies.json").read_text())
    others = ["README.md", "mergekit_config.yml", "model.safetensors.index.json"]
    assert report["output"].pop("other_files") == others
    Path("out/tallies.json").write_text(json.dumps(report))
    # A card that no report names may be a person's.
    with pytest.raises(InputError, match=r"holds 'README\.md', 'mergekit_config\.yml', which"):
        merged(models, overwrite=True)
    for card in others[:2]:
        Path("out", card).unlink()
    merged(models, overwrite=True)
    store = {"tallies": "0.1.0", "checksums": {"shared.safetensors": {}, "tasks/t.safetensors": {}}}
    Path("old/tasks").mkdir(parents=True)
    for name in ("shared.safetensors", "tasks/t.safetensors"):
        Path("old", name).write_text("x")
    Path("old/store.json").write_text(json.dumps(store))
    merge(request("linear", models), "old", overwrite=True)
    assert sorted(os.listdir("old")) == [
        *("README.md", "config.json", "mergekit_config.yml", "model.safetensors"),
        *("tallies.json", "tokenizer"),
    ]


def test_a_result_inside_a_repository(models: list[Path]) -> None:
    put(Path(".git/config"))
    for overwrite in (False, True):
        merged(models, overwrite=overwrite)
    assert Path(".git/config").read_text() == "mine"
