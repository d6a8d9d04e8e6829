"""Words and tables for the differences between two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ..engine.usage import done_line
from ..messages import counted, labelled, show, some
from .diff import DiffReport, LayerDiff, TensorDiff, Unlike
from .measures import Measures

HEADINGS: Final = (
    "tensors",
    "changed",
    "L2",
    "relative",
    "cosine",
    "flips",
    "largest",
)
"""The headings of ``cells``, without that of the layer or the tensor."""


_MOST_UNLIKE: Final = 3


def cells(measures: Measures) -> list[str]:
    """Return the numbers of a row as text: changed share, norms, cosine, flips, largest."""
    relative, cosine = measures.relative_l2, measures.cosine
    return [
        share(measures.changed_share),
        f"{measures.l2:.4g}" if measures.has_values else "-",
        "-" if relative is None else f"{relative:.3g}",
        "-" if cosine is None else f"{cosine:.6f}",
        f"{measures.n_sign_flips:,}" if measures.has_values else "-",
        f"{measures.largest:.3g}" if measures.has_values else "-",
    ]


def share(part: float) -> str:
    """Return a share in percent.

    >>> share(0.01132), share(0.0), share(1.0)
    ('1.13 %', '0 %', '100 %')
    """
    return f"{100 * part:.3g} %"


def layer_rows(report: DiffReport) -> list[list[str]]:
    """Return a row of text for each layer, and one for all of them: label, tensors, numbers."""
    rows = [[visible(one.label), _of(one), *cells(one.measures)] for one in report.by_layer()]
    n_tensors = len(report.tensors)
    if n_tensors > 1:
        rows.append(["all", f"{report.n_changed} of {n_tensors}", *cells(report.total)])
    return rows


def visible(name: str) -> str:
    """Return a stranger's name as it is, or with escapes for what is no sign to be seen."""
    return name if name.isprintable() else show(name)


def _of(layer: LayerDiff) -> str:
    return f"{layer.n_changed} of {layer.n_tensors}"


def verdict(report: DiffReport) -> str:
    """Return the sentence that says how far the models lie apart."""
    if report.is_equal:
        return f"The models are equal bit for bit in {counted(len(report.tensors), 'tensor')}."
    if not report.tensors:
        return "No tensor of one model can be compared with one of the other."
    total = report.total
    return (
        f"{report.n_changed} of {counted(len(report.tensors), 'tensor')} differ, in "
        f"{total.n_different:,} of {total.n_elements:,} elements ({share(total.changed_share)})."
    )


def notes(report: DiffReport) -> Iterator[tuple[str, str]]:
    """Yield what the table cannot show, as labels and texts."""
    for label, names in (("only in A", report.only_in_a), ("only in B", report.only_in_b)):
        if names:
            yield label, f"{counted(len(names), 'tensor')}: {some(names)}"
    if report.unlike:
        yield "unlike", f"{counted(len(report.unlike), 'tensor')}: {_unlike(report.unlike)}"
    if others := [one for one in report.tensors if one.dtypes[0] != one.dtypes[1]]:
        yield "dtypes", f"{counted(len(others), 'tensor')}: {_dtypes(others[0])}"
    if n := report.total.n_nonfinite:
        yield "nonfinite", f"{counted(n, 'element')} NaN or infinite, in no norm"


def _unlike(tensors: Sequence[Unlike]) -> str:
    """Word the forms of the first tensors, and how many follow."""
    shown = []
    for one in tensors[:_MOST_UNLIKE]:
        forms = zip(one.dtypes, one.shapes, strict=True)
        shown.append(f"{one.name!r} is {' and '.join(f'{d} {list(s)}' for d, s in forms)}")
    n_left = len(tensors) - len(shown)
    return ", ".join(shown) + (f" and {n_left} more" if n_left else "")


def _dtypes(one: TensorDiff) -> str:
    return f"{one.name!r} is {one.dtypes[0]} and {one.dtypes[1]}, compared in float32"


def ending(report: DiffReport, screen: int | None = None) -> str:
    """Return the lines below the table.

    Args:
        report: The differences.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    lines = [verdict(report)]
    lines += [labelled(label, text, screen) for label, text in notes(report)]
    return "\n".join([*lines, done_line(report, screen)])


def text(report: DiffReport) -> str:
    """Return the table as plain lines, in which no name is shortened."""
    rows = [["layer", *HEADINGS], *layer_rows(report)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [
                f"{row[0]:<{widths[0]}}",
                *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return "\n".join([f"A {report.a}", f"B {report.b}", *lines, ending(report)])
