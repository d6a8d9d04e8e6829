"""Runs that crash and go on from where they stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

from tallies import MergeReport, merge
from tallies.engine.passes import Passes
from tests.support.stages import OPTIONS

Recipe = dict[str, Any]


def what_it_says(report: MergeReport) -> dict[str, Any]:
    """A report, without what differs between two runs: one that goes on has lost its lists."""
    said = report.to_json_dict()
    for key in ("seconds", "gb_per_second", "peak_memory_bytes", "threads", "bytes_read", "reads"):
        del said[key]
    del said["combined_again"]
    del said["output"]["path"]

    def located(path: str) -> str:
        return os.path.normpath(os.path.join(report.output.path, path))

    recipe = said["recipe"]
    for entry in recipe["models"]:
        entry["model"] = located(entry["model"])
    if "base_model" in recipe:
        recipe["base_model"] = located(recipe["base_model"])
    for one in (said["base"], *said["experts"]):
        if one is not None:
            one["path"] = located(one["path"])
    return said


class Crash(BaseException):
    """Ends a run where it stands."""


class Run:
    """A merge with ``resume`` that may crash; remembers what it did."""

    def __init__(
        self, recipe: Recipe, out: Path, crash_at: int | str | None = None, **options: Any
    ) -> None:
        self._crash_at = crash_at
        self.surveyed = False
        self.combined: list[list[str]] = []
        """Names of merged tensors, file by file."""
        self.report: MergeReport | None = None
        names = ("survey_model", "guess_model", "combine", "_settle")
        original = {name: getattr(Passes, name) for name in names}

        def survey(passes: Passes) -> None:
            self._pass_by("survey")
            self.surveyed = True
            original["survey_model"](passes)

        def guess(passes: Passes, data: bytes | None = None) -> None:
            self._pass_by("survey")
            self.surveyed |= data is None
            original["guess_model"](passes, data)

        def combine(passes: Passes, jobs: Any) -> None:
            self._pass_by(len(self.combined))
            self.combined.append([passes._works[job].name for job in jobs])
            original["combine"](passes, jobs)

        def settle(passes: Passes, groups: Any) -> None:
            if self._crash_at == "repair":
                mend = passes._mend

                def some(wrong: Any) -> Any:
                    left_out, *others = (job for job, (_, ranges) in wrong.items() if ranges)
                    assert others
                    parts = {job: one for job, one in wrong.items() if job != left_out}
                    assert not any(ranges for _, ranges in mend(parts).values())
                    raise Crash

                with mock.patch.object(passes, "_mend", some):
                    original["_settle"](passes, groups)
            original["_settle"](passes, groups)

        patches: dict[str, Any] = dict(zip(names, (survey, guess, combine, settle), strict=True))
        with mock.patch.multiple(Passes, **patches):
            try:
                self.report = merge(recipe, out, resume=True, **{**OPTIONS, **options})
            except Crash:
                assert not out.exists()

    def _pass_by(self, point: int | str) -> None:
        if self._crash_at == point:
            raise Crash


def crash(recipe: Recipe, out: Path, at: int | str, **options: Any) -> Run:
    run = Run(recipe, out, at, **options)
    assert run.report is None
    assert os.listdir(out.parent) == [f".{out.name}.tallies-partial"]
    return run


def workspace(out: Path) -> Path:
    return out.with_name(f".{out.name}.tallies-partial")


FILES = [
    ["a.few"],
    ["b.few"],
    ["model.embed_tokens.weight", "model.smooth"],
    ["y.few"],
    ["z.few"],
]
"""The merged tensors of each file. The second also holds a copy, and an alias of the third's."""
