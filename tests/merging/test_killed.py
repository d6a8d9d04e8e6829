"""The output is absent, the complete old or the complete new one, whoever ends the run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge
from tallies.cli._signals import Stopped, stoppable
from tests.support.checkpoints import data_bytes, write
from tests.support.command import COMMAND, Ended, assert_failed
from tests.support.killable import Killer
from tests.support.outputs import old_output
from tests.support.stages import OPTIONS

pytestmark = pytest.mark.usefixtures("inputs_stay")


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
        answer = killer.run(die_at=moment, **request)
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
        assert killer.run(die_at=moment, **request)["killed"]
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
        assert not killer.run(**request)["killed"]
        seconds = min(seconds, time.perf_counter() - start)
    result = data_bytes(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    old = old_output(tmp_path / "out")
    n_killed = 0
    for i in range(12):
        after = random.Random(i).uniform(0, seconds)
        n_killed += killer.run(die_after=after, **request)["killed"]
        assert data_bytes(tmp_path / "out") in (old, result)
    assert n_killed > 0
    assert not killer.run(**request)["killed"]
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
