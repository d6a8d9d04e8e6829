"""Sweeps beside the single merges of the same settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tallies import MergeConfig, MergeReport, merge, sweep
from tallies.recipe.overrides import Overrides

_RUNS = (
    *("seconds", "gb_per_second", "peak_memory_bytes", "bytes_read", "combined_again", "reads"),
)
"""The part of a report that is about a run, and not about its result."""


def rows_of(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, row, strict=True)) for row in itertools.product(*grid.values())]


def alone(recipe: Any, settings: Mapping[str, Any], out: Path, **options: Any) -> MergeReport:
    """Return the report of the single merge of a candidate."""
    report = merge(MergeConfig.load(recipe, Overrides(settings=settings)), out, **options)
    assert isinstance(report, MergeReport)
    return report


def all_files(path: Path) -> dict[str, bytes]:
    """All files of a result but its report."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "tallies.json"
    }


def facts(path: Path) -> dict[str, Any]:
    """The report beside a result without what differs from run to run."""
    report = json.loads((path / "tallies.json").read_text())
    return {key: value for key, value in report.items() if key not in _RUNS}


def assert_as_alone(
    recipe: Any, grid: Mapping[str, Sequence[Any]], root: Path, **options: Any
) -> list[MergeReport]:
    """A sweep writes all files that single merges write, byte for byte, and the same reports."""
    reports = sweep(recipe, grid, root / "together", **options)
    rows = rows_of(grid)
    assert len(reports) == len(rows)
    for number, settings in enumerate(rows, 1):
        name = f"{number:04}"
        alone(recipe, settings, root / "alone" / name, **options)
        found, expected = root / "together" / name, root / "alone" / name
        assert all_files(found) == all_files(expected), settings
        assert facts(found) == facts(expected), settings
    return reports
