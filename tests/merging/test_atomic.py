"""The output is absent, the complete old or the complete new one, whatever happens meanwhile."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import InputError, StorageError, merge
from tallies.checkpoint.destination import Destination
from tallies.cli._signals import Stopped, stoppable
from tallies.engine.passes import Passes
from tallies.merging.result import MergeResult
from tallies.merging.run import MergeRun
from tests.support import stages
from tests.support.checkpoints import data_bytes, read, write
from tests.support.command import COMMAND, Ended, assert_failed, tallies, ties, tree
from tests.support.killable import Killer
from tests.support.stages import OPTIONS


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer()
    yield process
    process.close()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return stages.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def result(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the merge of ``recipe`` writes when nothing happens meanwhile."""
    out = tmp_path_factory.mktemp("result") / "out"
    report = merge(recipe, out, **OPTIONS)
    assert report.combined_again > 0
    assert report.tensors_tied == 1
    assert len(report.output.files) == 5
    return data_bytes(out)


@pytest.fixture
def inputs_stay(recipe: dict[str, Any]) -> Iterator[None]:
    root = Path(recipe["base_model"]).parent
    before = tree(root)
    yield
    assert tree(root) == before


pytestmark = pytest.mark.usefixtures("inputs_stay")


def old_output(out: Path) -> dict[str, bytes]:
    """An older result at ``out``, with what the new one will not have."""
    write(out, {"old": np.zeros(7, np.float32)}, config={})
    (out / "more").mkdir()
    (out / "more/notes.txt").write_text("mine")
    return data_bytes(out)


# Killed.


@pytest.mark.parametrize("kind", ["fresh", "over an old one", "without an exchange"])
def test_killed_at_every_moment(
    killer: Killer, recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    again = {"config": recipe, "out": out, "overwrite": kind != "fresh", **OPTIONS}
    request = {**again, "out": str(out), "exchange": kind != "without an exchange"}
    old = {} if kind == "fresh" else old_output(tmp_path / "old")
    states = []
    for moment in range(1000):
        if old:
            shutil.copytree(tmp_path / "old", out)
        answer = killer.merge(die_at=moment, **request)
        if not answer["killed"]:
            assert "error" not in answer
            break
        states.append("absent")
        if out.exists():
            found = data_bytes(out)
            states[-1] = "new" if found == result else "old"
            assert found in (old, result)
        merge(**{**again, "overwrite": True})
        assert data_bytes(out) == result
        assert set(os.listdir(tmp_path)) == ({"old", "out"} if old else {"out"})
        shutil.rmtree(out)
    # One after the other, and long enough in each.
    expected = {"fresh": ["absent", "new"], "over an old one": ["old", "new"]}
    order = [state for state, last in zip(states, [None, *states], strict=False) if state != last]
    assert order == expected.get(kind, ["old", "absent", "new"])
    assert len(states) > 30
    assert data_bytes(out) == result


def test_old_output_comes_back_when_it_was_moved_away(
    killer: Killer, recipe: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    old = old_output(out)
    request = {"config": recipe, "out": str(out), "overwrite": True, "exchange": False, **OPTIONS}
    moment = 0
    while out.exists():
        assert killer.merge(die_at=moment, **request)["killed"]
        moment += 1
    # Asked for a place that seemed empty, this run finds that it is not.
    with pytest.raises(InputError, match="is not empty; pass --overwrite"):
        merge(recipe, out, **OPTIONS)
    assert data_bytes(out) == old
    assert os.listdir(tmp_path) == ["out"]


def test_killed_at_random_times(killer: Killer, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name in ("base", "a", "b"):
        tensors = {f"t{i}": rng.standard_normal(400_000).astype(np.float32) for i in range(4)}
        write(tmp_path / name, tensors)
    recipe = {
        "merge_method": "ties",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "a")}, {"model": str(tmp_path / "b")}],
    }
    request = {"config": recipe, "out": str(tmp_path / "out"), "overwrite": True, **OPTIONS}
    seconds = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        assert not killer.merge(**request)["killed"]
        seconds = min(seconds, time.perf_counter() - start)
    result = data_bytes(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    old = old_output(tmp_path / "out")
    n_killed = 0
    for i in range(12):
        after = random.Random(i).uniform(0, seconds)
        n_killed += killer.merge(die_after=after, **request)["killed"]
        assert data_bytes(tmp_path / "out") in (old, result)
    assert n_killed > 0
    assert not killer.merge(**request)["killed"]
    assert data_bytes(tmp_path / "out") == result
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "base", "out"]


# Signals.


@pytest.fixture
def endless(tmp_path: Path) -> list[str]:
    """Arguments of a merge that would take long: 64 MiB of zeros on no disk, read 256 times."""
    model = tmp_path / "models/zeros.safetensors"
    model.parent.mkdir()
    entry = {"dtype": "F32", "shape": [1 << 24], "data_offsets": [0, 1 << 26]}
    header = json.dumps({"w": entry}).encode()
    model.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(model, 8 + len(header) + (1 << 26))
    return ["merge", "--method=linear", *[f"--model={model}"] * 256, f"--out={tmp_path}/out"]


def start(arguments: list[str], out: Path, **options: Any) -> subprocess.Popen[str]:
    """A merge that has begun to write."""
    running = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may start its background jobs with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )
    while not list(out.parent.glob(f".{out.name}.*/*/*.safetensors")):
        assert running.poll() is None
        time.sleep(0.005)
    return running


def end(running: subprocess.Popen[str]) -> Ended:
    out, err = running.communicate(timeout=60)
    return Ended(running.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("old", [False, True])
def test_a_signal_leaves_nothing(
    endless: list[str], tmp_path: Path, number: signal.Signals, old: bool
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and so by what is started")
    before = old_output(tmp_path / "out") if old else {}
    running = start([*endless, "--overwrite"], tmp_path / "out")
    # The second must not stop the first from being obeyed.
    for _ in range(2):
        running.send_signal(number)
    ended = end(running)
    assert assert_failed(ended, 128 + number) == "tallies: interrupted"
    assert set(os.listdir(tmp_path)) == ({"models", "out"} if old else {"models"})
    if old:
        assert data_bytes(tmp_path / "out") == before


def test_signals_that_are_ignored_stay_so() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(Stopped) as stopped, stoppable():
            signal.raise_signal(signal.SIGHUP)
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
        assert stopped.value.exit_status == 143
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])


# Failures in the middle.


class Halt(Exception):
    """What the tests throw in."""


def at_combine(number: int, act: Callable[[], object]) -> mock._patch[Any]:
    """Act before the files are combined, when it is the turn of that number."""
    calls = iter(range(1000))
    combine = Passes.combine

    def acting(self: Passes, jobs: Any) -> None:
        if next(calls) == number:
            act()
        combine(self, jobs)

    return mock.patch.object(Passes, "combine", acting)


def fail(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "patch",
    [
        lambda error: at_combine(2, fail(error)),
        lambda error: mock.patch.object(Passes, "survey_model", fail(error)),
        lambda error: mock.patch.object(Passes, "settle_majority", fail(error)),
        lambda error: mock.patch("shutil.copyfile", fail(error)),
        lambda error: mock.patch.object(MergeResult, "report", fail(error)),
        lambda error: mock.patch.object(Path, "write_text", fail(error)),
        lambda error: mock.patch("os.rename", fail(error)),
    ],
    ids=["combine", "survey", "repair", "copy", "report", "report file", "rename"],
)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (OSError("something"), StorageError),
        (Halt("my own"), Halt),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "error without number", "own", "interrupt"],
)
def test_failure_in_the_middle(
    recipe: dict[str, Any],
    tmp_path: Path,
    old: bool,
    patch: Callable[[BaseException], Any],
    error: BaseException,
    expected: type[BaseException],
) -> None:
    out = tmp_path / "new" / "deep" / "out"
    if old:
        out.parent.mkdir(parents=True)
        old_output(out)
    before = tree(tmp_path)
    with patch(error), pytest.raises(expected) as raised:
        merge(recipe, out, overwrite=old, **OPTIONS)
    assert tree(tmp_path) == before
    if expected is StorageError:
        assert str(raised.value).endswith(("No space left on device", "something"))
        assert "None" not in str(raised.value)


def test_a_caller_stops_the_merge_from_its_progress(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Halt):
        merge(recipe, tmp_path / "out", progress=fail(Halt()), **OPTIONS)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("limit", "words"),
    [(40_000, "model-00001-of-00005.safetensors: cannot reserve"), (70_000, "vocab.txt: cannot")],
)
def test_disk_full(recipe: dict[str, Any], tmp_path: Path, limit: int, words: str) -> None:
    shutil.copytree(Path(recipe["base_model"]).parent, tmp_path / "models")
    (tmp_path / "models/base/tokenizer/vocab.txt").write_bytes(bytes(80_000))
    old_output(tmp_path / "out")
    before = tree(tmp_path)
    models = [tmp_path / "models" / name for name in "xyz"]
    run = subprocess.run(
        [
            *COMMAND,
            *ties(*models, base=tmp_path / "models/base", out=tmp_path / "out"),
            *("--overwrite", "--max-shard-size=50000"),
        ],
        # Files beyond the limit fail to grow, as on a disk that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    line = assert_failed(Ended(run.returncode, run.stdout, run.stderr), 3)
    assert words in line
    assert line.endswith("File too large")
    assert tree(tmp_path) == before


# Inputs that change while they are read.


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    """A directory with models that a test may change."""
    stages.models(tmp_path / "models")
    return tmp_path / "models"


def merge_while(own: Path, number: int, act: Callable[[], object]) -> Ended:
    models = [own / name for name in "xyz"]
    request = ties(*models, base=own / "base", out=own.parent / "new/out", more="--threads=1")
    with at_combine(number, act):
        return tallies(*request, "--max-memory=64KiB", "--max-shard-size=50000")


@pytest.mark.parametrize("n_bytes", [0, 100, 60_000])
def test_file_that_shrinks(own_models: Path, n_bytes: int) -> None:
    shard = own_models / "y/model-00001-of-00002.safetensors"
    ended = merge_while(own_models, 1, lambda: os.truncate(shard, n_bytes))
    line = assert_failed(ended, 3)
    assert f"{shard}: ends at byte " in line
    assert line.endswith("it was truncated while being read")
    assert os.listdir(own_models.parent) == ["models"]


def test_copied_tensor_in_a_file_that_shrinks(own_models: Path) -> None:
    (shard,) = own_models.glob("base/*00002-of-00002.safetensors")
    assert "ints" in read(own_models / "base")
    copy = MergeRun._copy_tensors

    def cut_and_copy(self: MergeRun, *arguments: Any) -> None:
        os.truncate(shard, 1000)
        copy(self, *arguments)

    # The first file has nothing to copy.
    with mock.patch.object(MergeRun, "_copy_tensors", cut_and_copy):
        ended = merge_while(own_models, -1, lambda: None)
    assert f"{shard}: " in assert_failed(ended, 3)
    assert os.listdir(own_models.parent) == ["models"]


@pytest.mark.parametrize("seconds", [-10, 10])
def test_file_that_is_touched(own_models: Path, seconds: int) -> None:
    (shard,) = own_models.glob("base/*00001-of-00002.safetensors")
    when = shard.stat().st_mtime + seconds
    ended = merge_while(own_models, 1, lambda: os.utime(shard, (when, when)))
    line = assert_failed(ended, 3)
    assert f"{shard}: changed while it was being read" in line
    assert line.endswith("try again when nothing writes to it")
    assert os.listdir(own_models.parent) == ["models"]


def test_file_that_grows(own_models: Path) -> None:
    (shard,) = own_models.glob("z/*00001-of-00002.safetensors")
    size = shard.stat().st_size
    ended = merge_while(own_models, 1, lambda: os.truncate(shard, size + 1))
    assert f"{shard}: changed while it was being read (from {size} to {size + 1} bytes" in (
        assert_failed(ended, 3)
    )
    assert os.listdir(own_models.parent) == ["models"]


@pytest.mark.parametrize("file", ["z/model-00001-of-00002.safetensors", "base/tokenizer/vocab.txt"])
def test_file_that_vanishes(own_models: Path, file: str) -> None:
    line = assert_failed(merge_while(own_models, 1, (own_models / file).unlink), 3)
    assert f"{own_models / file}: cannot be " in line
    assert os.listdir(own_models.parent) == ["models"]


# Where the output goes.


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
    expected = [f"{new}/{file}" for file in (*result, "tallies.json")] + [new, f"{new}/tokenizer"]
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
