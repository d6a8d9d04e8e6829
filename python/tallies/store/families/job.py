"""One packing as its family sees it: tensors to encode, files to write, limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from ..._core import Limits, Plan
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorInfo
from ...engine.files import PlanFiles
from ...engine.nonfinite import objections
from ..layout import Layout
from ..manifest import SHARED
from ..record import Record

GRAIN: Final = 2048
"""Elements over which sums fold: tiles begin at multiples of it, whatever their size is."""


@dataclass(frozen=True)
class PackJob:
    """The tensors that a family encodes, and where their encodings go."""

    tensors: Mapping[str, Sequence[TensorInfo]]
    """By name, the tensor in the base and then in each task."""
    tasks: Sequence[str]
    experts: Sequence[Checkpoint]
    """The model of each task."""
    own: Sequence[Mapping[str, TensorInfo]]
    """By task, tensors that the base lacks or has in another form; for codecs that keep them."""
    base: Mapping[str, TensorInfo]
    """All tensors of the base."""
    files: Sequence[str]
    """The file of each task in the store, or of each of its candidates, task by task."""
    lambdas: Sequence[float]
    """The lambda of each file's masks; empty for codecs without one."""
    layout: Layout
    directory: Path
    """The store, which is being written."""
    input_files: Sequence[str]
    limits: Limits
    refuse_nonfinite: bool
    record: Record
    progress: Callable[[int], object] | None

    @property
    def n_elements(self) -> list[int]:
        """Elements of each tensor."""
        return [base.n_elements for base, *_ in self.tensors.values()]

    @cached_property
    def places(self) -> dict[str, dict[str, TensorInfo]]:
        """By file and name, the tensors of the layout."""
        return self.layout.places(self.directory)

    @cached_property
    def plan_files(self) -> PlanFiles:
        """The open inputs of a plan, and the files of the layout, which the first use creates."""
        files = self.open_inputs()
        for file in self.layout.entries:
            self.record.add_file(file, self.layout.file_bytes(file))
        self.layout.create(files, self.directory)
        return files

    def close_written(self) -> None:
        """Close the files of the layout, if there are some; StorageError when bytes were lost."""
        if "plan_files" in vars(self):
            self.plan_files.close_written()

    def base_of(self, one: TensorInfo) -> TensorInfo | None:
        """Return the base's tensor of the same name, dtype and shape, if it has one."""
        found = self.base.get(one.name)
        alike = found is not None and (found.dtype, found.shape) == (one.dtype, one.shape)
        return found if alike else None

    def open_inputs(self) -> PlanFiles:
        """Open the inputs in a new plan."""
        return PlanFiles(Plan(True), map(os.fspath, self.input_files))

    def objection(self, plan: Plan, job: int, name: str) -> str:
        """Return the error for a job whose inputs, or the shared vector, are not finite."""
        for found in objections(plan, job, self.tensors[name], self.limits):
            return found
        dtype = self.places[SHARED][name].dtype if SHARED in self.layout.entries else "F32"
        wider = "" if dtype == "F32" else "--param shared_dtype=F32, or "
        return (
            f"tensor {name!r}: the shared vector overflows {dtype}; pass {wider}"
            "--nonfinite propagate"
        )

    def write(self, file: str, name: str, data: bytes, lanes: Sequence[int]) -> None:
        """Write a tensor of the layout whole, and note its content fingerprint."""
        tensor = self.places[file][name]
        self.plan_files.write(tensor, data)
        self.record.note_written(file, tensor, lanes)
