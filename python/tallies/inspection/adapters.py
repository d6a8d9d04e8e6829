"""Describes adapters: what they change, by which factors, and on which model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint.adapters.adapter import Adapter, Edit
from ..checkpoint.adapters.opening import open_adapter
from ..checkpoint.changes import Hadamard, Kronecker, Magnitudes, Product
from ..checkpoint.tensors import TensorInfo
from ..errors import InputError
from ..messages import counted, show, some


def describe_adapter(path: Path | str) -> dict[str, Any]:
    """Describe an adapter as plain data, from headers and its configuration.

    Returns:
        ``path``, ``kind``, ``magnitudes`` (True for DoRA), ``base`` (the model that its
        configuration names, or None),
        ``n_tensors`` that it changes, ``ranks`` and ``scales`` (each that occurs, ascending),
        ``alpha``, ``targets`` (the number of tensors of each module's last name), ``replaces`` (the
        tensors of which it has all values) and ``warnings``. For an adapter that is not read,
        ``refused`` alone: why.
    """
    try:
        adapter = open_adapter(path)
    except InputError as error:
        return {"refused": str(error)}
    return facts_of(adapter)


def facts_of(adapter: Adapter) -> dict[str, Any]:
    """Describe an adapter that is open; see ``describe_adapter``."""
    ranks, scales = set(), set()
    for product, scale in (found for edit in adapter.edits for found in _factors(edit)):
        ranks.add(product.left.shape[-1])
        scales.add(scale)
    alpha = adapter.config.get("lora_alpha", adapter.config.get("alpha"))
    changed = {edit.name for edit in adapter.edits if not isinstance(edit.change, TensorInfo)}
    targets: dict[str, int] = {}
    for target in map(_module, sorted(changed)):
        targets[target] = targets.get(target, 0) + 1
    return {
        "path": str(adapter.path),
        "kind": adapter.kind,
        "magnitudes": any(isinstance(edit.change, Magnitudes) for edit in adapter.edits),
        "base": adapter.base,
        "n_tensors": len({edit.name for edit in adapter.edits}),
        "ranks": sorted(ranks),
        "alpha": alpha if isinstance(alpha, int | float) else None,
        "scales": sorted(scales),
        "targets": dict(sorted(targets.items())),
        "replaces": [e.name for e in adapter.edits if isinstance(e.change, TensorInfo)],
        "warnings": list(adapter.warnings),
    }


def _factors(edit: Edit) -> Iterator[tuple[Product, float]]:
    """Yield the products in a change, each with the factor on the whole."""
    change = edit.change
    if isinstance(change, Product):
        yield change, change.scale
    elif isinstance(change, Hadamard):
        yield change.a, change.scale
        yield change.b, change.scale
    elif isinstance(change, Kronecker):
        for factor in (change.left, change.right):
            if isinstance(factor, Product):
                yield factor, change.scale


def _module(name: str) -> str:
    """Return the last name of a tensor's module: ``q_proj`` of ``...self_attn.q_proj.weight``.

    A number at the end counts a module of a list, whose name comes before: ``to_out.0``.
    """
    words = [word for word in name.split(".") if not word.isdecimal()]
    if words in (["weight"], ["bias"], []):
        return name
    last = words[-2] if len(words) > 1 and words[-1] in ("weight", "bias") else words[-1]
    # Files of kohya have underscores where others have dots, and numbers of blocks within.
    return re.split(r"_\d+_", last)[-1]


def in_words(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of an adapter as labels and texts for a person."""
    if "refused" in found:
        return [("not read", found["refused"])]
    ranks = ", ".join(map(str, found["ranks"]))
    factors = [f"rank {ranks}"] if ranks else []
    if found["alpha"] is not None:
        factors.append(f"alpha {found['alpha']:g}")
    if found["scales"]:
        factors.append("scale " + ", ".join(f"{scale:g}" for scale in found["scales"]))
    kind = f"{found['kind']} with magnitudes (DoRA)" if found["magnitudes"] else found["kind"]
    rows = [("factors", ", ".join([kind, *factors]))]
    rows.append(("made for", _on_one_line(found["base"] or "a model that it does not name")))
    targets = ", ".join(f"{n} {_on_one_line(name)}" for name, n in found["targets"].items())
    rows.append(("changes", f"{counted(found['n_tensors'], 'tensor')}: {targets}"))
    if found["replaces"]:
        rows.append(("replaces", some(found["replaces"])))
    return [*rows, *(("warning", warning) for warning in found["warnings"])]


def _on_one_line(text: str) -> str:
    """Return a stranger's text as it is, or with escapes for what is no sign to be seen."""
    return text if text.isprintable() else show(text)
