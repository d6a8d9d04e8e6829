"""Reports a merge, for people and for programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._version import __version__
from ..engine.usage import Usage
from .adapters import AdapterReport
from .summary import summary


@dataclass(frozen=True)
class ModelReport:
    """One model that went in. ``kept_fraction`` and ``threshold`` describe its trim."""

    path: str
    fingerprint: str
    """The fingerprint of all tensors that were read: names, dtypes, shapes and contents."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The parameters of this model: a value, or the least and the most over the tensors."""
    n_equal_to_base: int = 0
    """Merged tensors whose bytes are those of the base."""
    kept: int | None = None
    kept_fraction: float | None = None
    threshold: float | None = None
    """The smallest magnitude that survives, where one holds for the whole model."""
    coefficient: float | None = None
    """The factor on its weights or task vector, where one holds for the whole model."""
    dropped_layers: list[str] = field(default_factory=list)
    """Layers in which its task vector was left out."""
    missing: list[str] = field(default_factory=list)
    """Tensors that it lacks, and for which the base's stand."""
    dropped: list[str] = field(default_factory=list)
    """Tensors that it has and the base lacks, and that are left out."""
    adapters: list[AdapterReport] = field(default_factory=list)
    """The adapters on it, in the order in which they were added."""
    layers: list[str] = field(default_factory=list)
    """Its layers that are in the result, where layers are stacked: ``model.layers 0-11``."""


@dataclass(frozen=True)
class OutputReport:
    """The checkpoint that came out."""

    path: str
    fingerprint: str
    files: dict[str, int]
    """Bytes of every tensor file."""
    n_bytes: int
    dtypes: dict[str, int] = field(default_factory=dict)
    """The number of tensors of each dtype."""
    other_files: list[str] = field(default_factory=list)
    """Files that are neither tensors nor copies: an index, for example."""


@dataclass(frozen=True)
class MergeReport(Usage):
    """The report of a merge; also in ``tallies.json`` beside the result.

    Counts are of elements unless the name says otherwise. A sign conflict is an element in which
    entries of both signs survived the trim and none was NaN; a cancellation is a conflict whose
    vote was exactly zero. Methods that elect no sign have neither.
    """

    recipe: dict[str, Any]
    method: str
    semantics: str
    base: ModelReport | None
    experts: list[ModelReport]
    output: OutputReport
    tensors_merged: int
    tensors_copied: int
    tensors_tied: int
    parameters: int
    """Scalars that were merged; tied ones count once."""
    sign_conflicts: int
    sign_conflict_fraction: float
    cancellations: int
    majority_sign: int | None
    """The sign that cancelled votes took, where one holds for the whole model."""
    combined_again: int
    """Elements repeated because the majority of the signs was known only at the end."""
    reads: dict[str, int] | None = None
    """The reads beside those of whole passes, where the combine proves guessed thresholds."""
    tensors_skipped: int = 0
    """Always 0: a tensor is merged, copied or tied, or the merge fails."""
    thresholds: dict[str, list[float | None]] = field(default_factory=dict)
    """By tensor, one per expert, where each tensor has its own."""
    coefficients: dict[str, list[float]] = field(default_factory=dict)
    """The weights that were solved for each tensor, one per expert; for rows their mean."""
    matrices: dict[str, Any] | None = None
    """Tensors that a method of matrices merged as such, and those that went the other way."""
    vocabulary: dict[str, Any] | None = None
    """The tokenizer of the result and the rows of its tokens, where the recipe asks for one."""
    alpha: float | None = None
    """The alpha of ``layer_scaling``, where it followed from norms."""
    shared_parameters: dict[str, Any] = field(default_factory=dict)
    """The parameters that all models share: a value, or the least and the most over the tensors."""
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    """By model, the paths beside its weights that were not read, and why."""
    buffers: list[str] = field(default_factory=list)
    """Tensors that are not learned: the base's are in the result, others are left out."""
    auxiliary_files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """By name, the reports on the stages whose results went in."""
    names: dict[str, str] = field(default_factory=dict, repr=False)
    """The paths that stand in this report, and how its JSON names them: relative to the result."""
    target: str = ""
    """The instruction set in use."""
    tallies: str = __version__

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data, which names no place outside the result by its path."""
        data = super().to_json_dict()
        names = data.pop("names")
        if not self.stages:
            del data["stages"]
        for one in (data["base"], *data["experts"], data["output"]):
            if one is not None:
                for named in (one, *one.get("adapters", ())):
                    named["path"] = names.get(named["path"], named["path"])
                for adapter in one.get("adapters", ()):
                    adapter["base"] = names.get(adapter["base"], adapter["base"])
        if (vocabulary := data["vocabulary"]) is not None:
            source = vocabulary["tokenizer"]
            data["vocabulary"] = vocabulary | {"tokenizer": names.get(source, source)}
        data["left_out"] = {names.get(model, model): why for model, why in self.left_out.items()}
        data["warnings"] = [renamed(warning, names) for warning in self.warnings]
        return data | {name: data.pop(name) for name in ("target", "tallies")}

    def to_json(self) -> str:
        """Return the report as JSON, indented; numbers that are not finite are null."""
        data = without_nonfinite(self.to_json_dict())
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def __str__(self) -> str:
        return summary(self)


def with_stages(report: MergeReport, stages: Mapping[str, Mapping[str, Any]]) -> MergeReport:
    """Return the report of a merge with those of the stages before it, and their warnings."""
    warnings = [
        f"stage {name}: {warning}" for name, one in stages.items() for warning in one["warnings"]
    ]
    return replace(
        report,
        stages={name: dict(one) for name, one in stages.items()},
        warnings=[*warnings, *report.warnings],
    )


def naming_all_files(report: MergeReport, directory: Path) -> MergeReport:
    """Return the report of a result that names every file in the result's directory.

    A later merge replaces the files that a report names and no others.
    """
    found = {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }
    # A run that was killed at its end may have left its own report.
    found -= {"tallies.json", *report.output.files, *report.auxiliary_files}
    others = sorted(found)
    return replace(report, output=replace(report.output, other_files=others))


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return text with other names for the absolute paths in it.

    >>> renamed("/tmp/a/w: odd; /tmp/ab: odd", {"/tmp/a": "../a"})
    '../a/w: odd; /tmp/ab: odd'
    """
    paths = [re.escape(path) for path in sorted(names, key=len, reverse=True) if path[:1] in "/~"]
    if not paths:
        return text
    pattern = rf"(?<![\w.])(?:{'|'.join(paths)})(?![\w.-])"
    return re.sub(pattern, lambda found: names[found[0]], text)


def without_nonfinite(value: Any) -> Any:
    """Return plain data with None in the place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: without_nonfinite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nonfinite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
