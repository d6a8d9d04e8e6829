"""Count how many tasks of a store use each parameter."""

from __future__ import annotations

import json
from typing import Any

import click

from ..store import consensus
from ._options import json_option, offline_option, store_base_option


@click.command()
@click.argument("store")
@store_base_option
@offline_option
@json_option("counts")
def command(store: str, base: str | None, as_json: bool) -> None:
    """Count how many tasks of a STORE use each parameter, per tensor and in all."""
    found = consensus(store, base=base)
    click.echo(json.dumps(found, indent=2) if as_json else _table(found))


def _table(found: dict[str, Any]) -> str:
    rows = [*found["tensors"].items(), ("all", found["used_by"])]
    width = max(len(name) for name, _ in rows)
    heads = "".join(f"{n:>9}" for n in range(len(found["tasks"]) + 1))
    lines = [f"{'used by tasks':<{width}}{heads}"]
    for name, counts in rows:
        shares = "".join(f"{n / max(sum(counts), 1):>9.2%}" for n in counts)
        lines.append(f"{name:<{width}}{shares}")
    return "\n".join(lines)
