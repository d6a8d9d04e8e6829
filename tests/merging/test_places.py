"""Places of the output, and several runs at once."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import InputError, StorageError, merge
from tallies.checkpoint.destination import Destination
from tests.support.checkpoints import TOLD, data_bytes, write
from tests.support.command import COMMAND, Ended, assert_failed, tallies, ties, tree
from tests.support.outputs import at_combine, fail, old_output
from tests.support.stages import OPTIONS

pytestmark = pytest.mark.usefixtures("inputs_stay")


# Places of the output.


def test_ways_to_name_a_place(
    recipe: dict[str, Any],
    result: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("link").symlink_to("there")
    Path("chain").symlink_to("link/")
    Path("to nothing").symlink_to("there/nothing")
    Path("empty").mkdir()
    places = {
        "plain": "plain",
        "slash/": "slash",
        "there/../up": "up",
        "link/in": "there/in",
        "link/../beside": "beside",
        "chain": "there",
        "to nothing": "there/nothing",
        "empty/": "empty",
        "new/and/deep/": "new/and/deep",
        "./-dash": "-dash",
        "näme 名": "näme 名",
        ".hidden": ".hidden",
        str(tmp_path / "absolute"): "absolute",
    }
    for given, place in places.items():
        shutil.rmtree(tmp_path / place, ignore_errors=True) if place == "there" else None
        report = merge(recipe, given, **OPTIONS)
        assert report.output.path == str(tmp_path / place)
        assert data_bytes(tmp_path / place) == result
        left = [path for path in tmp_path.rglob(".*") if path.name != ".hidden"]
        assert left == []
    assert all(Path(link).is_symlink() for link in ("link", "chain", "to nothing"))


def test_an_old_output_behind_a_link_is_replaced_and_the_link_stays(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    old_output(tmp_path / "there")
    (tmp_path / "link").symlink_to("there")
    merge(recipe, tmp_path / "link", overwrite=True, **OPTIONS)
    assert os.readlink(tmp_path / "link") == "there"
    assert data_bytes(tmp_path / "there") == result
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]


def test_a_file_of_the_donor_with_the_name_of_one_of_ours_is_kept(
    result: dict[str, bytes],
) -> None:
    assert result["journal"] == b"a file with the name of one of ours"
    assert result["tokenizer/vocab.txt"] == b"one two three"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_appears_meanwhile(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path, overwrite: bool
) -> None:
    out = tmp_path / "out"
    appearing = at_combine(1, lambda: old_output(out))
    if overwrite:
        with appearing:
            merge(recipe, out, overwrite=True, **OPTIONS)
        assert data_bytes(out) == result
        with (
            at_combine(1, lambda: (out / "mine").write_text("mine")),
            pytest.raises(InputError, match="holds 'mine'"),
        ):
            merge(recipe, out, overwrite=True, **OPTIONS)
        assert (out / "mine").read_text() == "mine"
    else:
        with appearing, pytest.raises(StorageError, match="cannot be put in place: Directory not"):
            merge(recipe, out, **OPTIONS)
        assert (out / "more/notes.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


def test_flushed_before_it_appears(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    flushed: list[tuple[str, bool]] = []
    out = tmp_path / "out"

    def fsync(file: int) -> None:
        flushed.append((os.readlink(f"/proc/self/fd/{file}"), out.exists()))

    with mock.patch("os.fsync", fsync):
        merge(recipe, out, sync=True, **OPTIONS)
    new = str(Destination(tmp_path / "other", [], False).workspace / "new").replace("other", "out")
    expected = [f"{new}/{file}" for file in (*result, *TOLD)] + [new, f"{new}/tokenizer"]
    assert sorted(flushed[:-1]) == sorted((path, False) for path in expected)
    assert flushed[-1] == (str(tmp_path), True)


# Several at once.


def test_two_runs_to_one_place(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    models = [model["model"] for model in recipe["models"]]
    ended: list[Ended] = []

    def second() -> None:
        for more in ("", "--resume", "--overwrite"):
            request = ties(*models, base=recipe["base_model"], out=out, more=more)
            ended.append(tallies(*request))

    with at_combine(1, second):
        merge(recipe, out, **OPTIONS)
    for one in ended:
        line = assert_failed(one, 2)
        assert f"output {out}: another run is writing it; wait for it, or choose another" in line
    assert len(ended) == 3
    assert data_bytes(out) == result
    assert os.listdir(tmp_path) == ["out"]


def test_a_lock_that_is_removed_while_it_is_taken(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    workspace = Destination(out, [], False).workspace
    flock, calls = fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not calls:
            # The last holder lets go.
            (workspace / "lock").unlink()
            workspace.rmdir()
        calls.append(file)
        flock(file, how)

    def second() -> None:
        with pytest.raises(InputError, match="another run is writing it"):
            merge(recipe, out, **OPTIONS)

    with mock.patch.object(fcntl, "flock", late), at_combine(1, second):
        merge(recipe, out, **OPTIONS)
    assert len(calls) == 3
    assert data_bytes(out) == result
    assert os.listdir(tmp_path) == ["out"]


def test_many_runs_to_one_place(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def repeat(_: int) -> int:
        n_done = 0
        for _ in range(12):
            try:
                merge(recipe, out, overwrite=True, **OPTIONS)
                n_done += 1
            except InputError as error:
                assert "another run is writing it" in str(error)
                time.sleep(0.01)
        return n_done

    with ThreadPoolExecutor(4) as pool:
        n_done = sum(pool.map(repeat, range(4)))
    assert n_done > 4
    assert data_bytes(out) == result
    assert os.listdir(tmp_path) == ["out"]


def test_runs_to_different_places_from_threads(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    def one(i: int) -> dict[str, bytes]:
        assert threading.current_thread() is not threading.main_thread()
        merge(recipe, tmp_path / str(i), **{**OPTIONS, "threads": 1 + i % 2})
        return data_bytes(tmp_path / str(i))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(8))) == [result] * 8
    assert sorted(os.listdir(tmp_path)) == [str(i) for i in range(8)]


def test_the_command_line_in_a_thread(recipe: dict[str, Any], tmp_path: Path) -> None:
    models = [model["model"] for model in recipe["models"]]
    request = ties(*models, base=recipe["base_model"], out=tmp_path / "out", more="--quiet")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(tallies, *request).result() == Ended(0, "", "")


def test_a_file_system_without_locks(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    with mock.patch.object(fcntl, "flock", fail(OSError(errno.ENOLCK, "No locks available"))):
        merge(recipe, tmp_path / "out", **OPTIONS)
    assert data_bytes(tmp_path / "out") == result


def test_a_system_without_exchange(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    old = old_output(out)
    rename = os.rename

    def once_less(source: Any, target: Any) -> None:
        if Path(source).name == "new" and not out.exists():
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    with mock.patch.object(ctypes, "CDLL", lambda *_, **__: None):
        with mock.patch("os.rename", once_less), pytest.raises(StorageError, match="put in place"):
            merge(recipe, out, overwrite=True, **OPTIONS)
        assert data_bytes(out) == old
        merge(recipe, out, overwrite=True, **OPTIONS)
    assert data_bytes(out) == result
    assert os.listdir(tmp_path) == ["out"]


# Many files.


def test_more_files_than_the_soft_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    base = {f"t{i}": rng.standard_normal(8).astype(np.float32) for i in range(5)}
    write(tmp_path / "models/base", base, n_files=5)
    names = [f"e{i:02}" for i in range(64)]
    for name in names:
        expert = {key: value + rng.standard_normal(8, np.float32) for key, value in base.items()}
        write(tmp_path / "models" / name, expert, n_files=5)
    request = ties(
        *(tmp_path / "models" / name for name in names),
        base=tmp_path / "models/base",
        out=tmp_path / "out",
        more="--max-shard-size=1 --quiet",
    )
    before = tree(tmp_path)

    def run(soft: int, hard: int) -> Ended:
        done = subprocess.run(
            [*COMMAND, *request],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    line = assert_failed(run(256, 256), 2)
    assert "needs 362 open files, but the limit is 256 (ulimit -Hn); raise it, or use" in line
    assert tree(tmp_path) == before
    assert run(256, 362) == Ended(0, "", "")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 5
