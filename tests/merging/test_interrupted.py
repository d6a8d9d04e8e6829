"""Ctrl-C while matrices are in hand in calls that cannot be stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import write
from tests.support.interrupted import SECONDS, interrupt


@pytest.fixture
def models(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for name in ("base", "a", "b"):
        layers = {f"layers.{i}.w": rng.standard_normal((9, 8)).astype(np.float32) for i in range(6)}
        write(tmp_path / name, layers)
    return tmp_path


def command(*arguments: str) -> str:
    return f"from tallies.cli import main\nsys.argv = ['tallies', *{arguments!r}]\nmain()\n"


MERGE = ("merge", "--method=iso_c", "--base=base", "--model=a", "--model=b", "--out=out")
PACK = ("pack", "--codec=tsv_c", "--base=base", "--task=a=a", "--task=b=b", "--out=out")
RECIPE = (
    "import tallies\n"
    "recipe = {'merge_method': 'iso_c', 'base_model': 'base',\n"
    "          'models': [{'model': 'a'}, {'model': 'b'}]}\n"
)


@pytest.mark.parametrize("arguments", [MERGE, (*MERGE, "--threads=1"), PACK])
def test_commands_end_at_once(models: Path, arguments: tuple[str, ...]) -> None:
    before = set(os.listdir(models))
    status, err, seconds = interrupt(command(*arguments), models)
    assert (status, err) == (130, "tallies: interrupted\n")
    assert seconds < SECONDS
    assert set(os.listdir(models)) == before


def test_a_run_that_may_go_on_says_how(models: Path) -> None:
    status, err, _ = interrupt(command(*MERGE, "--resume"), models)
    (kept,) = set(os.listdir(models)) - {"base", "a", "b"}
    place = f"what is finished is kept in {models / kept}"
    assert (status, err) == (130, f"tallies: interrupted; {place}: go on with --resume\n")


@pytest.mark.parametrize(
    "call",
    [
        "tallies.merge(recipe, 'out')",
        "tallies.pack('base', {'a': 'a', 'b': 'b'}, 'out', codec='tsv_c')",
        "tallies.merge_state_dicts({'w': torch.zeros(9, 8)}, [{'w': torch.ones(9, 8)}] * 2, "
        "method='iso_c')",
    ],
)
def test_a_program_that_does_not_handle_it_ends_at_once(models: Path, call: str) -> None:
    before = set(os.listdir(models))
    at_exit = "import atexit\natexit.register(lambda: print('at exit', file=sys.stderr))\n"
    status, err, seconds = interrupt(f"{RECIPE}{at_exit}{call}\n", models)
    assert status == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\nat exit\n")
    assert seconds < SECONDS
    assert set(os.listdir(models)) == before


def test_a_program_goes_on_and_nothing_is_written_behind_it(models: Path) -> None:
    """As in a notebook: the exception comes at once, and the thread's result is dropped."""
    program = """
import threading
end = threading.Event()
both = threading.Barrier(2)

def slow(matrix):
    if not end.is_set():
        both.wait()
    os.write(2, b"SLOW\\n")
    end.wait()
    return torch.ones_like(matrix), 1.0

spectral.polar = slow
begin = time.monotonic()
try:
    tallies.merge(recipe, "out", threads=2)
except KeyboardInterrupt:
    print("raised", sorted(os.listdir()), file=sys.stderr)
inputs = {name: torch.ones(9, 8) for name in "wxyz"}
left = threading.active_count() - 1
print(left, "at work", file=sys.stderr)
end.set()
while threading.active_count() > 1:
    time.sleep(0.01)
print("ended", sorted(os.listdir()), file=sys.stderr)
merged = tallies.merge_state_dicts(inputs, [inputs, inputs], method="iso_c")
print(sorted(merged), file=sys.stderr)
"""
    status, err, _ = interrupt(RECIPE + program, models)
    assert err.splitlines() == [
        "raised ['a', 'b', 'base']",
        "2 at work",
        "ended ['a', 'b', 'base']",
        "['w', 'x', 'y', 'z']",
    ]
    assert status == 0
