"""Show versions and the instruction set in use."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import click

from .. import cpu, cuda
from .._version import __version__
from ._options import json_option


@click.command()
@json_option("facts")
def command(as_json: bool) -> None:
    """Show versions, the instruction set in use and CUDA devices."""
    facts = {
        "tallies": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "target": cpu.target(),
        "targets": cpu.targets(),
        "cuda": [device._asdict() for device in cuda.devices()],
        "cuda_problem": cuda.problem(),
        "numpy": _version("numpy"),
        "torch": _version("torch"),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    facts["targets"] = ", ".join(cpu.targets())
    facts["cuda"] = ", ".join(device.name for device in cuda.devices()) or facts["cuda_problem"]
    del facts["cuda_problem"]
    for name, value in facts.items():
        click.echo(f"{name:<9} {value or 'not installed'}")


def _version(package: str) -> str | None:
    """Return the installed version, without importing the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
