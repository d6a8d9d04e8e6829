"""Votes that cancel take the majority's sign, from lists and not from another read."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import MergeReport, merge, merge_state_dicts
from tallies.engine.combining import Combining
from tallies.engine.surveyor import Surveyor
from tests.reference.ties import ties_model
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.merges import BF16, request
from tests.support.resuming import Crash, Run, what_it_says
from tests.support.sampling import not_held

SHAPES = {"a": (300, 201), "b": (70_001,), "c": (5,), "z": (600, 400)}
DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": BF16, "float16": np.float16}
WAYS: dict[str, dict[str, Any]] = {
    "one thread": {"max_memory": "16MiB", "threads": 1},
    "roomy": {"max_memory": "1GiB", "threads": 2, "max_shard_size": 200_000},
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "guessed": ("ties", {"density": 0.5}),
    "guessed by tensor": ("ties", {"density": 0.5, "scope": "tensor"}),
    "held by tensor": ("ties", {"density": 0.5, "scope": "tensor"}),
    "first of equal ones": ("ties", {"density": 0.4, "equal": "first"}),
    "untrimmed": ("ties", {"density": 1.0}),
    "untrimmed by tensor": ("ties", {"density": 1.0, "scope": "tensor"}),
    "of sums": ("ties", {"density": 0.7, "normalize": False}),
    "drawn": ("dare_ties", {"density": 0.7}),
    "by consensus": ("consensus_ties", {"density": 0.5, "k": 1}),
}


def models(dtype: Any, n_experts: int = 3) -> list[Model]:
    """A base and experts whose signs lean one way, and in the last and largest tensor the other."""
    rng = np.random.default_rng(7)
    base: Model = {}
    experts: list[Model] = [{} for _ in range(n_experts)]
    for name, shape in SHAPES.items():
        values = rng.integers(-8, 9, shape) / 8
        base[name] = values.astype(dtype)
        lean = -1 if name == "z" else 1
        for expert in experts:
            steps = rng.integers(-3, 4, shape) + lean * (rng.random(shape) < 0.2)
            expert[name] = (values + steps / 16).astype(dtype)
    return [base, *experts]


def merged(
    given: list[Model], root: Path, method: str, parameters: dict[str, Any], **options: Any
) -> MergeReport:
    base, *experts = (write(root / f"m{i}", one) for i, one in enumerate(given))
    recipe = request(method, experts, base=base, parameters=parameters)
    report = merge(recipe, root / "out", **options)
    assert isinstance(report, MergeReport)
    return report


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", METHODS)
def test_methods_that_elect_signs_read_once(
    tmp_path: Path, name: str, dtype: str, way: str
) -> None:
    method, parameters = METHODS[name]
    given = models(DTYPES[dtype])
    with not_held() if name.startswith("guessed") else nullcontext():
        report = merged(given, tmp_path, method, parameters, **WAYS[way])
    # Tensors in memory are combined again instead.
    expected = merge_state_dicts(given[0], given[1:], method=method, **parameters)
    assert_holds(tmp_path / "out", expected)
    if method == "ties" and parameters.get("normalize", True):
        scope, equal = parameters.get("scope", "model"), parameters.get("equal", "keep")
        density = parameters["density"]
        reference = ties_model(given[0], given[1:], density, scope=scope, equal=equal)
        assert_holds(tmp_path / "out", reference)
    assert report.cancellations > 1000
    assert report.reads is not None
    # By tensor and with one tile so far no sign is wrong.
    assert report.reads["listed"] >= report.reads["repaired"]
    assert report.combined_again == 0
    if parameters.get("scope") != "tensor":
        assert report.reads["repaired"] > 1000
        assert report.majority_sign == -1


@pytest.mark.parametrize("name", ["guessed", "untrimmed", "by consensus"])
def test_lists_that_have_no_room(tmp_path: Path, name: str) -> None:
    method, parameters = METHODS[name]
    given = models(np.float32)
    report = merged(given, tmp_path, method, parameters, max_memory="64KiB", threads=1)
    expected = merge_state_dicts(given[0], given[1:], method=method, **parameters)
    assert_holds(tmp_path / "out", expected)
    assert report.reads is not None
    assert report.combined_again > 0
    assert 0 < report.reads["repaired"] < report.cancellations
    n_bytes = sum(array.nbytes for model in given for array in model.values())
    for_votes = report.combined_again * 4 * len(given)
    sampled, settled = report.reads["sampled"], report.reads["settled"]
    assert report.bytes_read == n_bytes + sampled + settled + for_votes


def test_a_pair_of_opposite_experts(tmp_path: Path) -> None:
    """All votes cancel but for a few, which come last."""
    base, one = models(np.float32, 1)
    other = {name: base[name] - (one[name] - base[name]) for name in base}
    other["z"][-1, -7:] = base["z"][-1, -7:]
    one["z"][-1, -7:] = base["z"][-1, -7:] - 1
    report = merged([base, one, other], tmp_path, "ties", {"density": 1.0}, max_memory="8MiB")
    assert_holds(tmp_path / "out", ties_model(base, [one, other], 1.0))
    assert (report.majority_sign, report.combined_again) == (-1, 0)
    assert report.reads is not None
    assert report.reads["sampled"] == 0


def test_a_run_that_goes_on_combines_again(tmp_path: Path) -> None:
    """Lists end with their run, and finished files have none."""
    base, *experts = (write(tmp_path / f"m{i}", one) for i, one in enumerate(models(np.float32)))
    recipe = request("ties", experts, base=base, parameters={"density": 0.5})
    options: dict[str, Any] = {"max_shard_size": 200_000, "max_memory": "16MiB", "threads": 1}
    done = merge(recipe, tmp_path / "done", **options)
    assert isinstance(done, MergeReport)
    assert done.combined_again == 0
    for moment in ("_mend", "_settle"):
        out = tmp_path / moment / "out"
        original = getattr(Combining, moment)

        def ending(*arguments: Any, original: Any = original, **named: Any) -> None:
            original(*arguments, **named)
            raise Crash

        with mock.patch.object(Combining, moment, ending):
            assert Run(recipe, out, **options).report is None
        report = Run(recipe, out, **options).report
        assert report is not None
        assert report.combined_again > 0
        assert what_it_says(report) == what_it_says(done)
        for file in done.output.files:
            assert (out / file).read_bytes() == (tmp_path / "done" / file).read_bytes()


def test_lists_bound_the_thresholds_that_are_guessed_together(tmp_path: Path) -> None:
    batches: dict[str, int] = {}
    for memory in ("16MiB", "1GiB"):
        guess = mock.patch.object(Surveyor, "_guess", autospec=True, side_effect=Surveyor._guess)
        with not_held(), guess as g:
            root = tmp_path / memory
            merged(models(np.float32), root, "ties", {"scope": "tensor"}, max_memory=memory)
        batches[memory] = g.call_count
    assert batches["16MiB"] > batches["1GiB"] == 1
