"""Plans a sweep: its candidates, and the bytes that it reads, writes and needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoint.occupied import SWEEP_NAME
from ..messages import counted, labelled
from ..recipe.config import MergeConfig
from ..sizes import format_size
from .finishing import bytes_needed
from .sweep_grid import Candidate, candidates, families, in_words, settings_of, told
from .sweep_run import bytes_read


@dataclass(frozen=True)
class SweepPlan:
    """The plan of a sweep, made of headers alone."""

    candidates: list[Candidate]
    groups: list[list[Candidate]]
    """The candidates that are made of the same reads."""

    @property
    def bytes_read(self) -> int:
        """Bytes of all models that the surveys and the combine read."""
        return sum(bytes_read([one.plan for one in group]) for group in self.groups)

    @property
    def bytes_written(self) -> int:
        """Bytes of the tensor files of all results."""
        return sum(one.plan.bytes_written for one in self.candidates)

    @property
    def bytes_needed(self) -> int:
        """Bytes of the file system that the sweep needs."""
        return sum(bytes_needed(one.plan) for one in self.candidates)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        rows = [
            {"path": one.name, "settings": one.settings, "bytes_written": one.plan.bytes_written}
            for one in self.candidates
        ]
        return {
            "candidates": rows,
            "n_reads": len(self.groups),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "bytes_needed": self.bytes_needed,
            "notes": told(self.groups),
        }

    def in_words(self, out: str | None = None, width: int | None = None) -> str:
        """Return the plan as text.

        Args:
            out: The directory to create, if it is known.
            width: The columns of a terminal; None where the text goes elsewhere.
        """
        alone = sum(one.plan.bytes_read for one in self.candidates)
        rows = [("", f"sweep of {counted(len(self.candidates), 'candidate')}")]
        rows += [(one.name, in_words(one.settings)) for one in self.candidates]
        reads = f"{format_size(self.bytes_read)}; {format_size(alone)} if each is merged by itself"
        rows.append(("reads", reads))
        rows += [("", note) for note in told(self.groups)]
        size = f"{format_size(self.bytes_written)}, {format_size(self.bytes_needed)} of disk"
        rows.append(("writes", size))
        if out is not None:
            rows.append(("output", f"{out}: a directory for each candidate, and {SWEEP_NAME}"))
        first, *others = rows
        return "\n".join([first[1], *(labelled(label, text, width) for label, text in others)])


def plan_sweep(config: MergeConfig, grid: Mapping[str, Sequence[Any]]) -> SweepPlan:
    """Plan a sweep from the headers of its models.

    Args:
        config: The request that all candidates change.
        grid: The values of each key.

    Raises:
        InputError: The sweep would fail for a reason that headers can show.
    """
    made = candidates(config, settings_of(grid))
    return SweepPlan(made, families(made))
