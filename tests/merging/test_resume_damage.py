"""Going on from damaged files, and from other ends than a kill."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from tallies import InputError, MergeReport, merge
from tallies.engine.passes import Passes
from tests.support import stages
from tests.support.checkpoints import data_bytes, write
from tests.support.command import COMMAND, Ended, assert_failed, tallies, ties, tree
from tests.support.killable import Killer
from tests.support.outputs import old_output
from tests.support.resuming import FILES, Recipe, Run, crash, what_it_says, workspace
from tests.support.stages import OPTIONS

# Damage.


def damaged_lines(text: bytes) -> dict[str, tuple[bytes, int]]:
    """Journals of which only so many records can be believed: the key, the survey, two files."""
    lines = text.splitlines(keepends=True)
    assert len(lines) == 4
    begins = [sum(map(len, lines[:i])) for i in range(5)]
    cases = {"empty": (b"", 0), "zeros": (bytes(len(text)), 0), "no text": (b"\xff" * 99, 0)}
    for i in range(4):
        for name, at in {"digest": 3, "begin": 20, "middle": len(lines[i]) // 2}.items():
            flipped = bytearray(text)
            flipped[begins[i] + at] ^= 1
            cases[f"line {i}, {name} flipped"] = bytes(flipped), i
            cases[f"line {i}, cut at {name}"] = text[: begins[i] + at], i
        cases[f"line {i}, no end"] = text[: begins[i + 1] - 1], i
        cases[f"line {i}, end only"] = text[: begins[i]] + b"\n", i
    cases["lines swapped"] = b"".join([*lines[:2], lines[3], lines[2]]), 4
    cases["line missing"] = b"".join([*lines[:2], lines[3]]), 3
    cases["line twice"] = text + lines[3], 4
    cases["key missing"] = b"".join(lines[1:]), 0
    cases["more"] = text + b"and more", 4
    return cases


def test_damaged_journal(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    crash(recipe, out, 2)
    shutil.copytree(workspace(out), out.parent / "kept")
    for case, (content, n_records) in damaged_lines(
        (workspace(out) / "journal").read_bytes()
    ).items():
        shutil.rmtree(workspace(out), ignore_errors=True)
        shutil.copytree(out.parent / "kept", workspace(out))
        (workspace(out) / "journal").write_bytes(content)
        run = Run(recipe, out)
        assert run.surveyed == (n_records < 2), case
        assert len(run.combined) == 5 - max(0, n_records - 2), case
        assert run.report is not None
        assert what_it_says(run.report) == what_it_says(done), case
        assert data_bytes(out) == result, case
        shutil.rmtree(out)


def test_a_torn_journal_is_mended(recipe: Recipe, result: dict[str, bytes], out: Path) -> None:
    crash(recipe, out, 2)
    with open(workspace(out) / "journal", "ab") as file:
        file.write(b"torn")
    crash(recipe, out, 1)
    run = Run(recipe, out)
    assert run.combined == FILES[3:]
    assert data_bytes(out) == result


def overwrite(path: Path, at: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        file.write(content)


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda files: overwrite(files[0], -1, b"\x01"), {0}),
        (lambda files: overwrite(files[0], -4096, bytes(4096)), {0}),
        (lambda files: overwrite(files[2], 9, b" "), {2}),
        (lambda files: os.truncate(files[0], 0), {0}),
        (lambda files: os.truncate(files[1], 30_000), {1, 2}),
        (lambda files: files[1].unlink(), {1, 2}),
        (lambda files: overwrite(files[1], 600, b"\x01"), {1}),
        (lambda files: overwrite(files[1], -1, b"\x01"), {2}),
    ],
    ids=["last byte", "zeros", "header", "emptied", "cut", "removed", "copy", "alias"],
)
def test_a_damaged_file_is_made_again(
    recipe: Recipe,
    done: MergeReport,
    result: dict[str, bytes],
    out: Path,
    damage: Callable[[list[Path]], object],
    again: set[int],
) -> None:
    crash(recipe, out, 3)
    damage(sorted((workspace(out) / "new").glob("*.safetensors")))
    run = Run(recipe, out)
    assert run.combined == [FILES[i] for i in sorted({*again, 3, 4})]
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result


@pytest.mark.parametrize("file", range(5))
def test_a_file_damaged_in_the_repair_is_made_again(
    recipe: Recipe, result: dict[str, bytes], out: Path, file: int
) -> None:
    crash(recipe, out, "repair")
    name = f"model-{file + 1:05}-of-00005.safetensors"
    content = (workspace(out) / "new" / name).read_bytes()
    # The first tile is in no stretch that is repaired, but for the one tile of the first file.
    at = 8 + int.from_bytes(content[:8], "little")
    assert content[at] == result[name][at]
    overwrite(workspace(out) / "new" / name, at, bytes([content[at] ^ 1]))
    run = Run(recipe, out)
    assert run.combined == ([FILES[file]] if file > 0 else [])
    assert data_bytes(out) == result


# Other ends than a kill.


def test_a_wrong_request_leaves_nothing_even_with_resume(tmp_path: Path, out: Path) -> None:
    recipe = stages.models(tmp_path / "models")
    bad = {"w": np.array([np.nan, 1], np.float32), "v": np.zeros(20_000, np.float32)}
    for name in ("b", "e"):
        write(tmp_path / name, bad)
    recipe |= {"base_model": str(tmp_path / "b"), "models": [{"model": str(tmp_path / "e")}]}
    with pytest.raises(InputError, match="NaN"):
        merge(recipe, out, resume=True, **OPTIONS)
    assert not out.parent.exists()


def test_resumed_after_a_full_disk(recipe: Recipe, result: dict[str, bytes], out: Path) -> None:
    models = [entry["model"] for entry in recipe["models"]]
    more = "--resume --quiet --max-shard-size=50000 --param=density=0.6"
    request = ties(*models, base=recipe["base_model"], out=out, more=more)

    def run(limit: int) -> Ended:
        done = subprocess.run(
            [*COMMAND, *request],
            # Files beyond the limit fail to grow, as on a disk that is full.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    assert "File too large" in assert_failed(run(40_000), 3)
    assert os.listdir(out.parent) == [workspace(out).name]
    assert run(resource.RLIM_INFINITY) == Ended(0, "", "")
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


def test_resumed_over_an_old_output(recipe: Recipe, result: dict[str, bytes], out: Path) -> None:
    old = old_output(out)
    with (
        mock.patch.object(Passes, "settle_majority", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        merge(recipe, out, resume=True, overwrite=True, **OPTIONS)
    assert data_bytes(out) == old
    models = [entry["model"] for entry in recipe["models"]]
    refused = tallies(*ties(*models, base=recipe["base_model"], out=out, more="--resume"))
    assert "is not empty; pass --overwrite" in assert_failed(refused, 2)
    report = merge(recipe, out, resume=True, overwrite=True, **OPTIONS)
    assert report.output.path == str(out)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


def test_resumed_after_a_kill_in_an_exchange(
    killer: Killer, recipe: Recipe, result: dict[str, bytes], out: Path
) -> None:
    request = {"config": recipe, "out": str(out), "overwrite": True, "exchange": False, **OPTIONS}
    old_output(out)
    n_moments = killer.run(**request)["n_moments"]
    had_old = 0
    for moment in range(n_moments - 20, n_moments):
        shutil.rmtree(out)
        old_output(out)
        assert killer.run(die_at=moment, **request)["killed"]
        had_old += (workspace(out) / "old").exists()
        assert "error" not in killer.run(resume=True, **request)
        assert data_bytes(out) == result
        assert os.listdir(out.parent) == ["out"]
    assert had_old > 1


def test_terminated_with_resume_keeps_what_is_finished(tmp_path: Path, out: Path) -> None:
    rng = np.random.default_rng(3)
    for name in ("base", "a"):
        tensors = {f"t{i:02}": rng.standard_normal(300_000).astype(np.float32) for i in range(20)}
        write(tmp_path / "models" / name, tensors)
    request = ties(
        tmp_path / "models/a",
        base=tmp_path / "models/base",
        out=out,
        more="--resume --quiet --max-shard-size=1 --max-memory=64KiB --threads=1",
    )
    assert tallies(*request).status == 0
    whole = data_bytes(out)
    shutil.rmtree(out)
    running = subprocess.Popen(
        [*COMMAND, *request], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    record = workspace(out) / "journal"
    while not record.exists() or record.read_bytes().count(b"\n") < 3:
        assert running.poll() is None
        time.sleep(0.001)
    running.send_signal(signal.SIGTERM)
    printed, error = running.communicate(timeout=60)
    assert_failed(Ended(running.returncode, printed, error), 143)
    assert record.read_bytes().count(b"\n") < 22
    before = tree(workspace(out))
    assert set(before) >= {"journal", "new"}
    assert tallies(*request) == Ended(0, "", "")
    assert data_bytes(out) == whole
    assert os.listdir(out.parent) == ["out"]
