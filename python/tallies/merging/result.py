"""Makes the report of a merge, with fingerprints of all that went in and came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .._core import target
from ..checkpoint.data import same_form
from ..checkpoint.tensors import TensorInfo
from ..engine.fingerprints import content, model_fingerprint, tensor_fingerprint
from ..engine.jobs import Work
from ..engine.passes import Passes
from ..engine.usage import measure
from ..floats import float_of
from ..spec.choices import Scope
from ..spec.rules import Gate, Vote
from . import facts
from .adapters import adapters_of
from .matrices import matrix_counts
from .plan import MergePlan
from .report import MergeReport, ModelReport, OutputReport


@dataclass(frozen=True)
class MergeResult:
    """A merge whose tensors are written."""

    plan: MergePlan
    works: Sequence[Work]
    outputs: Mapping[str, TensorInfo]
    passes: Passes
    dropped: Sequence[list[str]]
    """For each expert, the layers of its task vector that were left out; empty without such."""
    alpha: float | None
    """The factor of the first layer, where it followed from norms."""
    warnings: Sequence[str]
    bytes_direct: int
    """Bytes that were read past the page cache."""
    _contents: dict[TensorInfo, list[int]] = field(default_factory=dict)

    def report(
        self, path: Path, auxiliary: Sequence[Path], start: float, threads: int
    ) -> MergeReport:
        """Return the report on the merge.

        Args:
            path: The directory of the result, or its one file.
            auxiliary: The files beside its tensors.
            start: ``time.perf_counter()`` at the start of the merge.
            threads: Threads that the merge used.
        """
        warnings = [*self.warnings]
        made, passes = self.plan, self.passes
        home = path.parent if made.is_file else path
        inputs = self._fingerprints()
        output = self._output_fingerprint()
        taking = [made.taking(work.name) for work in self.works]
        kept = passes.kept(taking) if made.rule.gate is Gate.MAGNITUDE else None
        reports = []
        for e, name in enumerate(facts.names(made)):
            n_equal = self._n_equal_to_base(e) if made.has_base else 0
            reports.append(
                ModelReport(
                    path=name,
                    parameters=facts.model_parameters(made, e),
                    fingerprint=inputs[e + made.has_base],
                    n_equal_to_base=n_equal,
                    missing=list(made.match.missing.get(made.labels[e], ())),
                    dropped=list(made.match.dropped.get(made.labels[e], ())),
                    dropped_layers=self.dropped[e] if self.dropped else [],
                    kept=kept[e] if kept else None,
                    kept_fraction=kept[e] / made.n_parameters
                    if kept and made.n_parameters
                    else None,
                    threshold=_magnitude(passes.model.trims[e].bits)
                    if passes.model.trims
                    else None,
                    coefficient=passes.model.weights[e] if passes.model.weights else None,
                    adapters=adapters_of(made, name, made.experts[e]),
                    layers=facts.layers_of(made, e),
                )
            )
            n_merged = sum(e in made.taking(one) for one in made.match.merged)
            if n_merged and n_equal == n_merged:
                warnings.append(
                    f"model {name!r}: all merged tensors equal the base's; its task "
                    "vector is zero and adds nothing (is it the base itself?)"
                )
        if made.has_base and output == inputs[0]:
            warnings.append("the result equals the base bit for bit")
        outcomes = passes.outcomes.values()
        conflicts = sum(outcome.conflicts for outcome in outcomes)
        whole_model = made.rule.scope is Scope.MODEL and made.rule.vote is not Vote.NONE
        return MergeReport(
            recipe=made.config.relative_to(home).to_json_dict(),
            method=made.config.merge_method,
            semantics=made.config.semantics,
            base=self._base_report(inputs[0]) if made.has_base else None,
            experts=reports,
            output=OutputReport(
                path=str(path),
                fingerprint=output,
                files={s.name: len(made.header(s)[0]) + s.n_bytes for s in made.shards},
                n_bytes=made.bytes_written,
                dtypes=facts.dtypes(made),
            ),
            tensors_merged=len(made.match.merged),
            tensors_copied=len(made.match.copied),
            tensors_tied=len(made.match.tied),
            parameters=made.n_parameters,
            sign_conflicts=conflicts,
            sign_conflict_fraction=conflicts / max(made.n_parameters, 1),
            cancellations=sum(outcome.cancellations for outcome in outcomes),
            majority_sign=passes.majority(passes.outcomes) if whole_model else None,
            reads=asdict(passes.reads) if passes.reads else None,
            combined_again=sum(outcome.n_repeated for outcome in outcomes),
            thresholds={
                self.works[job].name: [_magnitude(trim.bits) for trim in outcome.trims]
                for job, outcome in sorted(passes.outcomes.items())
                if outcome.trims and made.rule.gate is Gate.MAGNITUDE
            },
            coefficients={
                self.works[job].name: outcome.coefficients
                for job, outcome in sorted(passes.outcomes.items())
                if outcome.coefficients
            },
            matrices=matrix_counts(made),
            vocabulary=made.vocabulary.to_json_dict() if made.vocabulary else None,
            alpha=self.alpha,
            shared_parameters=facts.shared_parameters(made),
            left_out=facts.left_out(made),
            buffers=list(made.match.buffers),
            auxiliary_files=[str(file) for file in auxiliary],
            warnings=warnings,
            names=facts.names_from(made, home),
            target=target(),
            **measure(start, self._bytes_read(), made.bytes_written, threads, self.bytes_direct),
        )

    def _bytes_read(self) -> int:
        """Return the bytes that passes read from files, and what was sampled and read again."""
        made, reads = self.plan, self.passes.reads
        for_votes = sum(
            self.works[job].n_input_bytes * outcome.n_repeated // self.works[job].n_elements
            for job, outcome in self.passes.outcomes.items()
            if outcome.n_repeated
        )
        surveyed = 0 if self.passes.guesses else made.bytes_guessed
        whole = made.bytes_read + surveyed - self.passes.bytes_held
        return whole + reads.sampled + reads.settled + for_votes

    def _base_report(self, fingerprint: str) -> ModelReport:
        made, name = self.plan, facts.template_name(self.plan)
        adapters = adapters_of(made, name, made.template)
        return ModelReport(name, fingerprint, adapters=adapters)

    def _is_dropped(self, job: int, expert: int) -> bool:
        """Return True if the base stands for this expert's tensor."""
        work = self.works[job]
        return bool(self.dropped) and work.inputs[expert + 1] == work.inputs[0]

    def _fingerprints(self) -> list[str]:
        """Return the fingerprint of each model, in the order of ``plan.models``.

        Tensors count under the names that they have in the model's files.
        """
        made = self.plan
        found = []
        for i, model in enumerate(made.models):
            tensors = {}
            for job, work in enumerate(self.works):
                info = made.match.own(model, work.name)
                if work.name in model.tensors and info is not None:
                    dropped = i >= made.has_base and self._is_dropped(job, i - made.has_base)
                    # Passes do not read all rows of what the models have in several sizes.
                    again = dropped or work.name in made.match.rows
                    place = self._place(i, work.name)
                    if info.gathered is not None:
                        info, again = info.gathered.source, True
                    lanes = content(info) if again else self.passes.outcomes[job].inputs[place]
                    tensors[info.name] = tensor_fingerprint(info, lanes)
            stored = {name: info.name for name, info in model.tensors.items()}
            for alias, canonical in {**made.match.tied, **model.tied}.items():
                if alias in stored and stored[canonical] in tensors:
                    tensors[stored[alias]] = tensors[stored[canonical]]
            for name in (*made.match.copied, *made.match.buffers):
                if name in stored and stored[name] not in tensors:
                    info = model.tensors[name]
                    tensors[info.name] = tensor_fingerprint(info, self._content(info))
            found.append(model_fingerprint(tensors))
        return found

    def _place(self, model: int, name: str) -> int:
        """Return the place of a model of the plan among those that take part in a tensor."""
        made = self.plan
        if model < made.has_base:
            return 0
        return made.taking(name).index(model - made.has_base) + made.has_base

    def _content(self, tensor: TensorInfo) -> list[int]:
        """Return the content fingerprint of a tensor that no pass reads, read once."""
        if tensor not in self._contents:
            self._contents[tensor] = content(tensor)
        return self._contents[tensor]

    def _output_fingerprint(self) -> str:
        made = self.plan
        tensors = {}
        for job, work in enumerate(self.works):
            out = self.outputs[work.name]
            is_part = work.name in made.match.rows
            lanes = content(out) if is_part else self.passes.outcomes[job].output
            tensors[work.name] = tensor_fingerprint(out, lanes)
        for alias, canonical in made.match.tied.items():
            tensors[alias] = tensors[canonical]
        for name in made.match.copied:
            info, out = made.template.tensors[name], self.outputs[name]
            stored = info.dtype == out.dtype and not info.is_decoded
            tensors[name] = tensor_fingerprint(out, self._content(info if stored else out))
        return model_fingerprint(tensors)

    def _n_equal_to_base(self, expert: int) -> int:
        made = self.plan

        def equal(job: int, work: Work) -> bool:
            taking = made.taking(work.name)
            if expert not in taking:
                return False
            outcome, place = self.passes.outcomes[job], taking.index(expert) + 1
            base, other = (made.match.source(made.models[i], work.name) for i in (0, expert + 1))
            same = same_form(base, other) and outcome.inputs[0] == outcome.inputs[place]
            return same and not self._is_dropped(job, expert)

        return sum(equal(job, work) for job, work in enumerate(self.works))


def _magnitude(bits: int | None) -> float | None:
    return None if bits is None else float_of(bits)
