"""Checks the memory and the disk that a merge takes, and completes its directory at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.cards import NAME as CARD_NAME
from ..checkpoint.cards import RECIPE_NAME
from ..checkpoint.occupied import REPORT_NAME
from ..engine.changes import kept_bytes
from ..engine.kinds import refuse_too_large
from ..engine.limits import check_rows
from ..engine.stages import row_elements
from .card import card_text
from .plan import MergePlan
from .recipe_file import recipe_text
from .report import MergeReport, naming_all_files, with_stages
from .result import MergeResult

# Beside the tensors: room for index, report and journal, and what blocks round up.
_OTHER_BYTES = 1 << 20
_OTHER_BYTES_A_TENSOR = 1 << 12


def bytes_needed(made: MergePlan) -> int:
    """Return the bytes of the file system that a merge needs."""
    others = _OTHER_BYTES + _OTHER_BYTES_A_TENSOR * len(made.template.tensors)
    return made.bytes_written + made.auxiliary.n_bytes + others


def check_memory(made: MergePlan, max_bytes: int, threads: int, n_results: int = 1) -> None:
    """Refuse a merge whose matrices, rows or factors do not fit into the budget.

    Args:
        made: The plan of the merge.
        max_bytes: The budget.
        threads: The threads that share it.
        n_results: The results that are made of one read.

    Raises:
        InputError: Something does not fit, or torch is not installed.
    """
    config = made.config
    refuse_too_large(
        config.method,
        (
            (name, made.template.tensors[name].shape, made.parameters[name])
            for name in made.parameters
        ),
        len(made.experts),
        config.semantics,
        max_bytes,
    )
    if made.rule.by_rows:
        n_bytes, name = _row_bytes(made)
        # A tile of rows has the inputs, and one more of their size for each result.
        n_inputs = len(made.inputs(name)) if name else 1
        check_rows(n_bytes * (n_inputs + n_results) // (n_inputs + 1), name, max_bytes, threads)
    check_rows(*_factor_bytes(made), max_bytes, threads, "factors of adapters take")


def _row_bytes(made: MergePlan) -> tuple[int, str]:
    """Return the most bytes that whole rows take in a thread, and the tensor they belong to."""
    most = (0, "")
    for name in made.match.merged:
        infos = [made.match.source(model, name) for model in made.inputs(name)]
        shape = infos[0].shape
        tile, chunk = row_elements(shape[-1] if shape else 1, infos[0].n_elements)
        n_bytes = made.input_bytes[name] + infos[0].n_bytes
        per_element = n_bytes / max(infos[0].n_elements, 1)
        most = max(most, (int(tile * per_element) + chunk * 4 * (len(infos) + 8), name))
    return most


def _factor_bytes(made: MergePlan) -> tuple[int, str]:
    """Return the most bytes that factors of adapters take in a thread, and the tensor."""
    found = [(0, "")]
    for name in made.match.merged:
        infos = [made.match.source(model, name) for model in made.inputs(name)]
        found.append((sum(map(kept_bytes, infos)), name))
    return max(found)


def complete(
    result: MergeResult,
    directory: Path,
    place: Path,
    start: float,
    threads: int,
    stages: Mapping[str, Mapping[str, Any]],
) -> MergeReport:
    """Write all that stands beside the tensors of a result, and return its report.

    Args:
        result: The merge whose tensors are written.
        directory: The directory of the new content.
        place: The directory that it becomes, or the file.
        start: ``time.perf_counter()`` at the start of the merge.
        threads: Threads that the merge used.
        stages: The reports on the stages before it, by name.
    """
    made = result.plan
    made.auxiliary.copy(directory)
    report = result.report(place, made.auxiliary.paths, start, threads)
    report = with_stages(report, stages)
    if made.is_file:
        return report
    if made.config.card:
        recipe = made.config.relative_to(place)
        card = card_text(made, report, place.name, recipe)
        (directory / CARD_NAME).write_text(card, encoding="utf-8")
        (directory / RECIPE_NAME).write_text(recipe_text(recipe), encoding="utf-8")
    report = naming_all_files(report, directory)
    (directory / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    return report
