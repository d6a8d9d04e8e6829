"""``tallies inspect``."""

from __future__ import annotations

import json
from typing import Any

import click

from ..inspect import inspect


@click.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--fingerprints/--no-fingerprints", default=True, help="Read all data, or headers.")
@click.option("--threads", type=int, help="Default: all cores.")
def command(path: str, as_json: bool, fingerprints: bool, threads: int | None) -> None:
    """Show the tensors of a checkpoint, with sizes and fingerprints."""
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
