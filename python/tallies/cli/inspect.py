"""Show what is in a checkpoint or a store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from ..inspection.adapters import in_words
from ..inspection.checkpoints import inspect
from ..inspection.stores import inspect_store, is_store
from ..messages import COLUMNS, counted, labelled, shortened
from ..recipe.places import Places
from ..sizes import format_size
from ._one_tensor import page
from ._options import json_option, offline_option, threads_option, variant_option
from ._screen import screen


@click.command()
@click.argument("path")
@click.argument("name", required=False, metavar="[TENSOR]")
@json_option("description")
@click.option(
    "--fingerprints/--no-fingerprints",
    default=True,
    help="Read all data and show fingerprints, or read headers only.",
)
@variant_option
@threads_option
@offline_option
def command(path: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Show the tensors of a checkpoint with sizes and fingerprints, or a store or a patch.

    With the name of a TENSOR, show where it lies and what its values are; of a store, what each
    task has of it.
    """
    if name is not None:
        one = inspect(path, tensor=name, **options)
        click.echo(json.dumps(one, indent=2) if as_json else page(one, screen()))
        return
    if is_store(place := Places.of().path(path)):
        store = inspect_store(place)
        click.echo(json.dumps(store, indent=2) if as_json else _store_table(store, screen()))
        return
    found = inspect(path, **options)
    table = _patch_table if found["kind"] == "patch" else _table
    click.echo(json.dumps(found, indent=2) if as_json else table(found, screen()))


def _table(found: dict[str, Any], columns: int | None) -> str:
    """Return a line for each tensor, with its fingerprint where all lines have room for it."""
    names = list(found["tensors"])
    tensors = list(found["tensors"].values())
    before = _columns(
        [str(one["shape"]) for one in tensors],
        [one["dtype"] for one in tensors],
        [format_size(one["n_bytes"]).rjust(9) for one in tensors],
    )
    prints = [one["fingerprint"] for one in tensors]
    room = columns or COLUMNS
    if all(prints) and _widest(before) + 18 + _widest(names) + 2 <= room:
        before = _columns(before, prints)
    if columns is not None:
        names = [shortened(name, max(columns - _widest(before) - 2, 20)) for name in names]
    dtypes = ", ".join(f"{n:,} {dtype}" for dtype, n in found["elements_by_dtype"].items())
    lines = [
        *(f"{row}  {name}" for row, name in zip(before, names, strict=True)),
        f"{found['n_tensors']} tensors, {found['n_elements']:,} elements ({dtypes}), "
        f"{format_size(found['n_bytes'])} in {counted(len(found['files']), 'file')}",
        *(
            labelled("left out", f"{path}: {why}", columns)
            for path, why in found["left_out"].items()
        ),
    ]
    if found["adapter"]:
        lines.append(labelled("adapter", found["adapter"], columns))
    for adapter in found["adapters"]:
        if not found["adapter"]:
            lines.append(labelled("adapter", adapter["path"], columns))
        lines += [labelled(label, text, columns) for label, text in in_words(adapter)]
    if found["fingerprint"]:
        lines.append(f"fingerprint {found['fingerprint']}")
    return "\n".join(lines)


def _patch_table(found: dict[str, Any], columns: int | None) -> str:
    tensors = found["tensors"].values()
    rows = _columns(
        [one["change"] for one in tensors],
        [", ".join(f"{n} {layout}" for layout, n in one["layouts"].items()) for one in tensors],
        [f"{one['n_changed']:,} changed".rjust(16) for one in tensors],
        [format_size(one["n_bytes"]).rjust(9) for one in tensors],
    )
    return "\n".join(
        [
            *(f"{row}  {name}" for row, name in zip(rows, found["tensors"], strict=True)),
            f"patch ({found['values']}, coder {found['coder']}), {format_size(found['n_bytes'])}",
            labelled("old", f"fingerprint {found['old']}", columns),
            labelled("new", f"fingerprint {found['new']}", columns),
            *(labelled("file", f"{p} {what}", columns) for p, what in found["small_files"].items()),
        ]
    )


def _widest(texts: Sequence[str]) -> int:
    return max(map(len, texts), default=0)


def _columns(*columns: Sequence[str]) -> list[str]:
    """Return rows of texts side by side, two spaces apart."""
    widths = [_widest(column) for column in columns]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]


def _store_table(found: dict[str, Any], columns: int | None) -> str:
    parameters = "".join(f", {name} {value}" for name, value in found["parameters"].items())
    lines = [
        f"{found['codec']}{parameters}",
        *(
            [
                labelled("base", f"{found['base']['path']}", columns),
                f"base fingerprint {found['base']['fingerprint']}",
                labelled("tensors", ", ".join(_kinds(found["tensors"])), columns),
            ]
            if found["base"]
            else ["without a base: each task is a checkpoint by itself"]
        ),
    ]
    for name, task in found["tasks"].items():
        facts = [format_size(task["n_bytes"])]
        if task["n_small_bytes"]:
            facts.append(f"{format_size(task['n_small_bytes'])} of small files")
        if task["lambda"] is not None:
            facts.append(f"lambda {task['lambda']:g}")
        if task["candidates"]:
            facts.append(f"candidates for lambda {', '.join(task['candidates'])}")
        if "tensors" in task and found["base"]:
            facts.append(
                f"{counted(len(task['tensors']), 'tensor')} of its own, "
                f"{len(task['lacks'])} of the base left out"
            )
        elif "tensors" in task:
            facts.append(counted(len(task["tensors"]), "tensor"))
        if task["scale"] != 1:
            facts.append(f"scale {task['scale']:.6g}")
        text = f"{name}: {', '.join(facts)}; from {task['source']}"
        lines.append(labelled("task", text, columns))
    size = format_size(found["n_bytes"])
    lines.append(f"{size} in {counted(len(found['files']), 'file')}")
    return "\n".join(lines)


_KINDS = {
    "dense": "stored whole for each task",
    "frozen": "that no task changed",
    "copied": "of integers or booleans, taken from the base",
    "tied": "tied to another",
}
"""Words for the origins of a task's tensors; the codec's own kind is not among them."""


def _kinds(tensors: Mapping[str, Any]) -> Iterator[str]:
    """Yield the number of tensors of each kind, as text."""
    for kind, n in Counter(tensor["kind"] for tensor in tensors.values()).items():
        yield f"{n} {_KINDS.get(kind, f'encoded ({kind})')}"
