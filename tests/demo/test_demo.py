"""The demo as a command: the table, refusals, the pipeline from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.demo import pipeline, run
from tallies.demo.commands import merge, pack, unpack
from tallies.demo.model import Encoder, load, save
from tallies.demo.table import Row, table
from tallies.demo.tasks import TASKS
from tallies.errors import InputError, StorageError
from tests.demo import SEED
from tests.demo.test_model import states_equal


def test_table_states_mean_share_of_experts_and_cost() -> None:
    experts = Row("experts", {"one": 80.0, "two": 100.0})
    ties = Row("ties", {"one": 40.0, "two": 75.0}, seconds=0.126, peak_memory_bytes=3 * 2**20)
    assert table([experts, ties], experts) == [
        "          one    two  mean   norm     s  MiB",
        "-" * 44,
        "experts  80.0  100.0  90.0  100.0     -    -",
        "ties     40.0   75.0  57.5   62.5  0.13    3",
    ]


@pytest.mark.parametrize("module", ["torch", "sklearn", "safetensors"])
def test_a_missing_library_is_one_line_with_the_remedy(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install '\.\[demo\]'") as caught:
        run(tmp_path / "demo")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "demo").exists()


def test_a_directory_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"not a demo's"):
        run(tmp_path)
    with pytest.raises(InputError, match=r"is a file"):
        run(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="name another directory"):
        run(tmp_path / ("x" * 300))


def test_an_earlier_demo_is_written_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(pipeline, "run", lambda _, seed, *args, **kwargs: seeds.append(seed))
    run(tmp_path / "new" / "demo", seed=1)
    (tmp_path / "new" / "demo" / "base").mkdir()
    run(tmp_path / "new" / "demo", seed=2)
    monkeypatch.chdir(tmp_path)
    run(seed=3)
    assert seeds == [1, 2, 3]
    assert json.loads(Path("tallies-demo/demo.json").read_text())["seed"] == 3


COMMANDS = {
    "the ties merge": lambda: merge("ties", Path("b"), [Path("x"), Path("y")], Path("o"), {"s": 1}),
    "the tall pack": lambda: pack("tall", Path("b"), {"m": Path("x"), "n": Path("y")}, Path("o")),
    "the m unpack": lambda: unpack(Path("s"), "m", Path("o")),
}


@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize(("status", "kind"), [(2, InputError), (3, StorageError)])
def test_a_failed_command_repeats_its_line(
    what: str, status: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, status, stderr="a warning\nx: disk full\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(kind, match=rf"^{what} of the demo failed: x: disk full$"):
        COMMANDS[what]()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("the ties merge", "merge --method ties --base b --model x --model y --param s=1 --out o"),
        ("the tall pack", "pack --codec tall --base b --task m=x --task n=y --out o"),
        ("the m unpack", "unpack s m o"),
    ],
)
def test_the_command_is_what_a_user_types(
    what: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed: list[str] = []

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        typed.extend(command)
        return subprocess.CompletedProcess(command, 0, stdout='{"seconds": 0.25}\n', stderr="")

    monkeypatch.setattr(subprocess, "run", answer)
    assert COMMANDS[what]() == {"seconds": 0.25}
    assert typed[0] == sys.executable
    assert " ".join(typed[1:]) == f"-m tallies {words} --overwrite --json"


def test_pipeline_takes_the_ties_that_is_best_on_validation_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stand-ins make the answers known: one scale gives the base, others noise, and a store that
    keeps every expert as it is has all of its accuracy."""
    good = pipeline.TIES_SCALES[-1]

    def stand_in(
        method: str,
        base: Path,
        experts: Sequence[Path],
        out: Path,
        parameters: Mapping[str, float],
    ) -> dict[str, Any]:
        save(load(base if parameters.get("scale") == good else experts[0]), out)
        return {"seconds": 0.5, "peak_memory_bytes": 2**20}

    def untrained(*_: object, **__: object) -> Encoder:
        return Encoder()

    def keep(codec: str, base: Path, experts: Mapping[str, Path], out: Path) -> dict[str, Any]:
        assert list(experts) == list(TASKS)
        return {
            **{"codec": codec, "tasks": [*experts], "expert_bytes": 9_000_000, "ratio": 3.0},
            **{"base_bytes": 1_000_000, "n_bytes": 2_000_000, "bits_per_parameter_and_task": 1.5},
            **{"seconds": 0.25, "peak_memory_bytes": 2**21},
        }

    def give_back(store: Path, task: str, out: Path) -> dict[str, Any]:
        save(load(tmp_path / "experts" / task), out)
        return {}

    monkeypatch.setattr(pipeline, "merge", stand_in)
    monkeypatch.setattr(pipeline, "pack", keep)
    monkeypatch.setattr(pipeline, "unpack", give_back)
    monkeypatch.setattr(pipeline, "train_expert", untrained)
    torch.set_num_threads(2)
    lines: list[str] = []
    run(tmp_path, seed=SEED, echo=lines.append, base_steps=20)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    rows = results(lines)
    assert f"scale {good}," in "\n".join(lines)
    assert rows["ties"][:10] == rows["base"][:10]
    assert rows["linear"][:10] != rows["base"][:10]
    assert rows["ties"][10:] == ["0.50", "1"]
    assert rows["tall"] == rows["emr"] == [*rows["experts"][:10], "0.25", "2"]
    assert (
        "tall: 8 experts 9.0 MB, base + store 3.0 MB, 3.00 times less; 1.50 bits a parameter and "
        "task" in lines
    )


def results(lines: list[str]) -> dict[str, list[str]]:
    """Rows of the printed table by name: eight accuracies, mean, norm, s, MiB."""
    return {line.split()[0]: line.split()[1:] for line in lines if len(line.split()) == 13}


def test_end_to_end_by_the_command_line(tmp_path: Path) -> None:
    lines: list[str] = []
    run(tmp_path, seed=SEED, echo=lines.append, base_steps=10, expert_steps=10)
    rows = results(lines)
    assert list(rows) == ["base", "experts", "linear", "task_arithmetic", "ties", "tall", "emr"]
    assert all(len(line) <= 100 for line in lines[:-1])
    assert all(float(cells[11]) > 0 for name, cells in rows.items() if cells[11] != "-")
    assert [name for name, cells in rows.items() if cells[11] == "-"] == ["base", "experts"]

    experts = [load(tmp_path / "experts" / task).state_dict() for task in TASKS]
    for name, tensor in load(tmp_path / "merged" / "linear").state_dict().items():
        mean = torch.stack([expert[name].double() for expert in experts]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6)

    for codec in ("tall", "emr"):
        store = tmp_path / "stores" / codec
        shared, *masks = sorted(store.rglob("*.safetensors"))
        assert len(masks) == len(TASKS)
        n_bytes = sum(file.stat().st_size for file in (shared, *masks))
        n_bytes += Checkpoint.open(tmp_path / "base").n_bytes
        size = next(line for line in lines if line.startswith(f"{codec}: "))
        assert f"base + store {n_bytes / 1e6:.1f} MB" in size
        for task in TASKS:
            restored = load(tmp_path / "unpacked" / codec / task)
            assert not states_equal(restored, load(tmp_path / "base"))
