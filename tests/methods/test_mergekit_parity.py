"""``semantics: mergekit`` against the installed tool, bit for bit in float32 where it can be.

Two things decide what can be compared:

* Among equal magnitudes mergekit keeps whichever its unstable sort puts first, so every non-zero
  magnitude of a task vector here is unique within its tensor.
* torch adds rows in their order only up to four of them, so no merge here has more experts.

mergekit's linear uses torch's ``addcmul``, which skips a rounding on processors with fused
multiply-add, and so do we on every processor.

Methods with coefficients from inner products, which mergekit takes in float32, in an order that is
torch's, are compared within what rounding may make of that.
"""

from __future__ import annotations

import json
import os
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import tallies
from tests.reference.arcee_fusion import importances, threshold
from tests.support.mergekit_cases import (
    ARCEE,
    CASES,
    CLOSE,
    DTYPES,
    SCE_CASES,
    SCE_DATA,
    models,
    recipe,
    shapes,
    small,
    write,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints, one folder for each dtype."""
    folder = tmp_path_factory.mktemp("parity")
    for dtype in DTYPES:
        write(folder / dtype, models(DTYPES[dtype]))
    base, *experts = models(np.float32)
    write(folder / "small", [small(base, base), *(small(base, expert) for expert in experts)])
    return folder


@pytest.fixture(scope="module")
def by_mergekit(mergekit_python: str, folder: Path) -> dict[tuple[str, str], Path]:
    """Merge every case and dtype with mergekit, in one process: its imports take seconds."""
    keys = [*product(CASES | CLOSE | ARCEE, DTYPES), *product(SCE_CASES, SCE_DATA)]
    out = {key: folder / f"mergekit{i}" for i, key in enumerate(keys)}
    cases = CASES | CLOSE | ARCEE | SCE_CASES
    script = Path(__file__).parents[1] / "support" / "run_mergekit.py"
    requests = [
        {"config": recipe(cases[case], folder / data), "out": str(path)}
        for (case, data), path in out.items()
    ]
    done = subprocess.run(
        [mergekit_python, "-I", str(script)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def values(path: Path) -> dict[str, NDArray[np.float32]]:
    tensors: dict[str, NDArray[np.float32]] = {}
    for file in path.glob("*.safetensors"):
        for name, array in load_file(file).items():
            assert array.dtype == np.float32
            tensors[name] = array
    return tensors


def bits(path: Path) -> dict[str, list[int]]:
    return {name: one.reshape(-1).view(np.uint32).tolist() for name, one in values(path).items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_same_bits_as_mergekit(
    case: str, dtype: str, by_mergekit: dict[tuple[str, str], Path], folder: Path, tmp_path: Path
) -> None:
    tallies.merge(recipe(CASES[case], folder / dtype), tmp_path / "out", semantics="mergekit")
    expected, found = bits(by_mergekit[case, dtype]), bits(tmp_path / "out")
    assert found.keys() == expected.keys() == dict(shapes()).keys()
    assert found == expected


@pytest.mark.parametrize("data", SCE_DATA)
@pytest.mark.parametrize("case", SCE_CASES)
def test_sce_as_mergekit(
    case: str, data: str, by_mergekit: dict[tuple[str, str], Path], folder: Path, tmp_path: Path
) -> None:
    """The same bits where all weights are equal.

    Else mergekit's weights are of sums in float32, ours of exact ones. The merged value is a mean
    of changes by these weights, so an error of the weights moves it by no more than twice as large
    a part of the largest change: 2^-18, for sums of n terms in blocks, n < 1000, plus a rounding of
    each of the few operations that follow.
    """
    request = recipe(SCE_CASES[case], folder / data)
    tallies.merge(request, tmp_path / "out", semantics="mergekit")
    if data == "small":
        assert bits(tmp_path / "out") == bits(by_mergekit[case, data])
        return
    expected = load_file(next(by_mergekit[case, data].glob("*.safetensors")))
    found = load_file(tmp_path / "out" / "model.safetensors")
    base, *experts = models(np.float32)
    for name, value in expected.items():
        largest = np.max([np.abs(expert[name] - base[name]) for expert in experts], axis=0)
        bound = 2.0**-18 * largest + 2.0**-22 * np.abs(base[name])
        assert (np.abs(found[name] - value) <= bound).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CLOSE)
def test_close_to_mergekit(
    case: str, dtype: str, by_mergekit: dict[tuple[str, str], Path], folder: Path, tmp_path: Path
) -> None:
    tallies.merge(recipe(CLOSE[case], folder / dtype), tmp_path / "out", semantics="mergekit")
    expected, found = values(by_mergekit[case, dtype]), values(tmp_path / "out")
    assert found.keys() == expected.keys() == dict(shapes()).keys()
    all_models = [
        {name: np.abs(one.astype(np.float32)) for name, one in model.items()}
        for model in models(DTYPES[dtype])
    ]
    for name, result in found.items():
        # A float32 sum of n products is off by n halves of a unit at most; its coefficients by as
        # much again for each of the few norms and cosines that they are made of.
        bound = 8 * result.size * 2.0**-24 * sum(model[name] for model in all_models)
        assert (np.abs(result - expected[name]) <= bound).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ARCEE)
def test_arcee_fusion_as_mergekit(
    case: str, dtype: str, by_mergekit: dict[tuple[str, str], Path], folder: Path, tmp_path: Path
) -> None:
    """The same bits but where an entry's importance is within rounding of the threshold.

    mergekit's divergences are float32 sums of terms that nearly cancel; their error is below 2^-10
    of those of these models.
    """
    tallies.merge(recipe(ARCEE[case], folder / dtype), tmp_path / "out", semantics="mergekit")
    expected, found = values(by_mergekit[case, dtype]), values(tmp_path / "out")
    base, *experts = models(DTYPES[dtype])
    n_taken = 0
    for name, one in found.items():
        pair = experts[ARCEE[case].first][name], base[name]
        importance = importances(*(model.astype(np.float32) for model in pair))
        limit = threshold(importance)
        clear = np.abs(importance - limit) > 2.0**-10 * limit
        assert np.array_equal(one[clear], expected[name][clear]), name
        assert clear.mean() > 0.9
        n_taken += int((one != pair[1].astype(np.float32)).sum())
    assert n_taken > 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_data_leave_mergekit_no_choice(dtype: str) -> None:
    base, *experts = models(DTYPES[dtype])
    for name in base:
        deltas = [e[name].astype(np.float32) - base[name].astype(np.float32) for e in experts]
        for delta in deltas:
            sizes = np.abs(delta[delta != 0])
            assert np.unique(sizes).size == sizes.size > 0
        assert np.any((deltas[0] != 0) & (sum(deltas) == 0)), "nothing cancels"
        assert np.any(np.all(np.equal(deltas, 0), axis=0)), "every entry was moved"
