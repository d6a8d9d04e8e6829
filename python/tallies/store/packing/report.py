"""The report on a packing, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..._version import __version__
from ...engine.usage import Usage
from ...merging.adapters import AdapterReport
from .summary import summary


@dataclass(frozen=True)
class TaskReport:
    """One expert in the store."""

    name: str
    source: str
    fingerprint: str
    scale: float
    set_fraction: dict[str, float]
    """By lambda, the share of masked parameters in the mask of the task, or of each candidate."""
    n_bytes: int
    """Bytes of the task's tensor files."""
    n_small_bytes: int
    """Bytes of the small files, such as the tokenizer, that differ from the base's."""
    adapters: list[AdapterReport] = field(default_factory=list)
    """The adapters of the expert, in the order in which they are added."""


@dataclass(frozen=True, kw_only=True)
class PackReport(Usage):
    """The report on a packing.

    Masked parameters are encoded for each task, dense ones are stored as they are, frozen ones
    no task changed, and copied ones are integers and booleans of the base.
    """

    path: str
    codec: str
    parameters: dict[str, Any]
    base: str
    base_fingerprint: str
    tasks: list[TaskReport]
    tensors_masked: int
    tensors_dense: int
    tensors_frozen: int
    tensors_copied: int
    parameters_masked: int
    parameters_trained: int
    parameters_frozen: int
    n_bytes: int
    """Bytes of the store's tensor files, without the base."""
    base_bytes: int
    expert_bytes: int
    """Bytes of all experts."""
    has_shared: bool
    """True if all tasks share a vector, as the paper's accounting assumes."""
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    """By model, the paths beside its weights that were not read, and why."""
    warnings: list[str] = field(default_factory=list)
    store_tasks: list[str] = field(default_factory=list)
    """All tasks of the store, where others were in it before and stayed as they were; else none."""
    store_bytes: int = 0
    """Bytes of the tensor files of all these tasks."""
    target: str = ""
    """The instruction set in use."""
    tallies: str = __version__

    @property
    def ratio(self) -> float:
        """Bytes of all experts over those of the base and the store."""
        return self.expert_bytes / max(self.base_bytes + self.n_bytes, 1)

    @property
    def bits_per_parameter_and_task(self) -> float:
        """Bits of the tasks' own files over trained parameters and tasks."""
        n = self.parameters_trained * len(self.tasks)
        return 8 * sum(task.n_bytes for task in self.tasks) / n if n else 0.0

    @property
    def paper_bits(self) -> dict[str, int]:
        """Bits as the TALL-masks paper counts: 32-bit base, shared vector and frozen scalars.

        ``experts`` is 32 (T P + F), ``store`` is (64 + T) P + 32 F, for T tasks, P trained and F
        frozen parameters.
        """
        n_tasks, trained, frozen = len(self.tasks), self.parameters_trained, self.parameters_frozen
        return {
            "experts": 32 * (n_tasks * trained + frozen),
            "store": (64 + n_tasks) * trained + 32 * frozen,
        }

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        data = super().to_json_dict()
        # The files of the store are all that was written: ``n_bytes`` has the same number.
        del data["bytes_written"]
        return {
            **data,
            **{name: data.pop(name) for name in ("target", "tallies")},
            "ratio": self.ratio,
            "bits_per_parameter_and_task": self.bits_per_parameter_and_task,
            "paper_bits": self.paper_bits,
        }

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        return summary(self)
