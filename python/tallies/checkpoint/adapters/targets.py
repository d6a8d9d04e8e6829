"""Find the rows of a model's tensors that an edit of an adapter changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TypeAlias

from ..tensors import TensorInfo
from .layout_map import RULES, Rows, Rule, filled
from .names import DENOISERS, Names, plain
from .part_rows import ConfigOf, Part, part_sizes
from .unet_names import diffusers_name, original_names


def _no_config(folder: str) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True)
class Spot:
    """Rows of a tensor, and the rows of an edit that change them.

    Rows of a stack of matrices are counted through all of them.
    """

    name: str
    first_row: int = 0
    from_row: int = 0
    n_rows: int | None = None
    """None for all rows, of the edit and of the tensor."""
    part: Part | None = field(default=None, compare=False)
    """The part of the tensor that the rows are, if it is one of several side by side."""


@dataclass(frozen=True)
class _Whole:
    """The tensors whose rows, one after the other, an alias stands for."""

    names: tuple[str, ...]
    n_matrices: int | None = None
    """The matrices of the stack that the tensors make; None for one matrix or vector."""

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...] | None:
        """Return the shape of all rows together."""
        first = tensors[self.names[0]].shape
        if len(self.names) == 1 and self.n_matrices is None:
            return first
        rows = sum(tensors[name].shape[0] for name in self.names if tensors[name].shape)
        if self.n_matrices is None:
            return (rows, *first[1:])
        return (self.n_matrices, rows // self.n_matrices, *first[1:])

    def spots(self, n_rows: int, tensors: Mapping[str, TensorInfo]) -> tuple[Spot, ...]:
        """Return the spot of each tensor; one for all rows where there is one tensor."""
        if len(self.names) == 1 and self.n_matrices is None:
            return (Spot(self.names[0]),)
        found, at = [], 0
        for name in self.names:
            rows = tensors[name].shape[0] if tensors[name].shape else 1
            found.append(Spot(name, 0, at, rows))
            at += rows
        return tuple(found)


@dataclass(frozen=True)
class _Part:
    """One part of a tensor that an alias stands for."""

    name: str
    rule: Rule
    index: int
    expert: int = 0
    config_of: ConfigOf = _no_config

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...] | None:
        """Return the shape of the part; None where only an edit says how many rows it has."""
        shape, n_parts = tensors[self.name].shape, len(self.rule.parts)
        if self.rule.is_stack:
            return (shape[1] // n_parts, *shape[2:])
        sizes = self._part(tensors).sizes
        return (sizes[self.index], *shape[1:]) if sizes and shape else None

    def spots(self, n_rows: int, tensors: Mapping[str, TensorInfo]) -> tuple[Spot, ...]:
        """Return the spot, whose place follows from the rows of an edit."""
        shape, n_parts = tensors[self.name].shape, len(self.rule.parts)
        if self.rule.is_stack:
            rows = shape[1] // n_parts
            return (Spot(self.name, self.expert * shape[1] + self.index * rows, 0, rows),)
        total = shape[0] if shape else 1
        part = self._part(tensors)
        if self.rule.rows is Rows.EQUAL:
            rows = total // n_parts
            return (Spot(self.name, self.index * rows, 0, rows, part),)
        # The parts of equal size count from the end that they stand at, the other one from its own.
        is_behind = self.index > 0 if self.rule.rows is Rows.QUERIES else self.index == n_parts - 1
        before = total - (n_parts - self.index) * n_rows if is_behind else self.index * n_rows
        return (Spot(self.name, before, 0, n_rows, part),)

    def _part(self, tensors: Mapping[str, TensorInfo]) -> Part:
        shape = tensors[self.name].shape
        total = shape[0] if shape else 1
        sizes = part_sizes(self.rule, self.name, total, self.config_of)
        return Part(self.rule, self.index, total, sizes)


_Alias: TypeAlias = _Whole | _Part


class Targets:
    """The tensors of a model by the names that an adapter may give them, or parts of them."""

    def __init__(self, tensors: Mapping[str, TensorInfo], config_of: ConfigOf = _no_config) -> None:
        self._tensors, self._config_of = tensors, cache(config_of)
        self._names = Names(tensors)

    def find(self, name: str, n_rows: int) -> dict[str, tuple[Spot, ...]]:
        """Return what a name may stand for: one tuple of spots where it is clear.

        Args:
            name: The tensor as the adapter's model calls it.
            n_rows: The rows that the edit has.
        """
        found = self._names.find(name)
        if found:
            return {one: (Spot(one),) for one in found}
        spots = {
            one: self._aliases[one].spots(n_rows, self._tensors) for one in self._other.find(name)
        }
        # Several aliases of the same rows are no choice.
        return {one: spot for spot, one in {spot: one for one, spot in spots.items()}.items()}

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of the one tensor, or part, of a name; None where it is not clear."""
        found = self._names.find(name)
        if found:
            return self._tensors[found[0]].shape if len(found) == 1 else None
        other = self._other.find(name)
        return self._aliases[other[0]].shape(self._tensors) if len(other) == 1 else None

    @cached_property
    def _other(self) -> Names:
        return Names(self._aliases)

    @cached_property
    def _aliases(self) -> dict[str, _Alias]:
        """The names that other layouts give to the tensors, or to rows of them."""
        found: dict[str, _Alias] = {}
        plains = {plain(name): name for name in self._tensors}
        for one, name in plains.items():
            for alias in _of_unet(one):
                found.setdefault(alias, _Whole((name,)))
        for rule in RULES:
            for alias, target in (
                *_of_whole(rule, plains, self._tensors),
                *_of_parts(rule, plains),
            ):
                if isinstance(target, _Part):
                    target = replace(target, config_of=self._config_of)
                found.setdefault(alias, target)
        return found


def _of_unet(name: str) -> Iterator[str]:
    """Yield the names that other files give a tensor of a UNet."""
    root = next((one for one in DENOISERS if name.startswith(one)), "")
    inner = name.removeprefix(root)
    of_diffusers = diffusers_name(inner)
    if of_diffusers is not None:
        yield root + of_diffusers
    for original in original_names(inner):
        yield root + original


def _of_whole(
    rule: Rule, names: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> Iterator[tuple[str, _Alias]]:
    """Yield the parts of tensors that the model has as wholes; of stacks, of each expert."""
    for name, texts in _matches(rule, 0, names):
        if rule.is_stack and not _is_upright(name, tensors):
            continue
        for index, part in enumerate(rule.parts):
            if rule.is_stack:
                for expert in range(tensors[name].shape[0]):
                    yield filled(part, (*texts, str(expert))), _Part(name, rule, index, expert)
            elif len(rule.parts) == 1:
                yield filled(part, texts), _Whole((name,))
            else:
                yield filled(part, texts), _Part(name, rule, index)


def _of_parts(rule: Rule, names: Mapping[str, str]) -> Iterator[tuple[str, _Alias]]:
    """Yield the wholes of which the model has all parts."""
    by_whole: dict[str, dict[tuple[int, int], str]] = {}
    for index in range(len(rule.parts)):
        for name, texts in _matches(rule, index + 1, names):
            expert = int(texts[-1]) if rule.is_stack else 0
            whole = filled(rule.whole, texts[:-1] if rule.is_stack else texts)
            by_whole.setdefault(whole, {})[expert, index] = name
    for whole, parts in by_whole.items():
        n_experts = max(expert for expert, _ in parts) + 1
        if len(parts) == n_experts * len(rule.parts):
            n_matrices = n_experts if rule.is_stack else None
            yield whole, _Whole(tuple(parts[key] for key in sorted(parts)), n_matrices)


def _matches(
    rule: Rule, which: int, names: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the tensors whose names match the whole or a part, and the texts for the marks."""
    pattern, literal = rule.patterns[which], rule.literals[which]
    for one, name in names.items():
        if literal in one and (match := pattern.match(one)):
            yield name, match.groups()


def _is_upright(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    """Tell if the matrices of a stack of experts have the outputs as rows.

    The two stacks of a layer must agree on it: [experts, 2 inner, outer], [experts, outer, inner].
    """
    parent = name.rpartition(".")[0]
    both = [tensors.get(f"{parent}.{one}") for one in ("gate_up_proj", "down_proj")]
    shapes = [one.shape for one in both if one is not None and len(one.shape) == 3]
    if len(shapes) < 2:
        return False
    up, down = shapes
    return up[1] == 2 * down[2] and up[2] == down[1]
