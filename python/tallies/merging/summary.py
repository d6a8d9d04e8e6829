"""Words the report of a merge for a person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..engine.usage import done_line
from ..messages import counted, headline, labelled, some, warned
from ..recipe.modifiers import KEYS
from ..sizes import format_size
from . import matrices
from .facts import SETTINGS
from .values import extent, in_words, listed, modified
from .vocabulary_words import in_words as of_tokens

if TYPE_CHECKING:
    from .report import MergeReport, ModelReport


def summary(report: MergeReport, screen: int | None = None) -> str:
    """Return the lines that a merge prints.

    Args:
        report: The report on the merge.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    lines = [
        headline(report.method, report.semantics, len(report.experts)),
        *(labelled(label, text, screen) for label, text in _rows(report)),
        *(warned(warning, screen) for warning in report.warnings),
        labelled("output", _output(report), screen),
        done_line(report, screen),
    ]
    return "\n".join(lines)


def _rows(report: MergeReport) -> Iterator[tuple[str, str]]:
    for name, stage in report.stages.items():
        models = counted(len(stage["experts"]), "model")
        yield "stage", f"{name}: {stage['method']} ({stage['semantics']} semantics) of {models}"
    if report.base is not None:
        yield "base", report.base.path
        yield from (("adapter", str(one)) for one in report.base.adapters)
    for number, expert in enumerate(report.experts):
        said = ", ".join(_facts(report, expert, number))
        yield "model", f"{expert.path}: {said}" if said else expert.path
        yield from (("adapter", str(one)) for one in expert.adapters)
    yield "parameters", listed(report.shared_parameters)
    for key in filter(report.recipe.__contains__, KEYS):
        yield "", modified(key, report.recipe[key])
    yield "settings", listed({key: report.recipe[key] for key in SETTINGS})
    yield (
        "tensors",
        f"{report.tensors_merged} merged ({report.parameters:,} parameters), "
        f"{report.tensors_copied} copied, {report.tensors_tied} tied",
    )
    if report.matrices is not None:
        yield "matrices", matrices.in_words(report.matrices)
    if report.vocabulary is not None:
        yield "vocabulary", of_tokens(report.vocabulary)
    if report.buffers:
        yield "buffers", f"{len(report.buffers)} not merged: {some(report.buffers)}"
    if report.alpha is not None:
        yield "layers", f"alpha {report.alpha:.6g}"
    if reads := _reads(report):
        yield "reads", reads
    if report.majority_sign is not None or report.sign_conflicts:
        yield (
            "signs",
            f"{report.sign_conflict_fraction:.4%} of the elements in conflict, "
            f"{report.cancellations:,} cancelled",
        )
    for model, paths in report.left_out.items():
        yield "left out", f"{', '.join(paths)} of {model}"


def _facts(report: MergeReport, expert: ModelReport, number: int) -> Iterator[str]:
    """Yield the known facts of one model, as text."""
    if expert.kept_fraction is not None:
        yield f"kept {expert.kept_fraction:.4%}"
    if expert.threshold is not None:
        yield f"|delta| >= {expert.threshold:.6g}"
    elif by_tensor := _of_model(report.thresholds.values(), number):
        yield f"|delta| >= {by_tensor}"
    if expert.coefficient is not None:
        yield f"coefficient {expert.coefficient:.6g}"
    elif by_tensor := _of_model(report.coefficients.values(), number):
        yield f"coefficient {by_tensor}"
    yield from filter(None, [", ".join(expert.layers), listed(expert.parameters)])
    if expert.dropped_layers:
        yield f"without {counted(len(expert.dropped_layers), 'layer')}"
    if expert.missing:
        yield f"{counted(len(expert.missing), 'tensor')} taken from the base"
    if expert.dropped:
        yield f"{counted(len(expert.dropped), 'tensor')} left out"
    if report.base is not None and not expert.layers:
        yield f"{expert.n_equal_to_base} of {report.tensors_merged} tensors equal the base's"


def _reads(report: MergeReport) -> str:
    """Return what was read beside whole passes, in words; nothing where that is nothing."""
    for_votes = report.combined_again / max(report.parameters, 1)
    if report.reads is None:
        return f"{_share(for_votes)} again, for votes" if for_votes else ""
    sampled, settled = report.reads["sampled"], report.reads["settled"]
    once = max((report.bytes_read - sampled - settled) / (1 + for_votes), 1)
    again = for_votes + settled / once
    text = f"once, and a sample of {_share(sampled / once)}"
    return f"{text}; {_share(again)} again" if again else text


def _share(part: float) -> str:
    """Return a share in percent: ``0.4%``, ``below 0.01%``.

    >>> _share(0.004), _share(0.12345), _share(1e-6)
    ('0.4%', '12.35%', 'below 0.01%')
    """
    return f"{100 * part:.2f}".rstrip("0").rstrip(".") + "%" if part >= 1e-4 else "below 0.01%"


def _of_model(rows: Iterable[Sequence[float | None]], number: int) -> str:
    """Return the extent of the finite numbers of one model among those of all, by tensor."""
    found = [row[number] for row in rows]
    known = [value for value in found if value is not None and math.isfinite(value)]
    return in_words(extent(known)) if known else ""


def _output(report: MergeReport) -> str:
    files, dtypes = report.output.files, report.output.dtypes
    size = f"{format_size(report.output.n_bytes)} in {counted(len(files), 'file')}"
    kinds = ", ".join(f"{n} {dtype}" for dtype, n in dtypes.items())
    return f"{report.output.path}: {size} ({kinds}), fingerprint {report.output.fingerprint}"
