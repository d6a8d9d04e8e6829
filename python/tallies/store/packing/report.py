"""What packing did, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..._version import __version__
from ...engine.usage import done_line
from ...messages import counted


@dataclass(frozen=True)
class TaskReport:
    """One expert in the store. ``set_fraction`` is that of its mask, or of each candidate's."""

    name: str
    source: str
    fingerprint: str
    scale: float
    set_fraction: dict[str, float]
    n_bytes: int
    """Of its files."""


@dataclass(frozen=True)
class PackReport:
    """What packing did. Masked parameters have a bit per task; frozen ones no task changed."""

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
    """Of the store's tensor files; the base is not in it."""
    base_bytes: int
    expert_bytes: int
    """Of all experts."""
    has_shared: bool
    """Whether the codec has a vector that all tasks share, as the paper's accounting assumes."""
    warnings: list[str] = field(default_factory=list)
    bytes_read: int = 0
    seconds: float = 0.0
    gb_per_second: float = 0.0
    peak_memory_bytes: int = 0
    threads: int = 0
    target: str = ""
    tallies: str = __version__

    @property
    def bytes_written(self) -> int:
        """All that was written are the store's files."""
        return self.n_bytes

    @property
    def ratio(self) -> float:
        """How many times the bytes of base and store all experts take."""
        return self.expert_bytes / max(self.base_bytes + self.n_bytes, 1)

    @property
    def bits_per_parameter_and_task(self) -> float:
        """Bits of the tasks' own files over trained parameters and tasks."""
        n = self.parameters_trained * len(self.tasks)
        return 8 * sum(task.n_bytes for task in self.tasks) / n if n else 0.0

    @property
    def paper_bits(self) -> dict[str, int]:
        """The accounting of the TALL-masks paper: 32-bit base, shared vector and frozen scalars.

        ``experts`` is 32 (T P + F), ``store`` is (64 + T) P + 32 F, for T tasks, P trained and F
        frozen parameters.
        """
        n_tasks, trained, frozen = len(self.tasks), self.parameters_trained, self.parameters_frozen
        return {
            "experts": 32 * (n_tasks * trained + frozen),
            "store": (64 + n_tasks) * trained + 32 * frozen,
        }

    def to_json_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            **asdict(self),
            "ratio": self.ratio,
            "bits_per_parameter_and_task": self.bits_per_parameter_and_task,
            "paper_bits": self.paper_bits,
        }

    def to_json(self) -> str:
        """The report as JSON, indented."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        lines = [
            f"{self.codec} of {counted(len(self.tasks), 'task')} -> {self.path}",
            f"tensors    {self.tensors_masked} masked ({self.parameters_masked:,} parameters), "
            f"{self.tensors_dense} dense, {self.tensors_frozen} frozen, "
            f"{self.tensors_copied} copied",
        ]
        for task in self.tasks:
            fractions = ", ".join(
                f"{n:.4%} set" + (f" at lambda {key}" if len(task.set_fraction) > 1 else "")
                for key, n in task.set_fraction.items()
            )
            factor = f", scale {task.scale:.6g}" if task.scale != 1 else ""
            lines.append(f"task       {task.name}: {fractions}{factor}, {task.n_bytes:,} bytes")
        lines += [f"warning    {warning}" for warning in self.warnings]
        lines += [
            f"size       {self.n_bytes:,} bytes beside the base's {self.base_bytes:,}; the experts "
            f"take {self.expert_bytes:,}: {self.ratio:.2f} times as much; "
            f"{self.bits_per_parameter_and_task:.3f} bits per parameter and task",
        ]
        if self.has_shared:
            experts, store = (_bits(self.paper_bits[what]) for what in ("experts", "store"))
            lines.append(f"paper      {experts} -> {store} with 32-bit floats, base included")
        lines.append(done_line(self))
        return "\n".join(lines)


def _bits(n: int) -> str:
    return f"{n / 1e9:.2f} Gbit" if n >= 10**9 else f"{n / 1e6:.2f} Mbit"
