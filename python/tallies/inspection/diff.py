"""Compares two models tensor by tensor."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from .._core import Differences
from .._version import __version__
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorInfo
from ..engine.bar import is_bar, with_progress
from ..engine.differences import can_compare, differences
from ..engine.limits import n_threads, tile_limits
from ..engine.usage import Advance, Progress, Usage, measure
from ..errors import InputError
from ..recipe.inputs import open_whole
from ..recipe.layers import Layers
from ..sizes import parse_size
from ..spec.dtypes import OPAQUE
from .measures import Measures, together


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """A tensor that both models have, in one shape."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    """The dtype on each side. Values of two float dtypes are compared in float32."""
    measures: Measures

    @property
    def is_equal(self) -> bool:
        """True if dtype and all bits are equal."""
        return self.dtypes[0] == self.dtypes[1] and self.measures.is_equal

    def to_json_dict(self) -> dict[str, Any]:
        """Return the tensor as plain data, without its name."""
        numbers = self.measures.to_json_dict() | {"equal": self.is_equal}
        return {"shape": list(self.shape), "dtypes": list(self.dtypes), **numbers}


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """The tensors of a layer, or one outside the layers."""

    label: str
    n_tensors: int
    n_changed: int
    """Tensors that are not equal."""
    measures: Measures


@dataclass(frozen=True, slots=True)
class Unlike:
    """A tensor that both models have, in two shapes or in dtypes that cannot be compared."""

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class DiffReport(Usage):
    """The differences between two models; ``a`` is the one that norms are relative to."""

    a: str
    b: str
    tensors: list[TensorDiff]
    """Tensors of both models that were compared, in the order of their names."""
    unlike: list[Unlike]
    """Tensors of both models that cannot be compared."""
    only_in_a: list[str]
    only_in_b: list[str]

    @property
    def is_equal(self) -> bool:
        """True if both have the same tensors, equal bit for bit."""
        others = self.unlike or self.only_in_a or self.only_in_b
        return not others and all(one.is_equal for one in self.tensors)

    @cached_property
    def total(self) -> Measures:
        """The numbers of all tensors that were compared together."""
        return together(one.measures for one in self.tensors)

    @property
    def n_changed(self) -> int:
        """The number of compared tensors that are not equal."""
        return sum(not one.is_equal for one in self.tensors)

    def by_layer(self) -> list[LayerDiff]:
        """Return the layers, and the tensors outside them, by name and number."""
        layers = Layers(one.name for one in self.tensors)
        groups: dict[str, list[TensorDiff]] = {}
        for one in self.tensors:
            groups.setdefault(layers.label(one.name) or one.name, []).append(one)
        return [
            LayerDiff(
                label=label,
                n_tensors=len(group),
                n_changed=sum(not one.is_equal for one in group),
                measures=together(one.measures for one in group),
            )
            for label, group in sorted(groups.items(), key=lambda item: _by_number(item[0]))
        ]

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        used = {name: getattr(self, name) for name in Usage.__dataclass_fields__}
        return {
            "equal": self.is_equal,
            "a": self.a,
            "b": self.b,
            "n_tensors": len(self.tensors),
            "n_changed": self.n_changed,
            "total": self.total.to_json_dict() | {"equal": self.is_equal},
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "unlike": {
                one.name: {"shapes": [list(shape) for shape in one.shapes], "dtypes": one.dtypes}
                for one in self.unlike
            },
            "tensors": {one.name: one.to_json_dict() for one in self.tensors},
            **used,
            "tallies": __version__,
        }

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_html(self) -> str:
        """Return the report as a page of its own, which needs no other file."""
        from .diff_page import page

        return page(self)

    def __str__(self) -> str:
        from .diff_table import text

        return text(self)


@with_progress("diff")
def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    variant: str | None = None,
    progress: Progress = None,
) -> DiffReport:
    """Compare two models tensor by tensor, in one read.

    Args:
        a: The first model, in any form that a merge takes, with adapters or without.
        b: The second model.
        max_memory: Upper bound for memory, as bytes or as text such as "1GiB".
        threads: The number of threads; by default, all cores.
        variant: The variant of the weights to read where there are several.
        progress: True for a bar; or a function of the bytes done and the bytes in all.

    Returns:
        The report, whose numbers are the same whatever the memory and the threads.

    Raises:
        InputError: One of the models is damaged.
        StorageError: A file cannot be read.

    >>> tallies.diff("base", "finetuned").total.changed_share  # doctest: +SKIP
    0.0113
    """
    start = time.perf_counter()
    for label, path in (("a", a), ("b", b)):
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(
                f"{label}: found {type(path).__name__}, expected a path; tallies.make_patch "
                "compares dicts of tensors"
            )
    n = n_threads(threads)
    limits = tile_limits(parse_size(max_memory), n)
    one, other = (_opened(path, variant, bars=is_bar(progress)) for path in (a, b))
    shared = [
        (tensor, other.tensors[name])
        for name, tensor in one.tensors.items()
        if name in other.tensors
    ]
    pairs = [pair for pair in shared if can_compare(*pair)]
    n_bytes = sum(tensor.n_bytes for pair in pairs for tensor in pair)
    advance = Advance(progress, n_bytes)
    found = differences(pairs, limits, advance if advance else None)
    advance.finish()
    return DiffReport(
        a=one.label,
        b=other.label,
        tensors=[
            TensorDiff(x.name, x.shape, _dtypes((x, y)), _measures(x, part))
            for (x, y), part in zip(pairs, found, strict=True)
        ],
        unlike=[
            Unlike(x.name, (x.shape, y.shape), _dtypes((x, y)))
            for x, y in shared
            if not can_compare(x, y)
        ],
        only_in_a=[name for name in one.tensors if name not in other.tensors],
        only_in_b=[name for name in other.tensors if name not in one.tensors],
        **measure(start, n_bytes, 0, n),
    )


def _opened(path: str | os.PathLike[str], variant: str | None, *, bars: bool) -> Checkpoint:
    return open_whole(os.fspath(path), variant or "", bars=bars)


def _dtypes(pair: Sequence[TensorInfo]) -> tuple[str, str]:
    return pair[0].decoded_dtype, pair[1].decoded_dtype


def _measures(tensor: TensorInfo, found: Differences) -> Measures:
    squares_a, products, squares_b, squares_of_differences = found.sums
    if tensor.dtype in OPAQUE:
        n = tensor.n_stored
        return Measures(n, found.n_different, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, has_values=False)
    return Measures(
        n_elements=tensor.n_elements,
        n_different=found.n_different,
        n_sign_flips=found.n_flips,
        n_nonfinite=found.n_nonfinite,
        largest=found.largest,
        squares_a=squares_a,
        products=products,
        squares_b=squares_b,
        squares_of_differences=squares_of_differences,
    )


def _by_number(label: str) -> list[tuple[str, int]]:
    """Return a key that sorts ``layers.2`` before ``layers.10``."""
    words = re.split(r"([0-9]{1,9})", label)
    return [(word, int(number or 0)) for word, number in zip_longest(words[::2], words[1::2])]
