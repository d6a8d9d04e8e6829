"""Merges of one model in every layout of files and tiles, and of many experts: the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tallies import InputError, MergeReport, merge, merge_state_dicts, plan
from tests.reference.linear import linear
from tests.reference.model import float_names
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support import checkpoints, strategies
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.merges import (
    BF16,
    assert_fingerprints,
    assert_reports_ties,
    dyadic,
    f32,
    parameters,
    request,
    same_for_all,
)


@pytest.fixture(scope="module")
def on_disk(large: strategies.Models, tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    """The base and the experts of ``large``, once in single files and once in three shards each."""
    root = tmp_path_factory.mktemp("large")
    return [
        [
            write(root / f"{n_files}-{i}", model, n_files=n_files)
            for i, model in enumerate([large.base, *large.experts])
        ]
        for n_files in (1, 3)
    ]


LAYOUTS: list[tuple[int, dict[str, Any]]] = [
    (0, {"threads": 1}),
    (1, {"threads": 2, "max_memory": "64KiB"}),
    (0, {"threads": 3, "max_memory": "4MiB", "max_shard_size": 1}),
    (1, {"threads": 1, "max_memory": "64KiB", "max_shard_size": "300KB"}),
]
"""The number of input files, and options that must change no byte."""

WEIGHTS = [1.0, 0.75, -0.5]

DENSITIES = [0.2, 0.37, 0.001]


def merge_in_every_layout(
    on_disk: list[list[Path]],
    expected: Model,
    out: Path,
    method: str,
    own: Sequence[Mapping[str, Any]] = (),
    **keys: Any,
) -> list[MergeReport]:
    reports = []
    for i, (sharded, options) in enumerate(LAYOUTS):
        base, *experts = on_disk[sharded]
        recipe = request(method, experts, own, base=base, **keys)
        reports.append(merge(recipe, out / str(i), **options))
        assert_holds(out / str(i), expected)
    said = [same_for_all(report) for report in reports]
    assert said == [said[0]] * len(said)
    assert_fingerprints(reports[-1], base if reports[-1].base else None, experts)
    return reports


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    "options",
    [
        {"scope": "model", "equal": "keep"},
        {"scope": "model", "equal": "first"},
        {"scope": "tensor", "equal": "keep"},
        {"scope": "tensor", "equal": "first"},
        {"semantics": "mergekit"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_ties_is_the_same_in_every_layout(
    large: strategies.Models,
    on_disk: list[list[Path]],
    tmp_path: Path,
    options: dict[str, Any],
    weights: list[float] | None,
) -> None:
    expected = ties_model(large.base, large.experts, DENSITIES, weights, 0.9, **options)
    shared = {key: value for key, value in options.items() if key != "semantics"}
    reports = merge_in_every_layout(
        on_disk,
        expected,
        tmp_path,
        "ties",
        parameters(density=DENSITIES, weight=weights),
        parameters={"scale": 0.9, **shared},
        semantics=options.get("semantics", "paper"),
    )
    assert_reports_ties(reports[0], large.base, large.experts, DENSITIES, weights, **options)


def test_a_late_majority_is_settled_over_tensors_and_files(
    large: strategies.Models, on_disk: list[list[Path]], tmp_path: Path
) -> None:
    expected = ties_model(large.base, large.experts, 0.6)
    reports = merge_in_every_layout(
        on_disk, expected, tmp_path, "ties", parameters={"density": 0.6}
    )
    assert_reports_ties(reports[0], large.base, large.experts, [0.6] * 3)
    assert reports[0].majority_sign == -1
    assert reports[0].cancellations > 1000
    assert reports[0].reads is not None
    assert reports[0].reads["listed"] > reports[0].reads["repaired"] > 1000
    assert reports[0].combined_again == 0


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_averages_are_the_same_in_every_layout(
    large: strategies.Models, on_disk: list[list[Path]], tmp_path: Path, method: str
) -> None:
    expected = {"ints": large.base["ints"]}
    for name in float_names(large.base):
        base, rows = large.base[name], [expert[name] for expert in large.experts]
        if method == "linear":
            # The base takes no part, but names and dtypes are its own.
            expected[name] = linear(rows, WEIGHTS, out_dtype=base.dtype)
        else:
            expected[name] = task_arithmetic(base, rows, WEIGHTS, 0.9)
    shared = {} if method == "linear" else {"parameters": {"scale": 0.9}}
    reports = merge_in_every_layout(
        on_disk, expected, tmp_path, method, parameters(weight=WEIGHTS), **shared
    )
    read = sum(a.nbytes for m in large.experts for n, a in m.items() if n != "ints")
    if method == "task_arithmetic":
        read += sum(array.nbytes for name, array in large.base.items() if name != "ints")
    assert reports[0].bytes_read == read
    assert reports[0].sign_conflicts == 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ties", {"density": 0.3, "equal": "first"}),
        ("task_arithmetic", {"scale": 0.3}),
        ("linear", {}),
    ],
)
def test_files_and_arrays_merge_to_the_same_bits(
    large: strategies.Models,
    on_disk: list[list[Path]],
    tmp_path: Path,
    method: str,
    options: dict[str, Any],
) -> None:
    base, *experts = on_disk[0]
    merge(
        request(method, experts, base=None if method == "linear" else base, parameters=options),
        tmp_path / "out",
    )
    in_memory = merge_state_dicts(large.base, large.experts, method=method, **options)
    assert_holds(tmp_path / "out", in_memory)


def test_sixty_four_experts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {"a": rng.standard_normal((40, 50)).astype(BF16), "b": dyadic(rng, 333)}
    experts = [
        {
            "a": (base["a"].astype(np.float32) + dyadic(rng, 40, 50)).astype(BF16),
            "b": (base["b"] + dyadic(rng, 333)).astype((np.float16, np.float32)[i % 2]),
        }
        for i in range(64)
    ]
    paths = [write(tmp_path / f"{i}.safetensors", expert) for i, expert in enumerate(experts)]
    recipe = request("ties", paths, base=write(tmp_path / "base", base))
    report = merge(recipe, tmp_path / "out", max_memory="64KiB")
    assert_holds(tmp_path / "out", ties_model(base, experts, 0.2))
    assert_reports_ties(report, base, experts, [0.2] * 64)


def test_256_experts_merge_and_more_are_refused_from_their_number(tmp_path: Path) -> None:
    model = write(tmp_path / "one.safetensors", {"a": f32(1.5, -3.25, 0.1)})
    merge(request("linear", [model] * 256), tmp_path / "out")
    assert_holds(tmp_path / "out", {"a": linear([f32(1.5, -3.25, 0.1)] * 256)})
    for attempt in (plan, lambda recipe: merge(recipe, tmp_path / "none")):
        with pytest.raises(InputError, match="found 257 models, expected at most 256"):
            attempt(request("linear", [model] * 257))
    assert not (tmp_path / "none").exists()


def test_sharded_output_loads_elsewhere(tmp_path: Path, large: strategies.Models) -> None:
    model = write(tmp_path / "model", large.base)
    report = merge(request("linear", [model]), tmp_path / "out", max_shard_size="300KB")
    index = json.loads((tmp_path / "out" / checkpoints.INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-00005.safetensors" for i in range(1, 6)]
    assert set(report.output.files) == set(files)
    for name, file in index["weight_map"].items():
        with safetensors.safe_open(tmp_path / "out" / file, framework="pt") as shard:
            assert shard.metadata() == {"format": "pt"}
            tensor = shard.get_tensor(name)
        array = large.base[name]
        assert tuple(tensor.shape) == array.shape
        assert str(tensor.dtype) == f"torch.{array.dtype.name}"
        word = torch.int64 if tensor.dtype == torch.int64 else torch.float32
        assert np.array_equal(tensor.to(word).numpy(), array.astype(str(word)[6:]))
