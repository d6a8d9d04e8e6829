"""Greedy soups: which models are taken, the bits of the soup, and what a step reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, greedy_soup, merge, merge_state_dicts
from tests.reference.linear import linear
from tests.reference.soup import greedy
from tests.support.bits import assert_same_bits
from tests.support.checkpoints import read, write

N = 8
DTYPES = ["float32", "bfloat16", "float16"]


def models(dtype: str, seed: int = 0) -> dict[str, dict[str, Any]]:
    import ml_dtypes

    random = np.random.default_rng(seed)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    center = random.standard_normal((16, 12))
    return {
        f"m{i}": {
            "w": (center + random.normal(0, 0.05 + 0.1 * i, center.shape)).astype(kind),
            "n": np.arange(3),
        }
        for i in range(N)
    }


def by_distance(dicts: dict[str, dict[str, Any]]) -> Callable[[Any], float]:
    """The score of a model: higher, the nearer to the mean of three."""
    aim = np.mean([one["w"].astype(np.float64) for one in [*dicts.values()][:3]], axis=0) + 0.01

    def score(model: Any) -> float:
        found = model if isinstance(model, dict) else read(Path(model))
        return -float(np.abs(found["w"].astype(np.float64) - aim).sum())

    return score


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_memory_as_the_reference(dtype: str, seed: int) -> None:
    dicts = models(dtype, seed)
    score = by_distance(dicts)
    report = greedy_soup(dicts, score)
    expected = greedy([one["w"] for one in dicts.values()], lambda w: score({"w": w}))
    assert report.chosen == tuple(f"m{i}" for i in expected)
    assert 1 < len(report.chosen) < N
    assert_same_bits(report.soup["w"], linear([dicts[name]["w"] for name in report.chosen]))
    assert report.score == score(report.soup)
    assert [step.taken for step in report.steps].count(True) == len(report.chosen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_on_disk_as_in_memory(dtype: str, tmp_path: Path) -> None:
    dicts = models(dtype)
    paths = {name: write(tmp_path / f"{name}.safetensors", one) for name, one in dicts.items()}
    seen: list[Path] = []
    score = by_distance(dicts)

    def evaluate(path: Any) -> float:
        seen.append(Path(path))
        assert Path(path).exists()
        return score(path)

    report = greedy_soup(paths, evaluate, tmp_path / "soup", max_memory="64KiB")
    expected = greedy_soup(dicts, score)
    assert (report.chosen, report.steps) == (expected.chosen, expected.steps)
    assert_same_bits(read(tmp_path / "soup")["w"], expected.soup["w"])
    one = {"merge_method": "linear", "models": [{"model": str(paths[n])} for n in report.chosen]}
    again = merge(one, tmp_path / "again")
    assert again.output.fingerprint == report.soup.output.fingerprint
    # Single models are evaluated where they are, averages are removed, and nothing else is left.
    assert seen[:N] == [*paths.values()]
    assert len(seen) == 2 * N - 1
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in paths.values()),
        "soup",
        "again",
    }
    assert str(report).startswith(f"soup of {len(report.chosen)} models: score ")


def test_scores_that_are_known_are_not_asked_for_and_equal_ones_are_taken_in_order() -> None:
    dicts = models("float32")
    asked = []

    def evaluate(model: Any) -> float:
        asked.append(model)
        return 1.0

    report = greedy_soup(dicts, evaluate, scores=dict.fromkeys(dicts, 1.0))
    assert report.chosen == tuple(dicts) and len(asked) == N - 1
    assert greedy_soup(dicts, evaluate, gain=0.5).chosen == ("m0",)


def test_what_failed_leaves_nothing(tmp_path: Path) -> None:
    dicts = models("float32")
    paths = [write(tmp_path / f"{name}.safetensors", one) for name, one in dicts.items()]
    left = iter(range(N + 2))

    def evaluate(path: Any) -> float:
        if next(left, None) is None:
            raise RuntimeError("out of patience")
        return 0.0

    with pytest.raises(RuntimeError, match="patience"):
        greedy_soup(paths, evaluate, tmp_path / "soup")
    assert {*tmp_path.iterdir()} == {*paths}


@pytest.mark.parametrize("score", [math.nan, None, "good"])
def test_scores_that_are_no_numbers_are_refused(score: Any) -> None:
    with pytest.raises(InputError, match=r"^evaluate: found .* for m0, expected a number"):
        greedy_soup(models("float32"), lambda model: score)


def test_other_requests_are_refused(tmp_path: Path) -> None:
    dicts = models("float32")

    def refuse(message: str, models: Any, *rest: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            greedy_soup(models, lambda model: 0.0, *rest, **options)

    refuse("models: found 0, expected 1 to 256", {})
    refuse("models: found dicts and paths", {**dicts, "p": "p"})
    refuse("out: found a path", dicts, tmp_path / "out")
    refuse("out: missing", ["a", "b"])
    refuse("models: found a path twice", ["a", "a"], tmp_path / "out")
    refuse("scores: 'm9' is no model", dicts, scores={"m9": 1.0})


def test_a_sum_counts_as_its_models() -> None:
    dicts = [{"w": one["w"]} for one in models("float32").values()]
    weights = [1, 0.5, 2, 0.25, 1, 1, 3, 1]
    total = merge_state_dicts(
        None, dicts[:5], method="linear", normalize=False, weights=weights[:5]
    )
    found = merge_state_dicts(
        None, [total, *dicts[5:]], method="linear", weights=[1, *weights[5:]], count=[4.75, 1, 1, 1]
    )
    assert_same_bits(found["w"], linear([one["w"] for one in dicts], weights))
    with pytest.raises(InputError, match="sum to zero"):
        merge_state_dicts(None, dicts[:2], method="linear", count=0)
