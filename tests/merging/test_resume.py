"""Going on from where a run stopped: the same bytes as in one go, and nothing done twice."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import InputError, MergeReport, StorageError, merge
from tallies.engine.passes import Passes
from tallies.merging import journal
from tests.support import stages
from tests.support.checkpoints import FILE, INDEX, data_bytes, write
from tests.support.command import COMMAND, Ended, assert_failed, tallies, ties, tree
from tests.support.killable import Killer
from tests.support.stages import OPTIONS

Recipe = dict[str, Any]


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer()
    yield process
    process.close()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return stages.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def done(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> MergeReport:
    """The merge of ``recipe`` in one go."""
    report = merge(recipe, tmp_path_factory.mktemp("result") / "out", **OPTIONS)
    assert report.combined_again > 0
    return report


@pytest.fixture(scope="module")
def result(done: MergeReport) -> dict[str, bytes]:
    """The files of that merge."""
    files = data_bytes(Path(done.output.path))
    assert INDEX in files
    return files


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "out"


def what_it_says(report: MergeReport) -> dict[str, Any]:
    """A report, without what differs between two runs."""
    said = report.to_json_dict()
    for key in ("seconds", "gb_per_second", "peak_memory_bytes", "threads"):
        del said[key]
    del said["output"]["path"]
    return said


class Crash(BaseException):
    """Ends a run where it stands."""


class Run:
    """A merge with ``resume`` that may crash; remembers what it did."""

    def __init__(
        self, recipe: Recipe, out: Path, crash_at: int | str | None = None, **options: Any
    ) -> None:
        self._crash_at = crash_at
        self.surveyed = False
        self.combined: list[list[str]] = []
        """Names of merged tensors, file by file."""
        self.report: MergeReport | None = None
        original = {name: getattr(Passes, name) for name in ("survey_model", "combine", "_settle")}

        def survey(passes: Passes) -> None:
            self._pass_by("survey")
            self.surveyed = True
            original["survey_model"](passes)

        def combine(passes: Passes, jobs: Any) -> None:
            self._pass_by(len(self.combined))
            self.combined.append([passes._works[job].name for job in jobs])
            original["combine"](passes, jobs)

        def settle(passes: Passes, groups: Any) -> None:
            if self._crash_at == "repair":
                run = passes._run

                def some(rules: Any) -> Any:
                    assert len(rules) > 1
                    run(rules[1:])
                    raise Crash

                with mock.patch.object(passes, "_run", some):
                    original["_settle"](passes, groups)
            original["_settle"](passes, groups)

        patches: dict[str, Any] = {"survey_model": survey, "combine": combine, "_settle": settle}
        with mock.patch.multiple(Passes, **patches):
            try:
                self.report = merge(recipe, out, resume=True, **{**OPTIONS, **options})
            except Crash:
                assert not out.exists()

    def _pass_by(self, point: int | str) -> None:
        if self._crash_at == point:
            raise Crash


def crash(recipe: Recipe, out: Path, at: int | str, **options: Any) -> Run:
    run = Run(recipe, out, at, **options)
    assert run.report is None
    assert os.listdir(out.parent) == [f".{out.name}.tallies-partial"]
    return run


def workspace(out: Path) -> Path:
    return out.with_name(f".{out.name}.tallies-partial")


FILES = [
    ["a.few"],
    ["b.few"],
    ["model.embed_tokens.weight", "model.smooth"],
    ["y.few"],
    ["z.few"],
]
"""The merged tensors of each file. The second also holds a copy, and an alias of the third's."""


def test_in_one_go(recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path) -> None:
    run = Run(recipe, out)
    assert run.report is not None
    assert (run.surveyed, run.combined) == (True, FILES)
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


# Killed, then resumed.


@pytest.mark.parametrize("resumed_before", [False, True])
def test_resumed_after_a_kill_at_every_moment(
    killer: Killer,
    recipe: Recipe,
    done: MergeReport,
    result: dict[str, bytes],
    out: Path,
    resumed_before: bool,
) -> None:
    out.parent.mkdir()
    for moment in range(resumed_before, 1000, 1 + resumed_before):
        answer = killer.merge(die_at=moment, config=recipe, out=str(out), **OPTIONS)
        if resumed_before and not out.exists():
            # Killed again while it goes on.
            request = {"config": recipe, "out": str(out), "resume": True, **OPTIONS}
            answer = killer.merge(die_at=moment // 2, **request)
        if not answer["killed"] and "n_moments" in answer and answer["n_moments"] <= moment:
            break
        if not out.exists():
            report = merge(recipe, out, resume=True, **OPTIONS)
            assert what_it_says(report) == what_it_says(done)
        assert data_bytes(out) == result
        merge(recipe, out, overwrite=True, **OPTIONS)
        assert os.listdir(out.parent) == ["out"]
        shutil.rmtree(out)
    assert moment > 30


@pytest.mark.parametrize("n_finished", range(6))
def test_what_is_finished_is_not_done_again(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path, n_finished: int
) -> None:
    crash(recipe, out, n_finished if n_finished < 5 else "repair")
    new = workspace(out) / "new"
    names = sorted(path.name for path in new.glob("*.safetensors"))
    inodes = {name: (new / name).stat().st_ino for name in names}
    run = Run(recipe, out)
    assert run.report is not None
    assert (run.surveyed, run.combined) == (False, FILES[n_finished:])
    assert {name: (out / name).stat().st_ino for name in names} == inodes
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


def test_crashed_in_the_survey(recipe: Recipe, result: dict[str, bytes], out: Path) -> None:
    crash(recipe, out, "survey")
    run = Run(recipe, out)
    assert (run.surveyed, run.combined) == (True, FILES)
    assert data_bytes(out) == result


def test_crashed_again_and_again(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    for i in range(3):
        assert crash(recipe, out, 1).combined == [FILES[i]]
    run = Run(recipe, out)
    assert run.combined == FILES[3:]
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(done)
    assert data_bytes(out) == result


def test_resumed_with_other_threads_and_memory(
    recipe: Recipe, done: MergeReport, result: dict[str, bytes], out: Path
) -> None:
    crash(recipe, out, 2)
    run = Run(recipe, out, threads=3, max_memory="1GiB")
    assert (run.surveyed, run.combined) == (False, FILES[2:])
    assert data_bytes(out) == result
    assert run.report is not None
    assert run.report.output.fingerprint == done.output.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"density": 0.6, "scope": "tensor"}},
        {"parameters": {"density": 0.5, "equal": "first", "scope": "tensor"}},
        {"semantics": "mergekit"},
        {"merge_method": "task_arithmetic", "parameters": {"scale": 0.5}},
        {"merge_method": "linear", "parameters": {}},
        {"merge_method": "metagpt", "parameters": {}},
        {"merge_method": "model_stock", "parameters": {"filter_wise": True}},
        {
            "merge_method": "task_arithmetic",
            "parameters": {},
            "drop_layers": {"score": "cosine", "ratio": 0.5, "unit": "tensor"},
        },
        {"merge_method": "pcb", "parameters": {"ratio": 0.3}},
        {"merge_method": "ramplus", "parameters": {"scope": "model"}},
        {"merge_method": "sce", "parameters": {"select_topk": 0.5}},
        {"out_dtype": "bfloat16"},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_every_method_resumes(recipe: Recipe, out: Path, change: Recipe) -> None:
    other = {**recipe, **change}
    report = merge(other, out.parent / "whole", **OPTIONS)
    n_files = len(report.output.files)
    if n_files == 5:
        assert Run(other, out, 2).combined == FILES[:2]
        run = Run(other, out)
        assert run.combined == FILES[2:]
    else:
        Run(other, out, 1)
        run = Run(other, out)
        assert len(run.combined) == n_files - 1
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(report)
    assert data_bytes(out) == data_bytes(out.parent / "whole")


# What must not be taken over.


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"density": 0.5}},
        {"parameters": {"density": 0.6, "scale": 0.5}},
        {"semantics": "mergekit"},
        {"merge_method": "task_arithmetic", "parameters": {}},
        {"out_dtype": "float32"},
        {"nonfinite": "warn"},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_another_plan_starts_anew(recipe: Recipe, out: Path, change: Recipe) -> None:
    crash(recipe, out, 3)
    other = {**recipe, **change}
    run = Run(other, out)
    report = merge(other, out.parent / "whole", **OPTIONS)
    assert list(chain.from_iterable(run.combined)) == list(chain.from_iterable(FILES))
    assert run.report is not None
    assert what_it_says(run.report) == what_it_says(report)
    assert data_bytes(out) == data_bytes(out.parent / "whole")


def test_fewer_files_than_the_last_time(recipe: Recipe, out: Path) -> None:
    crash(recipe, out, 3)
    Run(recipe, out, max_shard_size="5GB")
    assert sorted(os.listdir(out)) == [
        "config.json",
        "journal",
        FILE,
        "tallies.json",
        "tokenizer",
    ]


def touch(path: Path) -> None:
    when = path.stat().st_mtime + 1
    os.utime(path, (when, when))


@pytest.mark.parametrize("model", ["base", "y"])
def test_a_changed_input_starts_anew(tmp_path: Path, out: Path, model: str) -> None:
    recipe = stages.models(tmp_path / "models")
    crash(recipe, out, 3)
    file = next((tmp_path / "models" / model).glob("*00001*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    touch(file)
    run = Run(recipe, out)
    assert (run.surveyed, run.combined) == (True, FILES)
    merge(recipe, out.parent / "whole", **OPTIONS)
    assert data_bytes(out) == data_bytes(out.parent / "whole")


def test_an_input_that_changes_meanwhile_starts_anew_the_next_time(
    tmp_path: Path, out: Path
) -> None:
    recipe = stages.models(tmp_path / "models")
    file = next((tmp_path / "models/z").glob("*00001*"))
    settle = Passes.settle_majority

    def touching(passes: Passes) -> None:
        settle(passes)
        touch(file)

    with (
        mock.patch.object(Passes, "settle_majority", touching),
        pytest.raises(StorageError, match="changed while it was being read"),
    ):
        merge(recipe, out, resume=True, **OPTIONS)
    assert Run(recipe, out).combined == FILES


def test_another_version_starts_anew(recipe: Recipe, out: Path) -> None:
    with mock.patch.object(journal, "__version__", "0.0.0"):
        crash(recipe, out, 3)
    assert Run(recipe, out).combined == FILES


def test_without_resume_nothing_is_taken_over(
    recipe: Recipe, result: dict[str, bytes], out: Path
) -> None:
    crash(recipe, out, 3)
    for file in (workspace(out) / "new").iterdir():
        file.write_bytes(b"?" * file.stat().st_size)
    (workspace(out) / "new/more").mkdir()
    (workspace(out) / "new/more/junk").touch()
    merge(recipe, out, **OPTIONS)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


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
    # The first tile is in no stretch that is repaired.
    at = 8 + int.from_bytes(content[:8], "little")
    assert content[at] == result[name][at]
    overwrite(workspace(out) / "new" / name, at, bytes([content[at] ^ 1]))
    run = Run(recipe, out)
    assert run.combined == [FILES[file]]
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
    write(out, {"old": np.zeros(3, np.float32)})
    old = data_bytes(out)
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
    write(out, {"old": np.zeros(3, np.float32)})
    n_moments = killer.merge(**request)["n_moments"]
    had_old = 0
    for moment in range(n_moments - 20, n_moments):
        shutil.rmtree(out)
        write(out, {"old": np.zeros(3, np.float32)})
        assert killer.merge(die_at=moment, **request)["killed"]
        had_old += (workspace(out) / "old").exists()
        assert "error" not in killer.merge(resume=True, **request)
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
