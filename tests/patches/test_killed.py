"""A run in place that is killed at any moment is finished or taken back by the next one."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tallies import InputError, apply_patch, make_patch
from tests.support.checkpoints import Model, read, write
from tests.support.command import tree
from tests.support.killable import Killer
from tests.support.patches import pair


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer("apply_patch")
    yield process
    process.close()


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Model, Model]:
    """The model ``model`` and patches ``p1`` and ``p2`` to the second one, by way of a third."""
    old, middle = pair(1, n=20_000)
    _, new = pair(1, n=20_000)
    new = {**new, "wide": old["wide"], "scalar": old["scalar"] + 1}
    for name, model in (("model", old), ("middle", middle), ("new", new)):
        write(tmp_path / name, model, n_files=2, config={"name": name})
    make_patch(tmp_path / "model", tmp_path / "middle", tmp_path / "p1")
    make_patch(tmp_path / "middle", tmp_path / "new", tmp_path / "p2", values="difference")
    return old, new


def content(path: Path) -> dict[str, Any]:
    """The tensors' bits, and the configuration."""
    found: dict[str, Any] = {name: one.tobytes() for name, one in read(path).items()}
    return found | {"config": (path / "config.json").read_bytes()}


def request(tmp_path: Path, **options: Any) -> dict[str, Any]:
    patches = [str(tmp_path / name) for name in ("p1", "p2")]
    limits = {"threads": 1, "max_memory": "64KiB", "sync": False}
    return {"patches": patches, "to": str(tmp_path / "model"), **limits, **options}


@pytest.mark.parametrize("undo", [False, True])
def test_killed_at_every_moment(
    killer: Killer, chain: tuple[Model, Model], tmp_path: Path, undo: bool
) -> None:
    asked = request(tmp_path, undo=undo)
    place, copy, start = tmp_path / "model", tmp_path / "copy", tmp_path / "start"
    if undo:
        apply_patch(asked["patches"], place)
    shutil.copytree(place, start)
    before = content(start)
    apply_patch(**{**asked, "to": shutil.copytree(start, copy)})
    after = content(copy)
    shutil.rmtree(copy)
    n_half = 0
    for moment in range(1000):
        answer = killer.run(die_at=moment, **asked)
        if not answer["killed"]:
            assert "error" not in answer
            break
        in_between = (place / ".tallies-apply").exists()
        if in_between:
            n_half += content(place) not in (before, after)
            if moment % 2:  # Every other next run takes back, and all finish.
                report = apply_patch([], place, undo=True)
                assert report.kind == "restored"
                assert content(place) == before
            apply_patch(**asked)
            assert content(place) == after
        else:
            assert content(place) in (before, after)
            if content(place) == before:
                apply_patch(**asked)
            else:
                why = "nothing is to be taken back" if undo else "were the patches applied before"
                with pytest.raises(InputError, match=why):
                    apply_patch(**asked)
        assert content(place) == after
        assert not [name for name in os.listdir(place) if name.startswith(".")]
        shutil.rmtree(place)
        shutil.copytree(start, place)
    assert content(place) == after
    assert moment > 30
    assert n_half > 5


def test_killed_at_random_times(killer: Killer, chain: tuple[Model, Model], tmp_path: Path) -> None:
    old, new = pair(2, n=400_000)
    for name, model in (("model", old), ("new", new)):
        shutil.rmtree(tmp_path / name)
        write(tmp_path / name, model, n_files=3)
    patch = str(make_patch(tmp_path / "model", tmp_path / "new", tmp_path / "big").path)
    asked = request(tmp_path, patches=[patch])
    shutil.copytree(tmp_path / "model", tmp_path / "start")
    begin = time.perf_counter()
    assert not killer.run(**asked)["killed"]
    seconds = time.perf_counter() - begin
    made = tree(tmp_path / "model")
    n_killed = 0
    for i in range(20):
        shutil.rmtree(tmp_path / "model")
        shutil.copytree(tmp_path / "start", tmp_path / "model")
        after = random.Random(i).uniform(0, seconds)
        begin = time.perf_counter()
        if killer.run(die_after=after, **asked)["killed"]:
            n_killed += 1
        else:  # the first run takes longest
            seconds = min(seconds, time.perf_counter() - begin)
        # A run that is killed behind its last change leaves the new model, and its journal.
        if any(tree(tmp_path / "model").get(path) != content for path, content in made.items()):
            apply_patch(**asked)
        left = tree(tmp_path / "model")
        assert {path: left[path] for path in made} == made
    assert n_killed > 0


def test_taking_back_what_was_interrupted_needs_no_patch_but_knows_them(
    killer: Killer, chain: tuple[Model, Model], tmp_path: Path
) -> None:
    asked = request(tmp_path)
    before = content(tmp_path / "model")
    moment = 0
    while not (tmp_path / "model/.tallies-apply").exists():
        assert killer.run(die_at=moment, **asked)["killed"]
        moment += 1
    # Interrupted forwards, and asked to take the same patches back: the old model is there.
    report = apply_patch(asked["patches"], tmp_path / "model", undo=True)
    assert report.kind == "restored"
    assert content(tmp_path / "model") == before
    assert report.old_fingerprint == report.new_fingerprint
