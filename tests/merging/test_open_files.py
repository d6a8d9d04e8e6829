"""Files of a merge are closed when it ends, and not when garbage is collected."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, greedy_soup, merge, sweep
from tallies.spec.choices import PAPER
from tests.support.checkpoints import write
from tests.support.merges import layered
from tests.support.recipes import complete


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with models of which one has a NaN, and no collection of garbage."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "m0", "m1", "bad")):
        tensors = layered(seed)
        if name == "bad":
            for values in tensors.values():
                values.reshape(-1)[:1] = np.nan
        write(Path(name), tensors)
    gc.collect()
    gc.disable()
    yield tmp_path
    gc.enable()


def n_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def assert_closed(run: Callable[[int], object]) -> None:
    """Run something 20 times; the first time may open what the libraries keep."""
    for number in range(21):
        if number == 1:
            before = n_open()
        with contextlib.suppress(InputError):
            run(number)
    assert n_open() == before


@pytest.mark.parametrize("is_bad", [False, True])
@pytest.mark.parametrize("name", ["linear", "ties", "sce", "dare_ties", "model_stock", "iso_c"])
def test_merges(models: Path, name: str, is_bad: bool) -> None:
    recipe = complete(name, PAPER)
    if is_bad:
        recipe["models"][-1]["model"] = "bad"
    done = []

    def run(number: int) -> None:
        merge(recipe, f"out-{number}")
        done.append(number)

    assert_closed(run)
    assert len(done) == (0 if is_bad else 21)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_scaling": {"alpha": "auto", "beta": 0.5}},
        {"drop_layers": {"score": "size", "ratio": 0.5}},
    ],
)
def test_merges_that_survey_first(models: Path, changes: dict[str, Any]) -> None:
    recipe = complete("ties", PAPER, **changes)
    assert_closed(lambda number: merge(recipe, f"out-{number}"))


@pytest.mark.parametrize("second", ["m1", "bad"])
def test_sweeps(models: Path, second: str) -> None:
    recipe = complete("ties", PAPER)
    recipe["models"][-1]["model"] = second
    assert_closed(lambda number: sweep(recipe, {"density": [0.1, 0.2]}, f"out-{number}"))
    assert_closed(lambda number: [*sweep(recipe, {"density": [0.1, 0.2]})])


@pytest.mark.parametrize("second", ["m1", "bad"])
def test_soups(models: Path, second: str) -> None:
    assert_closed(lambda number: greedy_soup(["m0", second], lambda model: 1.0, f"out-{number}"))
