"""Prints what is known of one tensor of a checkpoint, a store or a patch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..messages import counted, labelled
from ..sizes import format_size


def page(found: Mapping[str, Any], columns: int | None) -> str:
    """Return the facts of a tensor, as ``tallies.inspect`` has them, a line each."""
    rows = _of_store if "tasks" in found else _of_patch if "change" in found else _of_checkpoint
    facts = [("tensor", f"{found['name']} of {found['path']}"), *rows(found)]
    lines = [labelled(label, text, columns) for label, text in facts]
    if found.get("fingerprint"):
        lines.append(f"fingerprint {found['fingerprint']}")
    return "\n".join(lines)


def _of_checkpoint(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    n_elements = f"{found['n_elements']:,} elements"
    yield "form", f"{_form(found)}, {n_elements}, {format_size(found['n_bytes'])}"
    yield "file", f"{found['file']}, from byte {found['offset']} on"
    if values := found["values"]:
        numbers = {key: values[key] for key in ("min", "max", "mean", "std")}
        said = [f"{key} {value:.6g}" for key, value in numbers.items() if value is not None]
        said += [
            f"{values[key]:,} {word}"
            for key, word in (("n_zeros", "zeros"), ("n_nan", "NaN"), ("n_infinite", "infinite"))
        ]
        yield "values", ", ".join(said)


def _of_patch(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "form", _form(found)
    yield "change", f"{found['change']}, {found['n_changed']:,} changed"
    layouts = ", ".join(f"{n} {layout}" for layout, n in found["layouts"].items())
    yield "stored", f"{layouts or 'nothing'}, {format_size(found['n_bytes'])}"


def _of_store(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if found["dtype"]:
        tied = f", tied to {found['tied_to']}" if found["tied_to"] else ""
        yield "form", f"{_form(found)}, {found['stored']}{tied}"
    for name, entry in found["shared"].items():
        yield "shared", _entry(name, entry)
    for label, task in found["tasks"].items():
        yield "task", f"{label}: {', '.join(_of_task(task))}"
        for name, entry in task["entries"].items():
            yield "", _entry(name, entry)


def _of_task(task: Mapping[str, Any]) -> Iterator[str]:
    if task["form"]:
        yield f"{_form(task['form'])} of its own"
    if task["candidates"]:
        yield f"{counted(len(task['candidates']), 'candidate')} to choose from"
    elif task["lacking"]:
        yield "lacks it"
    elif not task["entries"]:
        yield "as in the base"
    else:
        yield format_size(task["n_bytes"])
    if task["mask_share"] is not None:
        yield f"its mask has {task['mask_share']:.2%}"


def _form(one: Mapping[str, Any]) -> str:
    return f"{one['dtype']} {one['shape']}"


def _entry(name: str, entry: Mapping[str, Any]) -> str:
    return f"{name}: {_form(entry)} in {entry['file']}, {format_size(entry['n_bytes'])}"
