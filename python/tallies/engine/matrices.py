"""The passes of methods that merge whole matrices, one matrix of all experts in each worker.

A matrix's task vectors are read, float32, when the method asks for them; the native code writes the
merged one, as in other merges. Each worker's linear algebra runs on one thread, so that the number
of workers changes no bit; another processor or torch may.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .._core import Limits, Plan, write_merged
from ..errors import InputError
from ..linalg import spectral
from ..linalg.threads import Workers, results, single_threads
from ..methods._matrix import MatrixMethod
from ..sizes import budget
from ..spec.choices import Semantics
from .blocks import Block, blocks, matrices_together
from .deltas import ONE_THREAD, Deltas, NonFiniteError
from .fingerprints import add_content
from .jobs import Work
from .outcomes import Outcome
from .passes import Passes


class MatrixPasses(Passes):
    """Runs the passes of a method that merges whole matrices; other tensors as its rule says.

    Args:
        plan: A native plan without jobs, in which the files of the tensors are open.
        works: The tensors.
        method: The method.
        constants: The parameters that hold for all tensors and models.
        semantics: The author whose variant is meant.
        limits: Threads and buffers of the other tensors' passes.
        n_workers: The number of matrices that are merged at a time.
        max_bytes: Upper bound for the memory of the matrices in hand; None for none.
        options: Further arguments of ``Passes``.
    """

    def __init__(
        self,
        plan: Plan,
        works: Sequence[Work],
        method: type[MatrixMethod],
        constants: Mapping[str, Any],
        semantics: Semantics,
        limits: Limits,
        *,
        n_workers: int,
        max_bytes: int | None = None,
        **options: Any,
    ) -> None:
        is_matrix = [
            method.takes(work.name, work.shape, work.parameters, semantics) for work in works
        ]
        to_base = constants["others"] == "base"
        works = [
            work if matrix else _as_other(work, to_base=to_base)
            for work, matrix in zip(works, is_matrix, strict=True)
        ]
        rule = method.rule(dict(constants), semantics)
        super().__init__(plan, works, rule, semantics, limits, **options)
        self._method = method
        self._n_workers = n_workers
        self._budget = Budget(max_bytes)
        self._is_matrix = is_matrix

    @property
    def guesses(self) -> bool:
        """False: what merges matrices needs their thresholds first."""
        return False

    def survey_model(self) -> None:
        """Find the thresholds that hold over all matrices together."""
        jobs = [job for job, is_matrix in enumerate(self._is_matrix) if is_matrix]
        self.model = self._surveyor.survey_model(jobs)

    def combine(self, jobs: Sequence[int]) -> None:
        """Merge these tensors and write them."""
        super().combine([job for job in jobs if not self._is_matrix[job]])
        # The largest first: they take longest, and the most memory.
        matrices = sorted(
            (job for job in jobs if self._is_matrix[job]), key=self._n_bytes, reverse=True
        )
        if not matrices:
            return
        with single_threads(self._n_workers) as pool:
            found = results([pool.submit(self._merge, job, pool) for job in matrices])
            for job, outcome in zip(matrices, found, strict=True):
                self.outcomes[job] = outcome
                self._note_overflow(job, outcome, outcome.overflow)

    def _n_experts(self, job: int) -> int:
        return len(self._works[job].inputs) - 1  # without the base

    def _n_bytes(self, job: int) -> int:
        return n_bytes(self._method, self._works[job].shape, self._n_experts(job))

    def _merge(self, job: int, pool: Workers) -> Outcome:
        """Merge the matrix of a job, or the matrices of a stack one after the other."""
        import torch

        whole = Outcome(inputs=[[0] * 8 for _ in self._works[job].inputs], output=[0] * 8)
        with self._budget.taken(self._n_bytes(job)), torch.inference_mode():
            for block in blocks(self._works[job]):
                part = self._merge_block(job, block, pool)
                add_content(whole.output, part.output)
                for lanes, own in zip(whole.inputs, part.inputs, strict=True):
                    add_content(lanes, own)
                whole.overflow |= part.overflow
        return whole

    def _merge_block(self, job: int, block: Block, pool: Workers) -> Outcome:
        import torch

        def progress(n_bytes: int) -> None:
            pool.check()
            if self._progress is not None:
                self._progress(n_bytes)

        work = self._works[job]
        merged = []
        for number in range(block.n_matrices):
            deltas = Deltas(
                *(self._plan, work, job, block, number, self.model.trims, pool),
                # Each matrix of a block reads the whole block.
                progress if number + 1 == block.n_matrices else lambda n_bytes: pool.check(),
            )
            try:
                own = self._method.merge_matrix(deltas, work.parameters, self._semantics)
            except NonFiniteError:
                own = torch.full(block.shape, torch.nan)
            merged.append(own)
        values = (merged[0] if len(merged) == 1 else torch.stack(merged)).contiguous()
        with pool.undisturbed():
            output, overflow = write_merged(
                plan=self._plan,
                job=job,
                merged=values.data_ptr(),
                scale=self._tasks.scales[job],
                limits=ONE_THREAD,
                progress=progress,
                **block.slice,
            )
        return Outcome(inputs=deltas.fingerprints(), output=output, overflow=overflow)


def _as_other(work: Work, *, to_base: bool) -> Work:
    """Return the work of a tensor that is no matrix: a mean is over the number of experts."""
    n = len(work.weights)
    return replace(work, weights=(0.0,) * n if to_base else work.weights, divisor=float(n))


class Budget:
    """Shares memory among workers."""

    def __init__(self, max_bytes: int | None) -> None:
        self._left = max_bytes
        # Taken as such: an exception on the way into a condition leaves it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @contextmanager
    def taken(self, n_bytes: int) -> Iterator[None]:
        """Wait until so much is left, and take it for the time of the block."""
        if self._left is None:
            yield
            return
        taken = 0
        try:
            with self._lock:
                self._changed.wait_for(lambda: self._left is None or self._left >= n_bytes)
                self._left -= n_bytes
                taken = n_bytes
            yield
        finally:
            with self._lock:
                self._left += taken
                self._changed.notify_all()


def n_bytes(method: type[MatrixMethod], shape: Sequence[int], n_experts: int) -> int:
    """Return the bytes that a method takes for a matrix, or for one of a stack at a time."""
    rows, columns = shape[-2:]
    n_together = matrices_together(rows * columns)
    read_together = 4 * rows * columns * (n_together - 1) * (2 + n_experts)
    return method.n_bytes((rows, columns), n_experts) + read_together


def refuse_too_large(
    method: type[MatrixMethod],
    tensors: Iterable[tuple[str, tuple[int, ...], Mapping[str, Any]]],
    n_experts: int,
    semantics: Semantics,
    max_bytes: int,
) -> None:
    """Refuse a merge whose matrices do not fit into the budget.

    Args:
        method: The method.
        tensors: Name, shape and parameters of each tensor.
        n_experts: The number of experts.
        semantics: The author whose variant is meant.
        max_bytes: The budget.

    Raises:
        InputError: A matrix does not fit, or torch is not installed.
    """
    spectral.require(method.name)
    for name, shape, parameters in tensors:
        if not method.takes(name, shape, parameters, semantics):
            continue
        needed = n_bytes(method, shape, n_experts)
        if needed > max_bytes:
            raise InputError(
                f"{method.name}: tensor {name!r} {list(shape)} is merged as a whole, which takes "
                f"{budget(needed, at_least=True)}, and max_memory allows {budget(max_bytes)}; "
                "raise --max-memory, or leave it to the other tensors' rule: --param exclude=NAME"
            )
