"""A page for a browser with the differences between two models, in one small file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from .._version import __version__
from .diff import DiffReport, TensorDiff
from .diff_table import HEADINGS, cells, layer_rows, notes, verdict, visible

MOST_TENSORS: Final = 2000
"""Tensors that the page names one by one, those that changed most."""

_STYLE: Final = """
:root { color-scheme: light dark; --line: #c8ccd4; --bar: #9cc3ee; }
@media (prefers-color-scheme: dark) { :root { --line: #4a505c; --bar: #2f5f96; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 0.15rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; font-weight: normal; }
thead th, thead th:first-child { font-weight: 600; }
tbody tr:last-child.all th, tbody tr:last-child.all td { font-weight: 600; }
td.share { background: linear-gradient(to right, var(--bar) var(--w), transparent var(--w)); }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(report: DiffReport) -> str:
    """Return the page: a sentence, a table by layer, what cannot be compared, and the tensors.

    The page has no scripts and needs no network; names are text, whatever signs they have.
    """
    title = f"{report.a} and {report.b}"
    rows = layer_rows(report)
    shares = [one.measures.changed_share for one in report.by_layer()]
    shares += [report.total.changed_share] * (len(rows) - len(shares))
    sections = [
        f"<h1>What differs between {escape(report.a)} and {escape(report.b)}</h1>",
        f"<p>{escape(verdict(report))} The norm of a difference is relative to that of "
        "the first model.</p>",
        _facts(report),
        "<h2>By layer</h2>",
        _table("Differences by layer", ("layer", *HEADINGS), rows, shares, has_total=True),
        *_tensors(report),
        f"<p>Made by tallies {escape(__version__)}.</p>",
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def _facts(report: DiffReport) -> str:
    facts = "".join(
        f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in notes(report)
    )
    return f"<dl>{facts}</dl>" if facts else ""


def _tensors(report: DiffReport) -> Iterable[str]:
    """Yield the table of the tensors that changed, those of the largest relative norm first."""
    changed = sorted((one for one in report.tensors if not one.is_equal), key=_distance)
    if not changed:
        return
    shown = changed[:MOST_TENSORS]
    yield "<h2>By tensor</h2>"
    if len(shown) < len(changed):
        yield f"<p>The {len(shown)} that changed most, of {len(changed)}.</p>"
    rows = [
        [
            visible(one.name),
            f"{list(one.shape)} {' and '.join(dict.fromkeys(one.dtypes))}",
            *cells(one.measures),
        ]
        for one in shown
    ]
    headings = ("tensor", "shape", *HEADINGS[1:])
    shares = [one.measures.changed_share for one in shown]
    yield _table("Tensors that changed", headings, rows, shares)


def _distance(one: TensorDiff) -> tuple[float, str]:
    relative = one.measures.relative_l2
    return -(math.inf if relative is None else relative), one.name


def _table(
    caption: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    shares: Sequence[float],
    *,
    has_total: bool = False,
) -> str:
    """Return a table whose third column, a share, has a bar behind it."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in headings)
    body = []
    for number, (row, share) in enumerate(zip(rows, shares, strict=True)):
        is_total = has_total and number == len(rows) - 1 and len(rows) > 1
        first, second, third, *others = map(escape, row)
        body.append(
            f'<tr{" class=all" if is_total else ""}><th scope="row">{first}</th><td>{second}</td>'
            f'<td class="share" style="--w: {100 * share:.3g}%">{third}</td>'
            + "".join(f"<td>{cell}</td>" for cell in others)
            + "</tr>"
        )
    lines = "\n".join(body)
    return (
        f'<div class="wide" role="region" aria-label="{escape(caption)}" tabindex="0">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>\n</div>"
    )
