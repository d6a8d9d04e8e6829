"""The commands and their help, and those that show something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from tallies import __version__, cli, cpu, cuda, methods
from tallies.cli import group
from tests.support.checkpoints import FILE, Model, write
from tests.support.command import COMMAND
from tests.support.command_line import f32, printed


def test_no_command_is_a_question_for_help() -> None:
    text = printed()
    assert text == printed("--help") == printed("-h")
    for name in group.list_commands(click.Context(group)):
        assert f"\n  {name} " in text
    for status in ("0 done", "2 the request", "3 reading", "130 interrupted"):
        assert status in " ".join(text.split())


@pytest.mark.parametrize("name", group.list_commands(click.Context(group)))
def test_every_command_and_option_has_help(name: str) -> None:
    text = printed(name, "--help")
    assert text == printed(name, "-h")
    assert text.startswith(f"Usage: tallies {name}")
    command = group.get_command(click.Context(group), name)
    assert command is not None and command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert all(one in text for one in option.opts)
            assert option.help is not None
            assert option.help.endswith(".") and option.help[0].isupper(), option.name


def test_commands_are_the_files_in_reading_order() -> None:
    folder = Path(cli.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("[!_]*.py")}
    names = group.list_commands(click.Context(group))
    assert {*names} == files
    assert names[:6] == ["merge", "plan", "sweep", "mergekit-yaml", "moe", "pack"]
    for name in names:
        first = (folder / f"{name.replace('-', '_')}.py").read_text().splitlines()[0]
        assert first.startswith('"""') and first.endswith('."""'), "the line of --help"


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


def test_shapes_come_first_and_lines_fit(models: Path) -> None:
    long = "model.layers.31.post_attention_layernorm.weight"
    write(models / "wide", {long: np.zeros((1, 4096), np.float32), "w": np.zeros(3, np.float16)})
    lines = printed("inspect", "wide").splitlines()
    assert lines[0].split() == ["[1,", "4096]", "F32", "16.38", "kB", long]
    assert lines[1].split() == ["[3]", "F16", "6", "bytes", "w"]
    assert lines[0].index(long) == lines[1].index("w")
    assert max(map(len, lines)) <= 80


def test_names_are_whole_for_programs_and_short_on_a_terminal(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * 100
    write(models / "wide", {f"{long}.{i}": np.zeros(2, np.float32) for i in "ab"})
    assert printed("inspect", "wide").count(long) == 2
    monkeypatch.setattr("tallies.cli.inspect.screen", lambda: 60)
    lines = printed("inspect", "wide").splitlines()
    assert max(map(len, lines[:2])) == 60
    assert [line[-5:] for line in lines[:2]] == ["xxx.a", "xxx.b"]


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
