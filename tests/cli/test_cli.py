"""The command line: every command and option, exit statuses, and what goes to which stream."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pytest

from tallies import __version__, cpu, cuda, methods
from tallies.cli import group
from tests.reference.linear import linear
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support.checkpoints import FILE, Array, Model, assert_holds, data_bytes, read, write
from tests.support.command import COMMAND, assert_failed, tallies, tree


def f32(values: object) -> Array:
    return np.array(values, np.float32)


def printed(*arguments: object) -> str:
    """What a command prints that does what it is asked for."""
    ended = tallies(*arguments)
    assert (ended.status, ended.err) == (0, "")
    return ended.out


def refused(arguments: Sequence[object], *parts: str) -> None:
    """The command fails for its request, on one line with these parts."""
    line = assert_failed(tallies(*arguments), 2)
    for part in parts:
        assert part in line


BASE: Model = {"w": f32([[1, 2], [3, 4]]), "v": f32([0.5])}
EXPERTS: list[Model] = [
    {"w": f32([[2, 2], [2, 5]]), "v": f32([1.5])},
    {"w": f32([[0, 3], [1, 6]]), "v": f32([-0.25])},
]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base and two experts in the current directory; the base has a file more."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base", BASE, config={"model_type": "tiny"})
    for name, expert in zip("ab", EXPERTS, strict=True):
        write(tmp_path / name, expert)
    (tmp_path / "ties.yml").write_text(
        "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n- model: b\n"
        "parameters: {density: 0.5}\n"
    )
    return tmp_path


TIES = ("--method", "ties", "--base", "base", "--model", "a", "--model", "b")


# What the commands are.


def test_no_command_is_a_question_for_help() -> None:
    text = printed()
    assert text == printed("--help") == printed("-h")
    for name in group.list_commands(click.Context(group)):
        assert f"\n  {name} " in text
    for status in ("0 done", "2 the request", "3 reading", "130 interrupted"):
        assert status in " ".join(text.split())


@pytest.mark.parametrize("name", ["merge", "plan", "inspect", "methods", "info", "demo"])
def test_every_command_and_option_has_help(name: str) -> None:
    text = printed(name, "--help")
    assert text == printed(name, "-h")
    assert text.startswith(f"Usage: tallies {name}")
    command = group.get_command(click.Context(group), name)
    assert command is not None and command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert all(one in text for one in option.opts)


def test_the_options_of_merge_are_those_agreed_on() -> None:
    text = printed("merge", "--help")
    options = (
        "method base model param out max-memory threads device max-shard-size out-dtype seed "
        "resume overwrite nonfinite semantics quiet json dry-run"
    )
    for option in options.split():
        assert f"  --{option}" in text


def test_the_version_and_the_module() -> None:
    said = printed("--version")
    assert said == f"tallies, version {__version__}\n"
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == said


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from tallies.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'numpy', 'torch', 'pydantic', 'yaml'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


# merge


EXPECTED = ties_model(BASE, EXPERTS, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ties.yml", "out"),
        ("ties.yml", "--out", "out"),
        ("--out", "out", "ties.yml"),
        (*TIES, "--param", "density=0.5", "--out", "out"),
        (*TIES, "--param=density=0.5", "out"),
        ("out", *TIES, "--param", "density=0.5"),
        (*TIES[:4], "--model", "a:density=0.5", "--model", "b:weight=1,density=0.5", "out"),
        ("ties.yml", "out", "--threads", "1", "--max-memory", "64KiB", "--device", "cpu", "--sync"),
    ],
)
def test_all_forms_of_a_merge(models: Path, arguments: Sequence[str]) -> None:
    text = printed("merge", *arguments)
    assert_holds(models / "out", EXPECTED)
    assert (models / "out/config.json").read_bytes() == (models / "base/config.json").read_bytes()
    assert "ties (paper semantics) of 2 models" in text
    assert json.loads((models / "out/tallies.json").read_text())["output"]["fingerprint"] in text


def test_parameters_of_models_and_of_all(models: Path) -> None:
    arguments = ["--model", "a:weight=0.5", "--model", "b:weight=[2,2]", "--param", "lambda=0.3"]
    printed("merge", "--method", "task_arithmetic", "--base", "base", *arguments, "--out", "out")
    assert_holds(
        models / "out",
        {
            name: task_arithmetic(BASE[name], [e[name] for e in EXPERTS], [0.5, 2.0], 0.3)
            for name in BASE
        },
    )


def test_options_of_the_recipe(models: Path) -> None:
    report = json.loads(
        printed(
            *("merge", "ties.yml", "out", "--json", "--out-dtype", "bfloat16", "--seed", 7),
            *("--semantics", "mergekit", "--nonfinite", "propagate"),
            *("--max-shard-size", 8, "--files-from", "a"),
        )
    )
    recipe = report["recipe"]
    assert recipe["out_dtype"] == "BF16"
    assert recipe["seed"] == 7
    assert recipe["semantics"] == report["semantics"] == "mergekit"
    assert recipe["nonfinite"] == "propagate"
    assert recipe["max_shard_size"] == "8"
    assert recipe["files_from"] == str(models / "a")
    assert report == json.loads((models / "out/tallies.json").read_text())
    assert len(report["output"]["files"]) == 2
    assert not (models / "out/config.json").exists()
    assert {tensor.dtype.name for tensor in read(models / "out").values()} == {"bfloat16"}


def test_a_result_repeats_itself(models: Path) -> None:
    printed("merge", "ties.yml", "out", "--max-shard-size", "4")
    printed("merge", "out/tallies.json", "again")
    assert data_bytes(models / "again") == data_bytes(models / "out")


def test_the_report_is_json_where_thresholds_are_infinite(models: Path) -> None:
    write(models / "odd", {"w": f32([[np.inf, np.nan], [1, 2]]), "v": f32([np.nan])})
    arguments = ["--method", "ties", "--base", "base", "--model", "odd", "--param", "scope=tensor"]
    text = printed("merge", *arguments, "--nonfinite", "propagate", "--json", "out")

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    report = json.loads(text, parse_constant=refuse)
    assert report["thresholds"] == {"v": [None], "w": [None]}


def test_quiet_prints_nothing(models: Path) -> None:
    assert printed("merge", "ties.yml", "out", "--quiet", "--progress") == ""
    assert_holds(models / "out", EXPECTED)
    assert printed("merge", "ties.yml", "--quiet", "--dry-run") == ""


def test_options_win_over_the_recipe(models: Path) -> None:
    stated = {"seed": 7, "semantics": "mergekit", "nonfinite": "warn", "out_dtype": "float16"}
    recipe = "".join(f"{key}: {value}\n" for key, value in stated.items())
    (models / "stated.yml").write_text((models / "ties.yml").read_text() + recipe)
    for given in ([], ["--seed", 0], ["--semantics", "paper"], ["--nonfinite", "error"]):
        plan = json.loads(printed("plan", "stated.yml", "--json", *given))["recipe"]
        wanted = {key: str(value) for key, value in stated.items()} | {"out_dtype": "F16"}
        wanted |= {given[0].removeprefix("--"): str(given[1])} if given else {}
        assert {key: str(plan.get(key, "0")) for key in stated} == wanted


def test_overwrite_replaces_what_is_there(models: Path) -> None:
    (models / "out").mkdir()
    (models / "out/mine.txt").write_text("x")
    before = sorted(models.iterdir())
    refused(["merge", "ties.yml", "out"], "output 'out'", "--overwrite")
    assert (models / "out/mine.txt").read_text() == "x"
    printed("merge", "ties.yml", "out", "--overwrite")
    assert_holds(models / "out", EXPECTED)
    assert not (models / "out/mine.txt").exists()
    assert sorted(models.iterdir()) == before


def test_resume_without_anything_to_resume_is_a_merge(models: Path) -> None:
    printed("merge", "ties.yml", "out", "--resume")
    assert_holds(models / "out", EXPECTED)
    assert {*data_bytes(models / "out")} == {FILE, "config.json"}


# plan


@pytest.mark.parametrize("arguments", [("ties.yml",), (*TIES, "--param", "density=0.5")])
def test_a_plan_and_a_dry_run_are_the_same(models: Path, arguments: Sequence[str]) -> None:
    before = tree(models)
    text = printed("plan", *arguments)
    assert text == printed("merge", *arguments, "--dry-run")
    assert text == printed("merge", *arguments, "--dry-run", "--out", "out")
    for part in ("ties (paper semantics) of 2 models", "2 merged (5 parameters)", "survey"):
        assert part in text
    said = json.loads(printed("plan", *arguments, "--json"))
    assert said == json.loads(printed("merge", *arguments, "--dry-run", "--json"))
    assert said["tensors"]["w"] == {
        "action": "merge",
        "dtype": "F32",
        "shape": [2, 2],
        "file": FILE,
        "n_bytes": 16,
        "density": [0.5, 0.5],
        "weight": [1.0, 1.0],
        "scale": 1.0,
        "scope": "model",
        "equal": "keep",
        "normalize": True,
        "int8_mask": False,
    }
    assert tree(models) == before


# inspect, methods, info


def test_inspect(models: Path) -> None:
    text = printed("inspect", "a")
    said = json.loads(printed("inspect", "a", "--json", "--threads", "1"))
    assert said["files"] == {FILE: (models / "a" / FILE).stat().st_size}
    assert (said["n_tensors"], said["n_elements"], said["n_bytes"]) == (2, 5, 20)
    assert said["elements_by_dtype"] == {"F32": 5}
    assert [one["shape"] for one in said["tensors"].values()] == [[1], [2, 2]]
    for fingerprint in (said["fingerprint"], said["tensors"]["w"]["fingerprint"]):
        assert fingerprint in text
    file = json.loads(printed("inspect", f"a/{FILE}", "--json"))
    assert file["fingerprint"] == said["fingerprint"]
    assert json.loads(printed("inspect", "b", "--json"))["tensors"]["w"] != (said["tensors"]["w"])
    headers = json.loads(printed("inspect", "a", "--no-fingerprints", "--json"))
    assert headers["fingerprint"] is headers["tensors"]["w"]["fingerprint"] is None
    assert "fingerprint" not in printed("inspect", "a", "--no-fingerprints")


def test_a_fingerprint_is_of_names_types_shapes_and_content(tmp_path: Path) -> None:
    w = f32([1, 2, 3, 4])
    variants: list[Model] = [
        {"w": w},
        {"x": w},
        {"w": w.reshape(2, 2)},
        {"w": w.view(np.int32)},
        {"w": w[::-1]},
        {"w": w, "x": w[:0]},
        {"w": f32([1, 2, 3, -4])},
    ]
    found = set()
    for i, tensors in enumerate(variants):
        path = write(tmp_path / str(i), tensors)
        found.add(json.loads(printed("inspect", path, "--json"))["fingerprint"])
        sharded = write(tmp_path / f"{i}-sharded", tensors, n_files=len(tensors))
        found.add(json.loads(printed("inspect", sharded, "--json"))["fingerprint"])
    assert len(found) == len(variants)


def test_methods_and_info() -> None:
    listed = printed("methods")
    assert all(f"\n{name}: " in f"\n{listed}" for name in methods.names())
    for part in (
        "required in peft [0..1]; ",
        "scope=model [model|tensor]; ",
        "mask_lambda=0.4 [0..]",
    ):
        assert part in listed
    assert printed("methods", "ties").startswith("ties: Trim each task vector")
    said = json.loads(printed("info", "--json"))
    text = printed("info")
    assert said["tallies"] == __version__
    assert (said["target"], said["targets"]) == (cpu.target(), cpu.targets())
    assert said["numpy"] == np.__version__
    found = ", ".join(device.name for device in cuda.devices()) or cuda.problem()
    for part in (f"cuda      {found}", f"target    {cpu.target()}", said["torch"]):
        assert part in text


def test_the_environment_forces_an_instruction_set() -> None:
    for target in cpu.targets():
        done = subprocess.run(
            [*COMMAND, "info", "--json"],
            env={**os.environ, "TALLIES_CPU_TARGET": target},
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout)["target"] == target


# What is refused, on one line, with nothing written.


REFUSED: list[tuple[str, tuple[str, ...]]] = [
    ("marge", ("'marge'", "did you mean 'merge'?", "tallies --help")),
    ("--verbose", ("--verbose",)),
    ("merge", ("recipe file", "--method")),
    ("merge out", ("out: cannot be read",)),
    ("merge ties.yml", ("the output is missing", "--out")),
    ("merge ties.yml out --out other", ("two outputs", "'out'", "'other'")),
    ("merge ties.yml out more", ("more",)),
    ("merge ties.yml out --method ties", ("recipe file and --method",)),
    ("merge ties.yml out --param density=1", ("recipe file and --method",)),
    ("merge ties.yml out --model a", ("recipe file and --method",)),
    ("merge absent.yml out", ("absent.yml", "No such file")),
    ("merge --method tie --model a out", ("'tie'", "did you mean 'ties'?")),
    ("merge --method ties --model a out", ("base_model", "--base DIR")),
    ("merge --method linear out", ("models",)),
    ("merge --method linear --model c out", ("c: no such file or directory",)),
    ("merge --method linear --model a --param wieght=1 out", ("did you mean 'weight'?",)),
    ("merge --method linear --model a:wieght=1 out", ("model 'a'", "did you mean 'weight'?")),
    ("merge --method linear --model a --param weight out", ("'weight'", "key=value")),
    ("merge --method linear --model a --param weight=x out", ("weight", "'x'", "number")),
    ("merge ties.yml out --max-memroy 1GiB", ("--max-memroy", "--max-memory")),
    ("merge ties.yml out --threads two", ("--threads", "two")),
    ("merge ties.yml out --device tpu", ("--device", "'cpu', 'cuda'")),
    ("merge ties.yml out --out-dtype float33", ("'float33'", "did you mean 'float32'?")),
    ("merge ties.yml out --seed -1", ("seed: found -1",)),
    ("merge --method emr --base base --model a --semantics peft out", ("emr has only paper",)),
    ("plan", ("recipe file", "--method")),
    ("plan ties.yml out", ("out",)),
    ("plan ties.yml --seed x", ("--seed",)),
    ("inspect", ("PATH",)),
    ("inspect c", ("c: no such file or directory",)),
    ("inspect a --threads 0", ("threads: found 0",)),
    ("methods tie", ("'tie'", "did you mean 'ties'?")),
    ("info extra", ("extra",)),
]


@pytest.mark.parametrize(("line", "parts"), REFUSED, ids=[line for line, _ in REFUSED])
def test_wrong_requests(models: Path, line: str, parts: tuple[str, ...]) -> None:
    before = tree(models)
    refused(line.split(), *parts)
    assert tree(models) == before


def test_a_name_that_is_no_text_is_refused(models: Path) -> None:
    odd = os.fsdecode(b"\xff")
    write(models / odd, EXPERTS[0])
    for arguments in (("--model", odd, "out"), ("--model", "a", odd + "2")):
        refused(["merge", "--method", "linear", *arguments], r"\udcff", "not UTF-8")


def test_an_error_of_our_own_is_one_line_too(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("tallies.cli.merge.merge", broken)
    said = "internal error: RuntimeError: two lines; TALLIES_DEBUG=1 shows where"
    assert tallies("merge", "ties.yml", "out") == (3, "", f"tallies: {said}\n")


# What happens outside of this process.


def test_debugging_shows_the_traceback_before_the_line(models: Path) -> None:
    quiet = tallies("merge", "absent.yml", "out")
    assert_failed(quiet, 2)
    for value, begin in (("1", "Traceback (most recent call last):\n"), ("0", quiet.err)):
        done = subprocess.run(
            [*COMMAND, "merge", "absent.yml", "out"],
            env={**os.environ, "TALLIES_DEBUG": value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(begin)
        assert done.stderr.endswith(quiet.err)
        assert ("recipe/text.py" in done.stderr) == (value == "1")


def test_a_reader_that_leaves_is_no_failure() -> None:
    for arguments in (["--help"], ["methods"], ["info", "--json"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=write_end, stderr=subprocess.PIPE, check=False
        )
        os.close(write_end)
        assert (done.returncode, done.stderr) == (0, b"")


def on_a_terminal(*arguments: str) -> bytes:
    """What a merge writes to standard error when that is a terminal."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    try:
        subprocess.run(
            [*COMMAND, "merge", *arguments], stdout=subprocess.PIPE, stderr=its, check=True
        )
        os.close(its)
        found = b""
        try:
            while part := os.read(ours, 1 << 16):
                found += part
        except OSError:  # how a terminal ends on Linux
            pass
        return found
    finally:
        os.close(ours)


def test_a_bar_is_for_terminals_unless_asked_for(models: Path) -> None:
    bar = on_a_terminal("ties.yml", "0")
    assert b"merge: 100%" in bar and b"B/s" in bar
    assert on_a_terminal("ties.yml", "1", "--no-progress") == b""
    assert on_a_terminal("ties.yml", "2", "--quiet") == b""
    printed("merge", "ties.yml", "3")
    status, out, err = tallies("merge", "ties.yml", "4", "--progress", "--json")
    assert status == 0 and "merge: 100%" in err
    assert json.loads(out)["method"] == "ties"


def test_linear_on_the_command_line_needs_no_base(models: Path) -> None:
    printed("merge", "--method", "linear", "--model", "a", "--model", "b:weight=3", "out")
    expected = {name: linear([e[name] for e in EXPERTS], [1.0, 3.0]) for name in BASE}
    assert_holds(models / "out", expected)
