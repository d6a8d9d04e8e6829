"""Places of results, and runs that stop on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors import safe_open

from tallies.engine.passes import Passes
from tests.support.checkpoints import data_bytes, write


def old_output(out: Path) -> dict[str, bytes]:
    """An older result at ``out``, with what the new one will not have."""
    write(out, {"old": np.zeros(7, np.float32)}, config={})
    (out / "more").mkdir()
    (out / "more/notes.txt").write_text("mine")
    record(out)
    return data_bytes(out)


def record(out: Path) -> None:
    """Leave the report of a merge that wrote all that is in a directory."""
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    report = {"output": {"files": {}}, "auxiliary_files": names, "tallies": "0.1.0"}
    (out / "tallies.json").write_text(json.dumps(report))


def at_combine(number: int, act: Callable[[], object]) -> mock._patch[Any]:
    """Act before the files are combined, when it is the turn of that number."""
    calls = iter(range(1000))
    combine = Passes.combine

    def acting(self: Passes, jobs: Any) -> None:
        if next(calls) == number:
            act()
        combine(self, jobs)

    return mock.patch.object(Passes, "combine", acting)


def fail(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file."""
    with safe_open(path, "np") as file:  # type: ignore[no-untyped-call]
        found: dict[str, str] = file.metadata()
    return found
