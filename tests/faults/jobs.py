"""Jobs that write, in a process whose calls to the system fail at will."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tallies import make_patch, pack
from tests.support import stages
from tests.support.checkpoints import write
from tests.support.killable import Killer
from tests.support.patches import pair
from tests.support.stores import BASE, expert

FOREVER: Final = 1 << 40
LIMITS: Final[dict[str, Any]] = {"threads": 1, "max_memory": "64KiB"}
every_job = pytest.mark.parametrize(
    "name", ["merge", "sweep", "pack", "unpack", "add", "patch", "apply", "apply in place"]
)


@dataclass(frozen=True)
class Job:
    """A call with a result at ``out`` in a folder of its own.

    Args:
        call: The name of the function.
        arguments: Its arguments but for the place of the result.
        place: The name of the argument that is the place.
        old: A tree to begin with, for a job that changes it.
    """

    call: str
    arguments: Mapping[str, Any]
    place: str = "out"
    old: Path | None = None

    def begin(self, folder: Path) -> Path:
        """Empty the folder but for what the job begins with; returns the place of the result."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if self.old is not None:
            shutil.copytree(self.old, folder / "out")
        return folder / "out"


class Faults:
    """Calls that fail.

    Args:
        library: ``calls.c``, compiled.
    """

    def __init__(self, library: Path) -> None:
        self._process = Killer(preload=library)

    def run(
        self,
        job: Job,
        folder: Path,
        first: int = 0,
        last: int = 0,
        *,
        error: int = errno.EIO,
        kinds: str = "",
        log: str = "",
        **options: Any,
    ) -> dict[str, Any]:
        """Run a job whose calls from ``first`` to ``last``, exclusive, fail or kill it."""
        arguments = {**job.arguments, job.place: str(folder / "out"), **options}
        faults = (str(folder), kinds, first, last, error, log)
        return self._process.run(call=job.call, faults=faults, **arguments)

    def close(self) -> None:
        """End the process."""
        self._process.close()


def small_jobs(root: Path) -> dict[str, Job]:
    """Return every job that writes, on small models below a folder."""
    recipe = stages.models(root / "merge")
    models = {"base": BASE, "a": expert(1), "b": expert(2)}
    base, a, b = (str(write(root / name, model)) for name, model in models.items())
    pack(base, {"a": a}, root / "one", codec="emr")
    pack(base, {"a": a, "b": b}, root / "two", codec="emr")
    changed = zip(("old", "new"), pair(1, n=20_000), strict=True)
    old, new = (
        str(write(root / name, model, n_files=2, config={"name": name})) for name, model in changed
    )
    make_patch(old, new, root / "patch")
    patch = [str(root / "patch")]
    grid = {"density": [0.3, 0.6]}
    return {
        "merge": Job("merge", {"config": recipe, **stages.OPTIONS}),
        "sweep": Job("sweep", {"config": recipe, "grid": grid, **stages.OPTIONS}),
        "pack": Job("pack", {"base": base, "tasks": {"a": a, "b": b}, "codec": "emr", **LIMITS}),
        "unpack": Job("unpack", {"store": str(root / "two"), "task": "a", **LIMITS}),
        "add": Job(
            "add",
            {"task": "b", "source": b, "base": base, "tasks": {"a": a}, **LIMITS},
            "store",
            root / "one",
        ),
        "patch": Job("make_patch", {"old": old, "new": new, **LIMITS}),
        "apply": Job("apply_patch", {"patches": patch, "to": old, **LIMITS}),
        "apply in place": Job("apply_patch", {"patches": patch, **LIMITS}, "to", Path(old)),
    }
