"""Choose the weights of a directory that are read: one file, a set of shards, or an index's files.

The choice is that of transformers and diffusers where they make one: files of the usual names
(``model.safetensors``), without variant unless one is asked for, and safetensors before PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NoReturn

from ..errors import InputError
from ..messages import counted, either, show, some
from .formats import FORMATS, Format
from .weight_names import WeightName, parse_name

ADAPTER_STEMS: Final = ("adapter_model", "pytorch_lora_weights")
"""Stems under which adapters are saved, which stand beside a model's own weights."""


@dataclass(frozen=True)
class Build:
    """The files of one copy of a directory's weights, as their names have it."""

    head: WeightName
    """The index, the one file, or the first shard."""
    form: Format
    shards: tuple[WeightName, ...] = ()
    """The shards of a set without an index, in the order of their numbers."""

    @property
    def tier(self) -> int:
        """Rank names: usual ones, then others, then those of adapters."""
        return 0 if self.head.is_usual else 2 if self.head.stem in ADAPTER_STEMS else 1

    @property
    def numbers(self) -> range:
        """The numbers that a whole set has: from 1 on, or from 0 on where the first has that."""
        first = min(self.head.number, 1)
        return range(first, first + self.head.total)

    @property
    def is_whole(self) -> bool:
        """Tell if a set has each of its shards once; True for all other builds."""
        numbers = [shard.number for shard in self.shards]
        return not numbers or (len(numbers) == self.head.total and set(numbers) <= {*self.numbers})


def builds(names: Iterable[str]) -> list[Build]:
    """Sort the names of a directory into copies of its weights."""
    found: list[Build] = []
    sets: dict[tuple[str, str, str, int], list[WeightName]] = {}
    for text in names:
        name = parse_name(text)
        form = next((form for form in FORMATS if name and name.suffix in form.suffixes), None)
        if name is None or form is None or not (name.is_index or form.has_weights(text)):
            continue
        if name.total > 1:
            key = (name.stem, name.variant, name.suffix, name.total)
            sets.setdefault(key, []).append(name)
        else:
            found.append(Build(name, form))
    for shards in sets.values():
        shards.sort(key=lambda shard: (shard.number, shard.text))
        form = next(form for form in FORMATS if form.has_weights(shards[0].text))
        found.append(Build(shards[0], form, tuple(shards)))
    return found


def choose(
    root: Path,
    found: Sequence[Build],
    variant: str,
    files_of: Callable[[WeightName, Format], Iterable[Path]],
) -> Build:
    """Choose the build of a directory that is read.

    Args:
        root: The directory.
        found: Its builds, at least one.
        variant: The variant that is asked for, or nothing.
        files_of: Reads the files that an index names.

    Raises:
        InputError: The names leave several to choose from, or show that shards are absent.
    """
    best = [one for one in found if one.tier == min(build.tier for build in found)]
    best = [one for one in best if one.is_whole] or best
    best = _of_variant(root, best, variant, files_of)
    form = next(form for form in FORMATS if any(one.form is form for one in best))
    best = [one for one in best if one.form is form]
    indexes = [one for one in best if one.head.is_index]
    if len(indexes) > 1:
        raise InputError(
            f"{root}: holds {len(indexes)} indexes "
            f"({some([one.head.text for one in indexes])}), expected one; remove those that are "
            "stale"
        )
    if indexes:
        _refuse_stale(root, indexes[0], best, files_of)
        return indexes[0]
    if len(best) > 1:
        _refuse_several(root, best)
    if not best[0].is_whole:
        _refuse_gaps(root, best[0])
    return best[0]


def _of_variant(
    root: Path,
    found: Sequence[Build],
    variant: str,
    files_of: Callable[[WeightName, Format], Iterable[Path]],
) -> list[Build]:
    """Keep the builds of one variant: that asked for, else none if it is whole, else the only."""
    by_variant: dict[str, list[Build]] = {}
    for one in found:
        by_variant.setdefault(one.head.variant, []).append(one)
    if variant in by_variant and (variant or len(by_variant) == 1):
        return by_variant[variant]
    if by_variant.keys() == {""}:
        return by_variant[""]
    if not variant and "" in by_variant:
        if _are_whole(by_variant[""], files_of):
            return by_variant[""]
        whole = [key for key in by_variant if key and _are_whole(by_variant[key], files_of)]
        by_variant = {key: by_variant[key] for key in whole or [""]}
    known = either(sorted(filter(None, by_variant)))
    if variant:
        plain = " and the weights without variant" if "" in by_variant else ""
        raise InputError(
            f"{root}: has no variant {show(variant)}, only {known}{plain}; choose one of them"
        )
    if len(by_variant) > 1:
        raise InputError(f"{root}: holds the variants {known}, expected one; name it (--variant)")
    return next(iter(by_variant.values()))


def _are_whole(
    found: Iterable[Build], files_of: Callable[[WeightName, Format], Iterable[Path]]
) -> bool:
    """Tell if the files are there that indexes of the format that is read name."""
    form = next(form for form in FORMATS if any(one.form is form for one in found))
    return all(
        os.path.isfile(path)
        for one in found
        if one.form is form and one.head.is_index
        for path in files_of(one.head, one.form)
    )


def _refuse_stale(
    root: Path,
    index: Build,
    found: Iterable[Build],
    files_of: Callable[[WeightName, Format], Iterable[Path]],
) -> None:
    """Refuse a whole model beside an index that does not name it."""
    named = {path.name for path in files_of(index.head, index.form)}
    for one in found:
        head = one.head
        is_whole_model = head.is_usual and not head.total and not head.is_index
        if is_whole_model and head.text not in named:
            raise InputError(
                f"{root}: holds {head.text} and {index.head.text}, which does not name it; remove "
                "whichever is stale"
            )


def _refuse_gaps(root: Path, build: Build) -> NoReturn:
    total, names = build.head.total, [shard.text for shard in build.shards]
    here = {shard.number for shard in build.shards}
    absent = list(islice((str(n) for n in build.numbers if n not in here), 4))
    if not absent:
        raise InputError(
            f"{root}: holds {len(names)} files of a model of {total} ({some(names)}), and no "
            "index; remove those that are stale"
        )
    parts, are = ("part", "is") if len(absent) == 1 else ("parts", "are")
    which = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    raise InputError(
        f"{root}: holds {counted(len(names), 'file')} of a model of {total} ({some(names)}) and no "
        f"index: {parts} {which} of {total} {are} absent; download the rest of the model"
    )


def _refuse_several(root: Path, found: Sequence[Build]) -> NoReturn:
    """Refuse files of which each may be the model, and say if they share tensors."""
    form = found[0].form
    files = sorted(
        name.text for one in found for name in (one.shards if one.shards else (one.head,))
    )
    homes: dict[str, str] = {}
    twice = ""
    for file in files:
        for tensor in form.read(root / file)[0]:
            home = homes.setdefault(tensor.name, file)
            if home != file and not twice:
                twice = f"; tensor {show(tensor.name)} is in {show(home)} and in {show(file)}"
    raise InputError(
        f"{root}: holds {len(files)} files named {either(form.suffixes)} ({some(files)}) and no "
        f"index{twice}; give the one file that is meant, or download "
        f"{form.usual_name}.index.json"
    )
