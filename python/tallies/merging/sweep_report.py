"""Reports a sweep: the settings, the place and the report of each candidate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..checkpoint.occupied import SWEEP_NAME
from ..engine.usage import Usage, done_line
from ..messages import counted, labelled, warned
from ..sizes import format_size
from .report import MergeReport, without_nonfinite
from .sweep_grid import in_words


@dataclass(frozen=True)
class SweepReport(Usage):
    """The report of a sweep; also in ``sweep.json`` beside the results."""

    path: str
    names: list[str]
    """The directory of each candidate, below ``path``."""
    settings: list[dict[str, Any]]
    """The values of the grid that each has."""
    reports: list[MergeReport]
    """The report on each merge, which is also in its directory."""
    n_reads: int
    """The groups of candidates that are made of the same reads."""
    notes: list[str]

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        candidates = [
            {"path": name, "settings": settings, "report": report.to_json_dict()}
            for name, settings, report in zip(self.names, self.settings, self.reports, strict=True)
        ]
        used = {name: getattr(self, name) for name in Usage.__dataclass_fields__}
        data = {"candidates": candidates, "n_reads": self.n_reads, "notes": self.notes, **used}
        return data | {"tallies": __version__}

    def to_json(self) -> str:
        """Return the report as JSON, indented; numbers that are not finite are null."""
        data = without_nonfinite(self.to_json_dict())
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def file_text(self, directory: Path) -> str:
        """Return the content of ``sweep.json``: the report, and all files that the sweep wrote."""
        files = sorted(
            path.relative_to(directory).as_posix()
            for path in directory.rglob("*")
            if path.is_file()
        )
        tensors = {
            f"{name}/{file}": size
            for name, report in zip(self.names, self.reports, strict=True)
            for file, size in report.output.files.items()
        }
        others = sorted({*files, SWEEP_NAME} - tensors.keys())
        data = without_nonfinite(
            {**self.to_json_dict(), "output": {"files": tensors, "other_files": others}}
        )
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def summary(report: SweepReport, screen: int | None = None) -> str:
    """Return the lines that a sweep prints.

    Args:
        report: The report on the sweep.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    lines = [f"sweep of {counted(len(report.names), 'candidate')}"]
    for name, settings, one in zip(report.names, report.settings, report.reports, strict=True):
        facts = ", ".join([*_kept(one), f"hash {one.output.fingerprint}"])
        lines.append(labelled(name, f"{in_words(settings)}: {facts}", screen))
    lines += [labelled("reads", note, screen) for note in report.notes]
    seen = dict.fromkeys(warning for one in report.reports for warning in one.warnings)
    lines += [warned(warning, screen) for warning in seen]
    size = format_size(sum(one.output.n_bytes for one in report.reports))
    lines.append(labelled("output", f"{report.path}: {size}, {SWEEP_NAME}", screen))
    lines.append(done_line(report, screen))
    return "\n".join(lines)


def _kept(report: MergeReport) -> Iterator[str]:
    """Yield the share of the entries that survive the trims of a merge, if that is known."""
    shares = [one.kept_fraction for one in report.experts if one.kept_fraction is not None]
    if not shares:
        return
    least, most = min(shares), max(shares)
    yield f"kept {least:.4%}" + (f" to {most:.4%}" if least < most else "")
