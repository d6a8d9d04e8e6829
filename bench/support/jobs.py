"""The merges that are measured, and what each must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallies.checkpoint.checkpoint import Checkpoint
from tests.reference import linear, task_arithmetic, ties

from .parts import Model, Reach, compare, parts

_SCALE = 0.4
_DENSITY = 0.2


@dataclass(frozen=True)
class Job:
    """One merge of a base and experts."""

    name: str
    method: str
    parameters: Mapping[str, Any]
    reach: Reach
    reference: Callable[[Sequence[Model]], Model]
    """Merges the base and the experts, in this order."""
    target_ratio: float
    """The required ratio of the time to the time of the copy."""
    base_is_a_model: bool = False
    """The base is averaged like the experts."""
    mergekit: Mapping[str, Any] | None = None
    """The same for mergekit, as parameters of its recipe."""

    def arguments(self, models: Sequence[Path]) -> list[str]:
        """Return the arguments that follow ``tallies merge``."""
        base, *experts = map(str, models)
        averaged = [base, *experts] if self.base_is_a_model else experts
        return [
            *("--method", self.method),
            *(() if self.base_is_a_model else ("--base", base)),
            *(word for path in averaged for word in ("--model", path)),
            *(word for key, v in self.parameters.items() for word in ("--param", f"{key}={v}")),
        ]

    def mergekit_recipe(self, models: Sequence[Path]) -> dict[str, Any]:
        """The recipe file for mergekit."""
        base, *experts = map(str, models)
        averaged = [base, *experts] if self.base_is_a_model else experts
        return {
            "merge_method": self.method,
            **({} if self.base_is_a_model else {"base_model": base}),
            "models": [{"model": path, "parameters": {"weight": 1.0}} for path in averaged],
            "parameters": dict(self.mergekit or {}),
            "dtype": "bfloat16",
        }


def _linear(models: Sequence[Model]) -> Model:
    return {name: linear.linear([model[name] for model in models]) for name in models[0]}


def _task_arithmetic(models: Sequence[Model]) -> Model:
    base, *experts = models
    return {
        name: task_arithmetic.task_arithmetic(base[name], [e[name] for e in experts], scale=_SCALE)
        for name in base
    }


def _ties_by(scope: str) -> Callable[[Sequence[Model]], Model]:
    return lambda models: ties.ties_model(models[0], models[1:], _DENSITY, scope=scope)


JOBS = (
    Job(
        name="linear",
        method="linear",
        parameters={},
        reach=Reach.ELEMENT,
        reference=_linear,
        target_ratio=1.5,
        base_is_a_model=True,
        mergekit={},
    ),
    Job(
        name="task_arithmetic",
        method="task_arithmetic",
        parameters={"scale": _SCALE},
        reach=Reach.ELEMENT,
        reference=_task_arithmetic,
        target_ratio=1.5,
        mergekit={"lambda": _SCALE},
    ),
    Job(
        name="ties, scope=tensor",
        method="ties",
        parameters={"density": _DENSITY, "scope": "tensor"},
        reach=Reach.TENSOR,
        reference=_ties_by("tensor"),
        target_ratio=2.0,
        mergekit={"density": _DENSITY},
    ),
    Job(
        name="ties, scope=model",
        method="ties",
        parameters={"density": _DENSITY, "scope": "model"},
        reach=Reach.MODEL,
        reference=_ties_by("model"),
        target_ratio=2.5,
    ),
)


def check(job: Job, models: Sequence[Path], out: Path) -> int:
    """Compare what a merge wrote with the reference, bit for bit; how many elements were compared.

    RuntimeError where bits differ.
    """
    opened = [Checkpoint.open(path) for path in (*models, out)]
    *inputs, found = (parts(checkpoint, job.reach) for checkpoint in opened)
    return compare(job.name, found, job.reference(inputs))


def check_shapes(base: Path, out: Path) -> None:
    """RuntimeError unless a result has the base's tensors; a rival's values are its own."""
    wanted, found = (
        {name: (info.dtype, info.shape) for name, info in Checkpoint.open(path).tensors.items()}
        for path in (base, out)
    )
    if wanted != found:
        raise RuntimeError(
            f"{len(set(wanted.items()) ^ set(found.items()))} tensors differ in shape"
        )
