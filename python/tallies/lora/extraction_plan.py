"""Plans an extraction from the headers of both models: which tensors become what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..checkpoint.belonging import differences
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.match import Match, match
from ..checkpoint.opening import as_model, check_variant
from ..checkpoint.policy import Policy
from ..checkpoint.tensors import TensorInfo
from ..checkpoint.tied import is_head
from ..errors import InputError
from ..messages import counted, show, some
from ..recipe.adapters import with_base
from ..recipe.inputs import Inputs
from ..recipe.places import Places
from ..recipe.tensor_keys import chosen
from ..sizes import budget
from ..spec.choices import Architecture, Extra, Missing
from ..spec.dtypes import DTYPES
from .experts import Parts, flat, is_one_expert, stacked
from .factoring import Request, matrix_shape, n_bytes
from .selection import targets
from .targets import Target

_TASK_TYPES: Final = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM"}
"""PEFT's names of tasks, by the end of an architecture's; other tasks add modules of their own."""


@dataclass(frozen=True)
class Inclusion:
    """The tensors that an adapter is to have, and how far the models may differ."""

    target: str | None = None
    save_modules: bool = False
    missing: Any = None
    extra: Any = None
    architecture: str | None = None
    variant: str | None = None

    def policy(self) -> Policy:
        """Return the treatment of tensors that not both models have."""
        return Policy(
            base_rows=True,
            missing=chosen("missing", self.missing, Missing),
            extra=chosen("extra", self.extra, Extra),
        )


@dataclass(frozen=True)
class ExtractionPlan:
    """One extraction, checked against the headers of both models."""

    base: Checkpoint
    finetuned: Checkpoint
    texts: tuple[str, str]
    """The fine-tune and the base as they were asked for, models of the hub at a commit."""
    match: Match
    request: Request
    inclusion: Inclusion
    targets: tuple[Target, ...]
    """The tensors to factor, as PEFT finds them in a model."""
    parts: Mapping[str, Parts]
    """The tensors of the files that these are made of, where they are not those themselves."""
    others: tuple[str, ...]
    """Further tensors that training may have changed."""
    untargeted: frozenset[str]
    """Those of them that factors could change, and that the target does not find."""
    warnings: tuple[str, ...]

    @classmethod
    def make(
        cls, finetuned: str, base: str, request: Request, inclusion: Inclusion, *, bars: bool
    ) -> ExtractionPlan:
        """Open both models, downloaded if need be, and plan.

        Args:
            finetuned: The text of the fine-tune.
            base: The text of the base.
            request: The wanted factors.
            inclusion: The wanted tensors.
            bars: Show a bar for each file that is downloaded.

        Raises:
            InputError: A model is none, or the two do not fit.
            StorageError: The system or the hub fails.
        """
        places = Places.of()
        if len(places.pieces(base)) > 1:
            raise InputError(
                f"base {show(base)}: is a model with adapters, and the configuration of an adapter "
                f"names one model; merge it first: tallies merge --method linear --model "
                f"{base!r} --out BASE"
            )
        finetuned = with_base(finetuned, places, base)
        texts = (places.pinned(finetuned), places.pinned(base))
        inputs = Inputs(places, texts, variant=inclusion.variant)
        inputs.fetch_opaque(bars=bars)
        with inputs.named():
            made = cls._make(inputs, texts, request, inclusion)
        return cls._make(inputs, texts, request, inclusion) if inputs.fetch(bars=bars) else made

    @classmethod
    def _make(
        cls, inputs: Inputs, texts: tuple[str, str], request: Request, inclusion: Inclusion
    ) -> ExtractionPlan:
        tuned, own = (inputs.open(text) for text in texts)
        if inclusion.variant:
            check_variant(inclusion.variant, (tuned, own))
        _refuse_parts(own)
        warnings = differences(
            (own, tuned), any_architecture=inclusion.architecture == Architecture.ANY
        )
        warnings += inputs.warnings
        matched = match(as_model(own), [as_model(tuned)], inclusion.policy())
        lacking = set(matched.missing.get(as_model(tuned).label, ()))
        found = {
            name: own.tensors[name].shape
            for name in matched.merged
            if name not in matched.settled and name not in lacking
        }
        resized = sorted(matched.rows)
        for name in resized:
            del found[name]
        if resized:
            warnings.append(
                f"{counted(len(resized), 'tensor')} of another vocabulary left out, such as "
                f"{some(resized)}: an adapter cannot add tokens"
            )
        made_of, parts = stacked(found)
        chosen_targets = targets(made_of, own.config(), inclusion.target)
        factored = {one.name for one in chosen_targets}
        usual = {one.name for one in targets(made_of, own.config(), None)}

        def in_files(names: Iterable[str]) -> Iterator[str]:
            for name in names:
                yield from flat(parts[name]) if name in parts else (name,)

        made = cls(
            own,
            tuned,
            texts,
            matched,
            request,
            inclusion,
            tuple(chosen_targets),
            parts,
            tuple(in_files(name for name in made_of if name not in factored)),
            frozenset(in_files(usual - factored)) | frozenset(filter(is_one_expert, found)),
            tuple(warnings),
        )
        return replace(made, warnings=(*warnings, *made._rank_warnings()))

    def _rank_warnings(self) -> Iterator[str]:
        rank = self.request.most
        small = [] if rank is None else [one for one in self.targets if one.most_rank < rank]
        if small:
            yield (
                f"rank {rank} is more than some matrices can have ({len(small)} such): lowered to "
                f"the shorter side for {some([one.name for one in small])}, which leaves no error "
                "but rounding"
            )

    def with_dtype(self, dtype: str) -> ExtractionPlan:
        """Return the plan with factors of another dtype."""
        return replace(self, request=replace(self.request, dtype=dtype))

    def usual_dtype(self) -> str:
        """Return the dtype that factors have by default: the base's, if it is a usual one."""
        names = (name for one in self.targets for name in self.names(one))
        found = {self.base.tensors[name].decoded_dtype for name in names}
        return found.pop() if found in ({"BF16"}, {"F16"}) else "F32"

    def model_names(self) -> list[str]:
        """Return the names of the base's tensors as PEFT finds them in a model."""
        inside = {name for one in self.parts.values() for name in flat(one)}
        return [*(name for name in self.base.tensors if name not in inside), *self.parts]

    def names(self, target: Target) -> list[str]:
        """Return the tensors of the files that a target is made of."""
        return flat(self.parts[target.name]) if target.name in self.parts else [target.name]

    def sources(self, name: str) -> tuple[TensorInfo, TensorInfo]:
        """Return the base's tensor and the fine-tune's."""
        return self.base.tensors[name], self.match.source(as_model(self.finetuned), name)

    @property
    def bytes_read(self) -> int:
        """Bytes of the tensors of both models, each counted once."""
        names = (*(name for one in self.targets for name in self.names(one)), *self.others)
        return sum(one.n_bytes for name in names for one in self.sources(name))

    def most_bytes(self) -> int:
        """Return an upper bound for the size of the result."""
        total = 0
        for one in self.targets:
            n, rows, columns = matrix_shape(one)
            least = min(rows, columns)
            rank = least if self.request.most is None else min(self.request.most, least)
            total += n * rank * (rows + columns) * DTYPES[self.request.dtype]
        if self.inclusion.save_modules:
            total += sum(self.sources(name)[1].n_bytes for name in self.others)
        # The writer has a scratch file beside the result.
        return 2 * total

    def check_memory(self, max_bytes: int) -> None:
        """Raise InputError if a matrix cannot be factored within so much memory."""
        if not self.targets:
            return
        sizes = {n_bytes(one, self.request, whole=False): one for one in self.targets}
        most = max(sizes)
        if most > max_bytes:
            one = sizes[most]
            needed = budget(most, at_least=True)
            raise InputError(
                f"tensor {one.name!r} {list(one.shape)}: its factors take {needed}, and "
                f"max_memory allows {budget(max_bytes)}; raise it (--max-memory {needed}), "
                "or ask for a lower rank (--rank, --max-rank)"
            )

    def files(self) -> list[Path]:
        """Return the tensor files of both models."""
        return list(dict.fromkeys((*self.base.files, *self.finetuned.files)))

    def roots(self) -> list[Path]:
        """Return the places that the result must not touch."""
        return [self.base.path, self.finetuned.path, *self.files()]

    def task_type(self) -> dict[str, Any]:
        """Return the key of an adapter's configuration that says what the model is for."""
        names: Any = self.base.config().get("architectures")
        for name in names if isinstance(names, list) else ():
            for end, task in _TASK_TYPES.items():
                if str(name).endswith(end):
                    return {"task_type": task}
        return {}

    @property
    def savable(self) -> frozenset[str]:
        """The tensors that the adapter is to hold whole, if they differ."""
        return (
            frozenset(self.others) - self.untargeted if self.inclusion.save_modules else frozenset()
        )

    def has_tied_head(self) -> bool:
        """Tell if the model is a language model whose output head is its embedding."""
        return bool(self.task_type()) and all(
            name in self.match.stands_for for name in self.base.tensors if is_head(name)
        )


def _refuse_parts(base: Checkpoint) -> None:
    folders = sorted({part.folder for part in base.parts} - {""})
    if folders:
        raise InputError(
            f"{base.path}: is a pipeline of several models ({some(folders)}), and an adapter is of "
            f"one; name the same part of both, such as {base.path / folders[0]}"
        )
