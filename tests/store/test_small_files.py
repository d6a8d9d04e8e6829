"""A store keeps the small files of every task, and a restored task has exactly those."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

import tallies
from tallies import InputError, Store, pack
from tallies.store import add, remove
from tests.support.command import assert_failed, tree
from tests.support.command import tallies as run
from tests.support.stores import assert_refused, edit

Texts = Mapping[str, str]

BASE: Texts = {
    "config.json": '{"eos_token_id": 2}',
    "generation_config.json": '{"eos_token_id": 2}',
    "tokenizer.json": '{"model": "bpe"}',
    "only_base.txt": "base",
    "README.md": "the base",
}
CHAT: Texts = {
    "config.json": '{"eos_token_id": 7}',
    "generation_config.json": '{"eos_token_id": [2, 7]}',
    "tokenizer.json": '{"model": "bpe"}',
    "README.md": "the chat model",
    "chat_template.jinja": "{{ messages }}<|im_end|>",
    "1_Pooling/config.json": '{"pooling": "mean"}',
}
WITHOUT_CARD: Texts = {name: text for name, text in BASE.items() if name != "README.md"}
"""The base's card is that of no other model."""
SHAREABLE = [("tall", {}), ("sparse", {"density": "exact"})]


def lay(directory: Path, texts: Texts) -> None:
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def small(directory: Path) -> dict[str, str]:
    """The files of a model that are neither weights nor the record of an unpacking."""
    return {
        name: data.decode()
        for name, data in tree(directory).items()
        if data is not None and not name.endswith((".safetensors", "tallies.json"))
    }


@pytest.fixture
def furnished(models: Path) -> Path:
    """A copy of the models whose directories have small files."""
    root = models.parent / "furnished"
    shutil.copytree(models, root)
    lay(root / "base", BASE)
    lay(root / "a", CHAT)
    lay(root / "b", BASE)
    return root


def packed(root: Path, *tasks: str, codec: str = "tall", **parameters: object) -> Path:
    pack(
        root / "base",
        {task: root / task for task in tasks},
        root / "store",
        codec=codec,
        **parameters,
    )
    return root / "store"


@pytest.mark.parametrize(("codec", "parameters"), SHAREABLE)
def test_unpacking_gives_the_files_of_the_task(
    furnished: Path, codec: str, parameters: dict[str, str]
) -> None:
    store = packed(furnished, "a", "b", codec=codec, **parameters)
    shutil.rmtree(furnished / "a")
    for task, texts in {"a": CHAT, "b": BASE}.items():
        report = Store.open(store).unpack(task, furnished / f"{task}-again")
        assert small(furnished / f"{task}-again") == texts
        assert report.auxiliary_files == sorted(texts)
        kept = [name for name in sorted(texts) if texts[name] != BASE.get(name)]
        assert report.kept_files == kept
        for name in kept:
            assert (store / "files" / task / name).read_text() == texts[name]
    assert not (store / "files/b").exists()


def test_files_of_another_model_on_request(furnished: Path) -> None:
    store = packed(furnished, "a")
    report = Store.open(store).unpack("a", furnished / "out", files_from=furnished / "base")
    assert small(furnished / "out") == WITHOUT_CARD
    assert report.kept_files == []


def test_bare_weights_take_the_files_of_the_base(furnished: Path) -> None:
    """An expert without the base's config.json loads with the base's files alone."""
    for name in BASE:
        (furnished / "b" / name).unlink()
    (furnished / "b/notes.txt").write_text("mine")
    pack(
        furnished / "base",
        {"file": furnished / "a/model.safetensors", "bare": furnished / "b"},
        furnished / "store",
    )
    opened = Store.open(furnished / "store")
    opened.unpack("file", furnished / "file")
    opened.unpack("bare", furnished / "bare")
    assert small(furnished / "file") == WITHOUT_CARD
    assert small(furnished / "bare") == {**WITHOUT_CARD, "notes.txt": "mine"}


def test_a_base_that_is_one_file(furnished: Path) -> None:
    base = furnished / "base/model.safetensors"
    pack(base, {"a": furnished / "a"}, furnished / "store")
    Store.open(furnished / "store").unpack("a", furnished / "out")
    assert small(furnished / "out") == CHAT


def test_weights_and_remains_of_training_stay_out(furnished: Path) -> None:
    lay(furnished / "a", {"optimizer.pt": "x", "training_args.bin": "x", ".env": "SECRET=1"})
    store = packed(furnished, "a")
    kept = {name for name in tree(store) if name.startswith("files/a/")}
    assert kept - {"files/a/1_Pooling"} == {
        f"files/a/{name}" for name in CHAT if name != "tokenizer.json"
    }


def test_adding_and_removing(furnished: Path) -> None:
    for codec, parameters in SHAREABLE:
        shutil.rmtree(furnished / "store", ignore_errors=True)
        store = packed(furnished, "b", codec=codec, **parameters)
        add(store, "a", furnished / "a")
        Store.open(store).unpack("a", furnished / f"a-{codec}")
        assert small(furnished / f"a-{codec}") == CHAT
        remove(store, "a")
        assert not (store / "files").exists()
        Store.open(store).unpack("b", furnished / f"b-{codec}")
        assert small(furnished / f"b-{codec}") == BASE


def test_a_store_without_records_takes_the_files_of_the_base(furnished: Path) -> None:
    """Earlier versions wrote such stores."""
    store = packed(furnished, "a")
    edit(store, lambda data: data.pop("small_files"))
    Store.open(store).unpack("a", furnished / "out")
    assert small(furnished / "out") == WITHOUT_CARD


def test_damaged_and_missing_files(furnished: Path) -> None:
    store = packed(furnished, "a", "b")
    own = store / "files/a/config.json"
    own.write_text('{"eos_token_id": 8}')
    out = furnished / "out"
    words = (own, "task 'a'", "is damaged", "--files-from")
    assert_refused(lambda: Store.open(store).unpack("a", out), *words)
    assert_refused(lambda: tallies.verify(store), *words)
    assert str(own) in assert_failed(run("verify", store), 2)
    Store.open(store).unpack("b", out)
    own.unlink()
    for look in (
        lambda: Store.open(store).unpack("a", furnished / "o2"),
        lambda: tallies.verify(store),
    ):
        assert_refused(look, own, "is missing from the store")
    Store.open(store).unpack("a", furnished / "o3", files_from=furnished / "a")
    assert small(furnished / "o3") == {n: t for n, t in CHAT.items() if n != "README.md"}


def test_a_file_of_the_base_that_changed(furnished: Path) -> None:
    store = packed(furnished, "a")
    (furnished / "base/tokenizer.json").write_text("{}")
    words = (furnished / "base/tokenizer.json", "is not the base's file of the time of packing")
    assert_refused(lambda: Store.open(store).unpack("a", furnished / "out"), *words)
    tallies.verify(store)
    (furnished / "base/tokenizer.json").unlink()
    assert_refused(
        lambda: Store.open(store).unpack("a", furnished / "out"), "is missing from the base"
    )
    # Files that the task lacks may change.
    (furnished / "base/tokenizer.json").write_text(BASE["tokenizer.json"])
    (furnished / "base/only_base.txt").unlink()
    Store.open(store).unpack("a", furnished / "out")


@pytest.mark.parametrize("name", ["../out.txt", "/etc/hostname", "x/../../y"])
def test_files_outside(furnished: Path, name: str) -> None:
    store = packed(furnished, "a")

    def lead_out(data: dict[str, dict[str, dict[str, object]]]) -> None:
        data["small_files"]["a"][name] = data["small_files"]["a"].pop("config.json")

    edit(store, lead_out)
    with pytest.raises(InputError, match="which lies outside the store"):
        Store.open(store).unpack("a", furnished / "out")
    with pytest.raises(InputError, match="which lies outside the store"):
        tallies.verify(store)


def test_reports_count_them(furnished: Path) -> None:
    report = pack(furnished / "base", {"a": furnished / "a"}, furnished / "store")
    own = sum(len(text) for name, text in CHAT.items() if text != BASE.get(name))
    assert report.tasks[0].n_small_bytes == own
    found = tallies.inspect(furnished / "store")
    assert found["tasks"]["a"]["n_small_bytes"] == own
    assert found["n_bytes"] == report.n_bytes + own == Store.open(furnished / "store").nbytes
    assert found["tasks"]["a"]["small_files"]["tokenizer.json"] == "base"
    verified = tallies.verify(furnished / "store")
    assert verified["files"] == 2 + 5


def test_files_of_others_in_a_store(furnished: Path) -> None:
    """No change of a store loses them."""
    shared, alone = packed(furnished, "a", "b"), furnished / "alone"
    pack(furnished / "base", {"a": furnished / "a"}, alone, codec="bitdelta")
    for store in (shared, alone):
        lay(store, {"README.md": "mine", ".git/config": "mine"})
    before = tree(shared)
    assert_refused(
        lambda: remove(shared, "a"), shared, "holds '.git/', 'README.md'", "move it elsewhere first"
    )
    with pytest.raises(InputError, match=r"holds '\.git/', 'README\.md', which tallies did not"):
        pack(furnished / "base", {"b": furnished / "b"}, shared, overwrite=True)
    assert tree(shared) == before
    add(alone, "b", furnished / "b")
    remove(alone, "a")
    assert (alone / "README.md").read_text() == (alone / ".git/config").read_text() == "mine"
    remove(shared, "a", keep_shared=True)
    assert (shared / "README.md").read_text() == "mine"
