"""Rows of results, facts about the machine, JSON files and tables, for all benchmarks."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tallies
from tallies import cpu

RESULTS = Path(__file__).parents[1] / "results"

Case = dict[str, str | int]
"""The measured case, by axis; two results with the same case can be compared."""


@dataclass
class Row:
    """The samples of one case."""

    case: Case
    samples: list[float] = field(default_factory=list)
    """Seconds, in the order they were taken."""
    n_bytes: float = 0
    """Bytes that the case is declared to move, read and written."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Whatever else was found out, such as the peak memory."""

    @property
    def seconds(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def gb_per_second(self) -> float:
        """10^9 declared bytes a second, at the median."""
        return self.n_bytes / self.seconds / 1e9

    @property
    def noise(self) -> float:
        """From the fastest to the slowest sample, as a share of the median."""
        return spread(self.samples)

    def to_json_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        rate = {"n_bytes": self.n_bytes, "gb_per_second": self.gb_per_second}
        return {
            "case": self.case,
            "seconds": self.seconds,
            **(rate if self.n_bytes else {}),
            **self.facts,
            "samples": self.samples,
        }


def spread(samples: Sequence[float]) -> float:
    """From the smallest to the largest, as a share of the median.

    >>> spread([1.0, 2.0, 4.0])
    1.5
    """
    return (max(samples) - min(samples)) / statistics.median(samples)


def machine() -> dict[str, Any]:
    """Return facts by which to judge the numbers, and nothing that names the machine."""
    return {
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": n_cores(),
        "instruction_sets": cpu.targets(),
        "l2_bytes": l2_bytes(),
        "memory_bytes": memory_bytes(),
        "virtual": "hypervisor" in _proc("/proc/cpuinfo", "flags").split(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tallies": tallies.__version__,
        "build": build(),
    }


def build() -> str:
    """Sixteen hexadecimal digits that stand for the installed package and its native module."""
    digest = hashlib.blake2b(digest_size=8)
    home = Path(tallies.__file__).parent
    for path in sorted(home.rglob("*")):
        if path.suffix in (".py", ".so"):
            digest.update(f"{path.relative_to(home)}\0{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def n_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def l2_bytes() -> int:
    """Second-level cache of a core; 512 KiB where the system does not say."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
    except OSError:
        return 512 << 10
    return int(size.removesuffix("K")) << 10


def _proc(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def save(name: str, rows: Sequence[Row], settings: Mapping[str, Any]) -> Path:
    """Write rows to ``bench/results/NAME.json``, over what an earlier run left there."""
    path = RESULTS / f"{name}.json"
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "settings": dict(settings),
        "rows": [row.to_json_dict() for row in rows],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def note(text: str) -> None:
    """Say on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Lines in columns: the first to the left, the others to the right.

    >>> print(table(["job", "s"], [["ties", "1.5"], ["linear", "10"]]))
    job       s
    ties    1.5
    linear   10
    """
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *body)
    )
