"""Show what is in a checkpoint or a store."""

from __future__ import annotations

import json
from typing import Any

import click

from ..inspection.checkpoints import inspect
from ..inspection.stores import inspect_store, is_store
from ._options import json_option, threads_option


@click.command()
@click.argument("path")
@json_option("description")
@click.option(
    "--fingerprints/--no-fingerprints",
    default=True,
    help="Read all data and show fingerprints, or read headers only.",
)
@threads_option
def command(path: str, as_json: bool, fingerprints: bool, threads: int | None) -> None:
    """Show the tensors of a checkpoint with sizes and fingerprints, or the tasks of a store."""
    if is_store(path):
        store = inspect_store(path)
        click.echo(json.dumps(store, indent=2) if as_json else _store_table(store))
        return
    found = inspect(path, fingerprints=fingerprints, threads=threads)
    click.echo(json.dumps(found, indent=2) if as_json else _table(found))


def _table(found: dict[str, Any]) -> str:
    width = max([len(name) for name in found["tensors"]], default=0)
    lines = [
        f"{name:<{width}}  {tensor['dtype']:<8} {tensor['n_bytes']:>14,}  "
        f"{tensor['fingerprint'] or '-':<16}  {tensor['shape']}"
        for name, tensor in found["tensors"].items()
    ]
    dtypes = ", ".join(f"{n:,} {dtype}" for dtype, n in found["elements_by_dtype"].items())
    lines.append(
        f"{found['n_tensors']} tensors, {found['n_elements']:,} elements ({dtypes}), "
        f"{found['n_bytes']:,} bytes in {len(found['files'])} file(s)"
    )
    if found["fingerprint"]:
        lines.append(f"fingerprint {found['fingerprint']}")
    return "\n".join(lines)


def _store_table(found: dict[str, Any]) -> str:
    kinds: dict[str, int] = {}
    for tensor in found["tensors"].values():
        kinds[tensor["kind"]] = kinds.get(tensor["kind"], 0) + 1
    parameters = "".join(f", {name} {value}" for name, value in found["parameters"].items())
    lines = [
        f"{found['codec']}{parameters}; base {found['base']['path']}",
        f"base fingerprint {found['base']['fingerprint']}",
        ", ".join(f"{n} tensors {kind}" for kind, n in kinds.items()),
    ]
    for name, task in found["tasks"].items():
        extra = f", lambda {task['lambda']:g}" if task["lambda"] is not None else ""
        if task["candidates"]:
            extra = f", candidates for lambda {', '.join(task['candidates'])}"
        if task["scale"] != 1:
            extra += f", scale {task['scale']:.6g}"
        lines.append(f"task {name}: {task['n_bytes']:,} bytes{extra}; from {task['source']}")
    lines.append(f"{found['n_bytes']:,} bytes in {len(found['files'])} files")
    return "\n".join(lines)
