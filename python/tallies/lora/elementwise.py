"""Merges the products of adapters by any method, one tensor of them in memory at a time.

The passes are those of merges of models: an operand is what an adapter adds to zeros, which the
engine makes of the factors tile by tile. Each merged tensor is handed on as soon as it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._core import Plan
from ..checkpoint.changes import Change, pieces
from ..engine.files import PlanFiles
from ..engine.jobs import Work, settings
from ..engine.kinds import refuse_too_large
from ..engine.limits import tile_limits
from ..errors import InputError
from ..linalg.threads import Workers, single_threads
from ..merging.steps import Findings, Request, Steps
from ..messages import show
from ..sizes import budget
from ..spec.choices import Nonfinite
from ..spec.dtypes import DTYPE_CODES
from .adapter_plan import AdapterPlan

if TYPE_CHECKING:
    import torch

_MOST_BUFFERS = 4


@dataclass(frozen=True)
class Operands:
    """The changes of one tensor by all adapters, in the space in which they are merged."""

    name: str
    shape: tuple[int, ...]
    changes: tuple[tuple[Change, ...], ...]
    """One for each adapter; nothing where it leaves the tensor alone."""

    @property
    def n_elements(self) -> int:
        """The number of merged elements."""
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def n_bytes(self) -> int:
        """Bytes of the factors."""
        return sum(one.n_bytes for own in self.changes for each in own for one in pieces(each))


Take = Callable[[int, "torch.Tensor", Workers, bool], Any]
"""Takes a number, the merged float32 tensor, its worker, and whether it comes again."""


class ProductMerge:
    """A merge of products by the method of a plan.

    Args:
        made: The plan.
        operands: The tensors, in the order of the plan's targets.
        blame: Raises InputError for the factor of this tensor that is not finite, if any.
        max_bytes: Upper bound for the tensors in hand.
        n_workers: Threads of the passes, and the number of tensors that are taken at a time.
        progress: Is called with the bytes moved since the last call.
    """

    def __init__(
        self,
        made: AdapterPlan,
        operands: Sequence[Operands],
        blame: Callable[[str], None],
        *,
        max_bytes: int,
        n_workers: int,
        progress: Callable[[int], object] | None,
    ) -> None:
        import torch

        self._made, self._operands, self._blame = made, operands, blame
        self._n_workers = n_workers
        most = max(one.n_elements for one in operands)
        n = min(_MOST_BUFFERS, n_workers + 1, len(operands), max_bytes // 2 // (4 * most) or 1)
        if 4 * most > max_bytes:
            largest = max(operands, key=lambda one: one.n_elements)
            needed = budget(4 * most, at_least=True)
            raise InputError(
                f"tensor {show(largest.name)} {list(largest.shape)}: is merged as a whole, which "
                f"takes {needed}, and max_memory allows {budget(max_bytes)}; "
                "raise --max-memory, or merge in the space of the factors: adapter_space 'core'"
            )
        self._buffers = [torch.empty(most) for _ in range(n)]
        self._steps = self._make_steps(max_bytes - n * 4 * most, progress)

    def _make_steps(self, max_bytes: int, progress: Callable[[int], object] | None) -> Steps:
        made, config = self._made, self._made.config
        method = config.method
        refuse_too_large(
            method,
            ((one.name, one.shape, made.parameters[one.name]) for one in self._operands),
            len(made.operands),
            config.semantics,
            max_bytes,
        )
        has_base = method.forms_task_vectors(has_base=True)
        plan = Plan(has_base)
        files = PlanFiles(plan)
        request = Request(
            method=method,
            constants=config.constants(),
            semantics=config.semantics,
            modifiers=config.modifiers(),
            names=[one.name for one in self._operands],
            labels=[one.label for one in made.operands],
            has_base=has_base,
            seed=config.seed,
            nonfinite=config.nonfinite,
        )
        works = [self._work(files, number, has_base) for number in range(len(self._operands))]
        return Steps(
            request,
            plan,
            files.open_again,
            works,
            Findings(),
            tile_limits(max_bytes, self._n_workers),
            n_workers=self._n_workers,
            max_bytes=max_bytes,
            objections=self._objections,
            progress=progress,
        )

    def _work(self, files: PlanFiles, number: int, has_base: bool) -> Work:
        one = self._operands[number]
        zeros = ((),) if has_base else ()
        return Work(
            name=one.name,
            n_elements=one.n_elements,
            inputs=tuple(
                files.task_vector(changes, one.shape) for changes in (*zeros, *one.changes)
            ),
            outputs=((-1, self._buffer(number).data_ptr(), DTYPE_CODES["F32"]),),
            row_length=one.shape[-1],
            n_input_bytes=one.n_bytes,
            shape=one.shape,
            **settings(self._made.parameters[one.name], len(self._made.operands)),
        )

    def _buffer(self, number: int) -> torch.Tensor:
        return self._buffers[number % len(self._buffers)]

    def _merged(self, number: int) -> torch.Tensor:
        one = self._operands[number]
        return self._buffer(number)[: one.n_elements].view(one.shape)

    def _objections(self, number: int) -> Iterator[str]:
        if self._made.config.nonfinite is not Nonfinite.ERROR:
            return  # the report's warnings name the tensor
        self._blame(self._operands[number].name)
        yield (
            f"tensor {show(self._operands[number].name)}: the merged values overflow float32; "
            "lower the scale or the weights, or pass --nonfinite propagate"
        )

    def run(self, take: Take) -> list[Any]:
        """Merge all tensors, and return what ``take`` makes of each, in order."""
        found: list[Future[Any]] = []
        n = len(self._buffers)
        with single_threads(self._n_workers) as pool:

            def groups() -> Iterator[Sequence[int]]:
                for number in range(len(self._operands)):
                    if number >= n:
                        found[number - n].result()  # its buffer is the next one to write
                    yield [number]

            def finish(number: int) -> None:
                found.append(pool.submit(take, number, self._merged(number), pool, False))

            self._steps.run(groups(), finish)
            made = [one.result() for one in found]
            # Cancelled votes take the majority of all signs, which is known only now.
            passes = self._steps.passes
            wrong = [job for job, one in passes.outcomes.items() if one.n_repeated]
            sign = passes.majority(passes.outcomes)
            for job in sorted(wrong):
                passes.combine([job])
                passes.settle_as([job], sign)
                made[job] = pool.submit(take, job, self._merged(job), pool, True).result()
        return made

    def warnings(self) -> list[str]:
        """Return the concerns about merged tensors."""
        return self._steps.warnings()

    def thresholds(self) -> Mapping[int, Any]:
        """Return the outcomes of the passes by the number of the tensor."""
        return self._steps.passes.outcomes
