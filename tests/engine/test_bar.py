"""Progress as callers ask for it: a function, a bar, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, Store, merge, merge_state_dicts, pack, store
from tests.support.checkpoints import write
from tests.support.command_line import BASE, EXPERTS


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, model in zip(("base", "a", "b"), (BASE, *EXPERTS), strict=True):
        write(tmp_path / name, model)
    return tmp_path


def _merge(at: Path, **options: Any) -> object:
    recipe = {
        "merge_method": "ties",
        "base_model": str(at / "base"),
        "models": [{"model": str(at / "a")}, {"model": str(at / "b")}],
    }
    return merge(recipe, at / "out", **options)


def _merge_in_memory(at: Path, **options: Any) -> object:
    return merge_state_dicts(BASE, EXPERTS, **options)


def _pack(at: Path, **options: Any) -> object:
    return pack(at / "base", {"a": at / "a", "b": at / "b"}, at / "store", **options)


def _unpack(at: Path, **options: Any) -> object:
    _pack(at)
    return Store.open(at / "store").unpack("a", at / "out", **options)


def _add(at: Path, **options: Any) -> object:
    pack(at / "base", {"a": at / "a"}, at / "store", codec="sparse", density=0.5)
    return store.add(at / "store", "b", at / "b", **options)


RUNS = pytest.mark.parametrize(
    ("run", "label"),
    [
        (_merge, "merge"),
        (_merge_in_memory, "merge"),
        (_pack, "pack"),
        (_unpack, "unpack"),
        (_add, "pack"),
    ],
)


@RUNS
@pytest.mark.parametrize("progress", [False, None])
def test_no_bar(
    models: Path,
    capsys: pytest.CaptureFixture[str],
    run: Callable[..., object],
    label: str,
    progress: bool | None,
) -> None:
    run(models, progress=progress)
    assert capsys.readouterr() == ("", "")


@RUNS
def test_a_bar_on_standard_error(
    models: Path, capsys: pytest.CaptureFixture[str], run: Callable[..., object], label: str
) -> None:
    run(models, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and f"{label}: 100%" in err and "B/s" in err


@RUNS
def test_a_function_is_told_of_bytes_up_to_the_whole(
    models: Path, run: Callable[..., object], label: str
) -> None:
    told: list[tuple[int, int]] = []
    run(models, progress=lambda done, whole: told.append((done, whole)))
    assert told == sorted(told)
    assert {whole for _, whole in told} == {told[-1][0]}
    assert told[-1][0] > 0


@RUNS
@pytest.mark.parametrize("progress", [1, 0, "yes", "bar", [], 0.5])
def test_anything_else_is_refused(
    models: Path, run: Callable[..., object], label: str, progress: object
) -> None:
    with pytest.raises(
        InputError, match=r"^progress: found .*, expected True, False or a function"
    ):
        run(models, progress=progress)
    assert not (models / "out").exists()


@pytest.mark.parametrize("method", ["linear", "ties", "metagpt", "sce", "iso_c"])
def test_the_whole_in_memory_is_that_on_disk(models: Path, method: str) -> None:
    def told(run: Callable[..., object], **options: Any) -> set[int]:
        found: set[int] = set()
        run(progress=lambda done, whole: found.add(whole), **options)
        return found

    recipe = {
        "merge_method": method,
        "base_model": str(models / "base"),
        "models": [{"model": str(models / "a")}, {"model": str(models / "b")}],
    }
    on_disk = told(lambda progress: merge(recipe, models / "out", progress=progress))
    in_memory = told(
        lambda progress: merge_state_dicts(BASE, EXPERTS, method=method, progress=progress)
    )
    (whole,) = in_memory
    header = (models / "out" / "model.safetensors").stat().st_size - sum(
        array.nbytes for array in BASE.values()
    )
    # Tensors in memory are surveyed for the thresholds that tensors on disk are guessed for.
    surveyed = (
        sum(array.nbytes for model in (BASE, *EXPERTS) for array in model.values())
        if method == "ties"
        else 0
    )
    assert on_disk == {whole - surveyed + header}


def test_a_bar_of_a_run_that_fails_ends_its_line(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infinite = {"v": np.array([np.inf], np.float32)}
    with pytest.raises(InputError, match="'v'"):
        merge_state_dicts(BASE, [EXPERTS[0], EXPERTS[1] | infinite], progress=True)
    assert capsys.readouterr().err.endswith("\n")
