"""Lay out the table of results in at most 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """The accuracy on each task in percent, and the cost of the merge if there was one."""

    name: str
    accuracies: Mapping[str, float]
    seconds: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def mean(self) -> float:
        """The mean accuracy over the tasks, in percent."""
        return sum(self.accuracies.values()) / len(self.accuracies)

    def normalised(self, experts: Row) -> float:
        """Return the mean over the tasks of ``accuracy / accuracy of the expert``, in percent.

        Raises:
            ZeroDivisionError: An expert is always wrong.
        """
        shares = [value / experts.accuracies[task] for task, value in self.accuracies.items()]
        return 100 * sum(shares) / len(shares)


def table(rows: Sequence[Row], experts: Row) -> list[str]:
    """Return lines of right-aligned columns: tasks, mean, ``norm``, and the merge's s and MiB."""
    cells = [["", *experts.accuracies, "mean", "norm", "s", "MiB"]]
    for row in rows:
        percentages = [*row.accuracies.values(), row.mean, row.normalised(experts)]
        cells.append(
            [
                row.name,
                *(f"{value:.1f}" for value in percentages),
                "-" if row.seconds is None else f"{row.seconds:.2f}",
                "-" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, values, widths[1:])])
        for name, *values in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
