"""A result that is one file: ``OUT.safetensors``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tallies import InputError, merge, pack
from tallies.store import Store
from tests.support.checkpoints import assert_holds, write
from tests.support.command import tallies
from tests.support.merges import f32, request
from tests.support.outputs import fail, metadata_of

EXPECTED = {"v": f32(2), "w": f32(3, 4)}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("ab"):
        write(Path(f"{name}.safetensors"), {"v": f32(1 + 2 * i), "w": f32(2 + 2 * i, 4)})
    return ["a.safetensors", "b.safetensors"]


def test_nothing_is_written_beside_it(models: list[str]) -> None:
    report = merge(request("linear", models, max_shard_size=1), "new/out.safetensors")
    assert os.listdir("new") == ["out.safetensors"]
    assert_holds(Path("new/out.safetensors"), EXPECTED)
    assert report.output.files == {"out.safetensors": os.stat("new/out.safetensors").st_size}
    assert report.output.path == os.path.abspath("new/out.safetensors")
    assert report.auxiliary_files == []
    assert [text for text in report.warnings if text.startswith("max_shard_size 1: does not hold")]
    assert not merge(request("linear", models), "other.safetensors").warnings
    assert json.loads(report.to_json())["recipe"]["models"][0]["model"] == "../a.safetensors"
    # From a directory as well; the slash asks for a directory.
    write(Path("c"), EXPECTED, config={"a": 1})
    merge(request("linear", ["c", "c"]), "c.safetensors")
    assert_holds(Path("c.safetensors"), EXPECTED)
    merge(request("linear", ["c", "c"]), "d.safetensors/")
    assert Path("d.safetensors/config.json").exists()


def test_a_short_recipe_is_in_the_header(models: list[str]) -> None:
    made = request("linear", [models[0], os.path.abspath(models[1])], seed=3)
    merge(made, "out.safetensors")
    found = metadata_of(Path("out.safetensors"))
    assert found.keys() == {"format", "tallies"}
    recipe = json.loads(found["tallies"])
    assert (recipe["merge_method"], recipe["seed"]) == ("linear", 3)
    assert [entry["model"] for entry in recipe["models"]] == models
    assert os.getcwd() not in found["tallies"]
    # A merge of the file is another merge.
    merge(request("linear", ["out.safetensors"] * 2), "again")
    assert metadata_of(Path("again/model.safetensors")) == {"format": "pt"}
    rules = [{"filter": name, "value": 0.5} for name in EXPECTED] * 1000
    merge(request("linear", models, parameters={"weight": [*rules, {"value": 1}]}), "l.safetensors")
    assert len(metadata_of(Path("l.safetensors"))["tallies"]) < 100


def test_an_existing_file(models: list[str]) -> None:
    made = request("linear", models)
    merge(made, "out.safetensors")
    with pytest.raises(InputError, match=r"'out.safetensors': exists; pass --overwrite"):
        merge(made, "out.safetensors")
    Path("link.safetensors").symlink_to("out.safetensors")
    merge(request("linear", models[:1]), "out.safetensors", overwrite=True)
    merge(made, "link.safetensors", overwrite=True)
    assert os.readlink("link.safetensors") == "out.safetensors"
    assert_holds(Path("out.safetensors"), EXPECTED)
    stranger = Path("stranger.safetensors")
    stranger.write_bytes(Path(models[0]).read_bytes())
    with pytest.raises(InputError, match="safetensors file that tallies did not write"):
        merge(made, stranger, overwrite=True)
    assert stranger.read_bytes() == Path(models[0]).read_bytes()
    for content in (b"", b"mine", b"\x08\0\0\0\0\0\0\0{}      more"):
        Path("note.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="is no safetensors file, and --overwrite"):
            merge(made, "note.safetensors", overwrite=True)
        assert Path("note.safetensors").read_bytes() == content
    Path("folder.safetensors").mkdir()
    with pytest.raises(InputError, match="is a directory, expected a file"):
        merge(made, "folder.safetensors", overwrite=True)
    with pytest.raises(InputError, match="contains the input"):
        merge(made, models[0], overwrite=True)


def test_a_failure_leaves_the_old_file(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = request("linear", models)
    merge(made, "out.safetensors")
    before = Path("out.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("tallies.merging.run.index_files", fail(OSError(28, "No space")))
        for resume in (False, True):
            with pytest.raises(OSError, match="No space"):
                merge(
                    request("linear", models[::-1]),
                    "out.safetensors",
                    overwrite=True,
                    resume=resume,
                )
            assert Path("out.safetensors").read_bytes() == before
    assert Path(".out.safetensors.tallies-partial").exists()
    merge(
        request("linear", models[::-1]), "out.safetensors", overwrite=True, resume=True, sync=True
    )
    assert_holds(Path("out.safetensors"), EXPECTED)
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors", "out.safetensors"]


@pytest.mark.parametrize("name", ["out.bin", "out.pt", "out.ckpt", "out.gguf", "new/out.pth"])
def test_names_of_other_formats(models: list[str], name: str) -> None:
    with pytest.raises(InputError, match=r"results are safetensors: name out\.safetensors"):
        merge(request("linear", models), name)
    pack(models[0], {"t": models[1]}, "store")
    with pytest.raises(InputError, match=r"results are safetensors: name out\.safetensors"):
        Store.open("store").unpack("t", name)


def test_what_one_file_cannot_hold(models: list[str]) -> None:
    write(Path("donor"), EXPECTED, config={})
    with pytest.raises(InputError, match=r"found files_from .donor.; leave it out"):
        merge(request("linear", models, files_from="donor"), "out.safetensors")
    part = {"linear.weight": f32(1, 2)}
    write(Path("st"), {"w": f32(1)})
    write(Path("st/2_Dense"), part, config={})
    Path("st/modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]')
    with pytest.raises(InputError, match=r"sub-directories \('2_Dense'\), which one file cannot"):
        merge(request("linear", ["st", "st"]), "out.safetensors")
    assert not Path("out.safetensors").exists()


def test_an_unpacked_task(models: list[str]) -> None:
    pack(models[0], {"t": models[1]}, "store")
    opened = Store.open("store")
    report = opened.unpack("t", "out.safetensors")
    assert report.files == {"out.safetensors": os.stat("out.safetensors").st_size}
    assert_holds(Path("out.safetensors"), opened.load("t"))
    with pytest.raises(InputError, match="exists; pass --overwrite"):
        opened.unpack("t", "out.safetensors")
    opened.unpack("t", "out.safetensors", overwrite=True)
    with pytest.raises(InputError, match="found files_from"):
        opened.unpack("t", "out.safetensors", overwrite=True, files_from=models[0])
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors", "out.safetensors", "store"]


def test_the_report_of_an_unpacked_task_is_no_recipe(models: list[str]) -> None:
    pack(models[0], {"t": models[1]}, "store")
    Store.open("store").unpack("t", "out")
    record = json.loads(Path("out/tallies.json").read_text())
    assert record["unpacked"]["task"] == "t"
    assert os.getcwd() not in Path("out/tallies.json").read_text()
    ended = tallies("merge", "out/tallies.json", "again")
    assert ended.status == 2
    assert "is the report on an unpacked task" in ended.err


def test_dtype_of_one_file(models: list[str]) -> None:
    merge(request("linear", models, out_dtype="float16"), "out.safetensors")
    expected = {name: array.astype(np.float16) for name, array in EXPECTED.items()}
    assert_holds(Path("out.safetensors"), expected)
