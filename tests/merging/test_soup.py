"""Greedy soups: which models are taken, the bits of the soup, and what a step reads."""

from __future__ import annotations

import math
import shutil
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

    refuse("models: found 0, expected 1 to 256; give at least one", {})
    refuse("models: found 'abc', expected a list of paths or a dict", "abc", tmp_path / "out")
    refuse("models: found None, expected", None, tmp_path / "out")
    refuse("models: found 3, expected a path or a dict", [3], tmp_path / "out")
    refuse("models: found the name 3, expected text", {3: "a"}, tmp_path / "out")
    refuse("models: found dicts and paths", {**dicts, "p": "p"})
    refuse("out: found a path", dicts, tmp_path / "out")
    refuse("out: missing", ["a", "b"])
    refuse("models: 'a' and 'a' are one path", ["a", "a"], tmp_path / "out")
    refuse("models: 'b/../a' and 'a' are one path", ["b/../a", "a"], tmp_path / "out")
    refuse("scores: 'm9' is no model", dicts, scores={"m9": 1.0})


def test_arguments_are_checked_before_the_first_evaluation(tmp_path: Path) -> None:
    dicts = models("float32")
    paths = {name: write(tmp_path / name, one) for name, one in dicts.items()}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")

    def never(model: Any) -> float:
        raise AssertionError("evaluated")

    def refuse(message: str, out: Path | None = None, **options: Any) -> None:
        given: Any = dicts if out is None else paths
        with pytest.raises(InputError, match=message):
            greedy_soup(given, never, out, **options)

    refuse("is not empty", tmp_path / "full")
    refuse("did not write", tmp_path / "full", overwrite=True)
    refuse("lies inside the input", tmp_path / "m3" / "out")
    refuse("is or contains the input", tmp_path / "m3")
    refuse("out: the directory .*such is missing.*; create it", tmp_path / "such" / "out")
    for out in (tmp_path / "out", None):
        refuse("option 'treads' is not known; did you mean 'threads'", out, treads=1)
        refuse("option 'semantics' is not known", out, semantics="mergekit")
        for gain in (math.nan, math.inf, "1", None):
            refuse("gain: found .*, expected a finite number", out, gain=gain)
        refuse("scores: found 'x' for m0, expected a number", out, scores={"m0": "x"})
        refuse("scores: found 3, expected a dict", out, scores=3)
    refuse("option 'max_memory' is not known", max_memory="1GiB")
    assert {*tmp_path.iterdir()} == {*paths.values(), tmp_path / "full"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"w": np.zeros((16, 13), np.float32)}, "'w' is \\[16, 13\\]|'w' .*\\[16, 13\\]"),
        ({"more": np.zeros(3, np.float32)}, "'more'"),
        ({"n": np.arange(1, 4)}, "'n' is (I64|int64) and differs"),
    ],
)
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_models_that_do_not_merge_are_refused_before_the_first_evaluation(
    place: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    dicts = models("float32")
    dicts["m7"] |= change
    given: Any = dicts
    if place == "disk":
        given = {name: write(tmp_path / name, one) for name, one in dicts.items()}

    def never(model: Any) -> float:
        raise AssertionError("evaluated")

    out = tmp_path / "out" if place == "disk" else None
    with pytest.raises(InputError, match=f"m7.*({words})"):
        greedy_soup(given, never, out, scores={"m0": 1.0})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_averages_are_as_the_first_model_that_was_taken(place: str, tmp_path: Path) -> None:
    import ml_dtypes

    kinds = [ml_dtypes.bfloat16, np.float32, np.float16, np.float32]
    random = np.random.default_rng(0)
    dicts = {
        f"m{i}": {
            "w": random.standard_normal(100).astype(kind),
            "v": random.standard_normal(7).astype(kinds[i - 1]),
            "n": np.arange(3),
        }
        for i, kind in enumerate(kinds)
    }
    seen: list[Any] = []

    def evaluate(model: Any) -> float:
        seen.append(dict(model) if place == "memory" else read(model))
        if place == "disk":
            assert '"hidden_size": 0' in (model / "config.json").read_text()
        return 1.0

    given: Any = dicts
    if place == "disk":
        given = {
            name: write(tmp_path / name, one, config={"hidden_size": i})
            for i, (name, one) in enumerate(dicts.items())
        }
    out = tmp_path / "soup" if place == "disk" else None
    report = greedy_soup(given, evaluate, out, scores=dict.fromkeys(dicts, 1.0))
    assert report.chosen == tuple(dicts) and len(seen) == 3
    for n, average in enumerate(seen, start=2):
        expected = merge_state_dicts(None, [*dicts.values()][:n], method="linear")
        assert average.keys() == expected.keys()
        for name, array in expected.items():
            assert_same_bits(average[name], array)
    soup = report.soup if out is None else read(out)
    for name, array in soup.items():
        assert_same_bits(seen[-1][name], array)


@pytest.mark.parametrize("harm", ["remove", "remove all", "replace", "rewrite"])
def test_an_evaluation_that_harms_an_average_is_told_so(harm: str, tmp_path: Path) -> None:
    paths = [write(tmp_path / name, one) for name, one in models("float32").items()]

    def evaluate(path: Path) -> float:
        if harm == "rewrite":
            (path / "model.safetensors").write_bytes(b"")
        elif path.name == "average":
            shutil.rmtree(path.parent if harm == "remove all" else path)
        if harm == "replace":
            path.write_text("")
        return 1.0

    scores = dict.fromkeys(map(str, paths), 1.0)
    with pytest.raises(InputError, match=r"^evaluate: it removed or changed the average"):
        greedy_soup(paths, evaluate, tmp_path / "soup", scores=scores)
    assert {*tmp_path.iterdir()} == {*paths}


def test_an_evaluation_that_removes_the_sum_is_told_so(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, one) for name, one in models("float32").items()]

    def evaluate(path: Path) -> float:
        for one in path.parent.glob("sum-*"):
            shutil.rmtree(one)
        return 1.0

    scores = dict.fromkeys(map(str, paths), 1.0)
    with pytest.raises(InputError, match=r"^evaluate: it removed or changed the sum"):
        greedy_soup(paths, evaluate, tmp_path / "soup", scores=scores)


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
    for large in (1e308, [1e308, -1e308]):
        with pytest.raises(InputError, match="have no finite sum; give smaller ones"):
            merge_state_dicts(None, dicts[:2], method="linear", weights=[1, 1], count=1e308)
        with pytest.raises(InputError, match="have no finite sum; give smaller ones"):
            merge_state_dicts(None, dicts[:2], method="linear", weight=large)
