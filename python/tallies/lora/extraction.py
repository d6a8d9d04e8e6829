"""One extraction: factors every matrix, keeps what is asked for, writes the adapter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from .._core import Plan
from ..checkpoint.data import chunks
from ..checkpoint.tied import is_embedding
from ..engine.decoding import decoded_chunks
from ..engine.deltas import ONE_THREAD, NonFiniteError
from ..engine.files import PlanFiles, native
from ..engine.matrices import Budget
from ..engine.nonfinite import objections
from ..engine.usage import Advance
from ..errors import InputError
from ..hub.names import named
from ..linalg.threads import Workers, results, single_threads
from ..messages import counted, some
from ..recipe.places import Places
from .difference import Difference, Piece, grain_of
from .experts import is_one_expert
from .extraction_plan import ExtractionPlan
from .factoring import Factored, factor, matrix_shape, n_bytes
from .matrix_report import MatrixReport
from .nested import stored_names
from .selection import module_names, saved_whole
from .targets import Kept, Target
from .writer import AdapterWriter

HEAD: Final = "lm_head.weight"
"""The output head of language models in transformers."""


@dataclass(frozen=True)
class Made:
    """The facts of an extraction that its report states."""

    plan: ExtractionPlan
    path: Path
    base: str
    finetuned: str
    files: dict[str, int]
    matrices: list[MatrixReport]
    saved: list[str]
    left_out: list[str]
    warnings: list[str]

    def facts(self) -> dict[str, Any]:
        """Return the fields of a ``LoraReport`` but for those of its run."""
        request = self.plan.request
        return {
            "path": str(self.path),
            "base": self.base,
            "finetuned": self.finetuned,
            "rank": request.rank,
            "alpha": request.alpha,
            "dtype": request.dtype,
            "seed": request.seed,
            "matrices": self.matrices,
            "saved": self.saved,
            "left_out": self.left_out,
            "files": self.files,
            "warnings": self.warnings,
        }


class Extraction:
    """One extraction and its progress.

    Args:
        plan: The plan.
        path: The place where the adapter will appear.
        n_workers: The number of matrices that are factored at a time.
        max_bytes: Upper bound for the memory of the matrices in hand.
        advance: Is called with the bytes of tensors that are done.
    """

    def __init__(
        self, plan: ExtractionPlan, path: Path, n_workers: int, max_bytes: int, advance: Advance
    ) -> None:
        self._plan = plan
        self._path = path
        self._n_workers = n_workers
        self._max_bytes = max_bytes
        self._advance = advance
        own_names = (name for one in plan.targets for name in plan.names(one))
        self._jobs = {name: job for job, name in enumerate((*own_names, *plan.others))}
        self._native = Plan(True)
        # Keeps alive the norms that DoRA gives, which the native plan reads in place.
        self._files = files = PlanFiles(self._native)
        self._differences: dict[str, Difference] = {}
        for name, job in self._jobs.items():
            own, tuned = plan.sources(name)
            inputs = files.operand(own), files.operand(tuned)
            self._native.add_job(own.n_elements, [native(one) for one in inputs], [])
            self._differences[name] = Difference(
                self._native, job, own.n_elements, grain_of(*inputs)
            )

    def write(self, directory: Path) -> Made:
        """Write the adapter into a directory, and return what there is to report.

        Raises:
            InputError: A value is not finite, or no matrix differs.
            StorageError: Reading or writing fails.
        """
        plan = self._plan
        places = Places.of()
        finetuned = places.relative_to(self._path, plan.texts[0])
        base = places.for_peft(self._path, plan.texts[1])
        on_hub = named(base) if places.hub_model(plan.texts[1]) else None
        extra = plan.task_type()
        if on_hub is not None:
            base = on_hub.repo
            extra["revision"] = on_hub.revision
        writer = AdapterWriter(
            directory,
            dtype=plan.request.dtype,
            alpha=plan.request.alpha,
            base=base,
            modules=module_names(plan.model_names()),
            extra=extra,
        )
        found = self._factor_all(writer)
        if not found:
            raise InputError(self._nothing())
        changed = [name for name in plan.others if self._differs(name)]
        factored = [one for one in plan.targets if one.name in found]
        wanted = [name for name in changed if name in plan.savable]
        saved, _ = saved_whole(wanted, plan.base.tensors, factored)
        for name in saved:
            self._keep(writer, name, name)
        if plan.has_tied_head() and any(map(is_embedding, (*saved, *found))):
            extra["ensure_weight_tying"] = True
            # PEFT expects the head's own copy in the file.
            for embedding in filter(is_embedding, saved):
                if HEAD not in saved:
                    self._keep(writer, embedding, HEAD)
        left_out = [name for name in changed if name not in saved]
        files = writer.finish()
        return Made(
            plan=plan,
            path=self._path,
            base=base,
            finetuned=finetuned,
            files=files,
            matrices=[_report(one, found[one.name]) for one in factored],
            saved=saved,
            left_out=left_out,
            warnings=[*plan.warnings, *self._warnings(left_out)],
        )

    def _keep(self, writer: AdapterWriter, name: str, stored: str) -> None:
        """Write a tensor of the fine-tune as one that the adapter holds whole."""
        tuned = self._plan.sources(name)[1]
        kept = Kept(stored, tuned.decoded_dtype, tuned.shape)
        writer.keep(kept, decoded_chunks(tuned) if tuned.is_decoded else chunks(tuned))

    def _factor_all(self, writer: AdapterWriter) -> dict[str, Factored]:
        """Factor all targets, the largest first, and return those that differ."""
        import torch

        budget = Budget(self._max_bytes)

        def work(target: Target, pool: Workers) -> Factored:
            request = self._plan.request
            share = self._max_bytes // self._n_workers
            whole = n_bytes(target, request, whole=True) <= share
            with (
                budget.taken(n_bytes(target, request, whole=whole)),
                torch.inference_mode(),
            ):
                made = factor(self._matrices(target), target, request, whole=whole)
                if made.left is not None:
                    with pool.undisturbed():
                        writer.add(target, made.left, made.right)
                return replace(made, left=None, right=None)

        targets = self._nested()
        ordered = sorted(targets, key=lambda one: math.prod(one.shape), reverse=True)
        found = {}
        with single_threads(self._n_workers) as pool:
            factored = results([pool.submit(work, one, pool) for one in ordered])
            for target in ordered:
                try:
                    made = next(factored)
                except NonFiniteError:
                    raise InputError(self._objection(*self._plan.names(target))) from None
                for name in self._plan.names(target):
                    self._advance(sum(one.n_bytes for one in self._plan.sources(name)))
                if made.rank:
                    found[target.name] = made
        return found

    def _nested(self) -> list[Target]:
        """Return the targets; of several parameters of one module, those that differ.

        PEFT stores these by their number in the module, so that it must be known before.
        """
        targets = self._plan.targets
        together = Counter(one.module for one in targets if one.is_parameter)
        return stored_names(
            one
            for one in targets
            if not (one.is_parameter and together[one.module] > 1)
            or any(self._differs(name, is_counted=False) for name in self._plan.names(one))
        )

    def _differs(self, name: str, *, is_counted: bool = True) -> bool:
        try:
            zero = self._differences[name].is_zero()
        except NonFiniteError:
            raise InputError(self._objection(name)) from None
        if is_counted:
            self._advance(sum(one.n_bytes for one in self._plan.sources(name)))
        return not zero

    def _matrices(self, target: Target) -> list[list[Piece]]:
        """Return the pieces of each matrix of a target."""
        n, rows, columns = matrix_shape(target)
        parts = self._plan.parts.get(target.name)
        if parts is None:
            whole = self._differences[target.name]
            return [[Piece(whole, i * rows * columns, rows)] for i in range(n)]
        found = [[self._differences[name] for name in one] for one in parts]
        return [[Piece(own, 0, own.n_elements // columns) for own in one] for one in found]

    def _objection(self, *names: str) -> str:
        """Word the objection to tensors of which one has values that are not finite."""
        for name in names:
            sources = self._plan.sources(name)
            found = objections(
                self._native, self._jobs[name], sources, ONE_THREAD, "repair the model"
            )
            for words in found:
                return words
        return (
            f"tensor {names[0]!r}: the difference of {self._plan.finetuned.label} and "
            f"{self._plan.base.label} is beyond float32"
        )

    def _nothing(self) -> str:
        target = self._plan.inclusion.target
        hint = f"; target {target!r} may leave out what differs" if target else ""
        return (
            f"{self._plan.finetuned.label}: no matrix differs from that of "
            f"{self._plan.base.label}, expected a fine-tune of it{hint}"
        )

    def _warnings(self, left_out: list[str]) -> Iterator[str]:
        target = self._plan.inclusion.target
        why: dict[str, list[str]] = {
            "factors cannot hold them; --save-modules (save_modules=True) keeps them whole": [],
            "PEFT cannot hold them beside the factors of their modules": [],
            f"target {target!r} does not find them": [],
            "their stacks of experts are not complete": [],
        }
        others, hopeless, untargeted, experts = why.values()
        for name in left_out:
            if is_one_expert(name):
                experts.append(name)
            elif name in self._plan.untargeted:
                untargeted.append(name)
            else:
                (hopeless if name in self._plan.savable else others).append(name)
        for words, names in why.items():
            if names:
                yield (
                    f"{counted(len(names), 'changed tensor')} left as in the base, such as "
                    f"{some(names)}: {words}"
                )


def _report(target: Target, made: Factored) -> MatrixReport:
    return MatrixReport(
        name=target.name,
        shape=list(target.shape),
        rank=made.rank,
        norm=math.sqrt(made.energy),
        error=math.sqrt(made.residual / made.energy),
    )
