"""Plans merges that take results of earlier ones.

A plan needs no more of a model than its headers and small files. So stages are planned on
skeletons: directories with the files of each result, in which the tensors are holes that take no
space.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..checkpoint.layout import index_files
from ..checkpoint.locks import lock_file
from ..errors import InputError, StorageError
from ..messages import show
from ..recipe.config import MergeConfig
from . import planning
from .plan import MergePlan

PREFIX: Final = "tallies-stages-"
"""The first letters of the names of temporary directories of stages."""

LOCK: Final = "lock"
"""The file in such a directory that its run has locked."""


def plan_stages(config: MergeConfig) -> MergePlan:
    """Plan a merge with the stages before it; see ``planning.plan``.

    The skeletons of the stages stay until the plan is no longer used.
    """
    sweep(Path(tempfile.gettempdir()))
    root = tempfile.mkdtemp(prefix=PREFIX)
    file = -1
    try:
        file = _held(Path(root))
        made = _planned(config, Path(root))
    except BaseException:
        _remove(root, file)
        raise
    weakref.finalize(made, _remove, root, file)
    return made


def sweep(parent: Path) -> None:
    """Remove the directories of stages that killed runs have left in a directory.

    Those of runs that go on are locked, and those without a lock have just been made.
    """
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            file = os.open(left / LOCK, os.O_RDWR)
            try:
                lock_file(file)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(file)


def _held(root: Path) -> int:
    """Return the file by whose lock a new directory is held; it has its name once it is locked."""
    file = os.open(root / f"new-{LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
    lock_file(file)
    os.rename(root / f"new-{LOCK}", root / LOCK)
    return file


def _remove(root: str, file: int) -> None:
    shutil.rmtree(root, ignore_errors=True)
    if file >= 0:
        os.close(file)


def _planned(config: MergeConfig, root: Path) -> MergePlan:
    directories: dict[str, str] = {}
    stages: list[tuple[str, MergePlan]] = []
    for name, one in config.before():
        with of_stage(name, directories):
            placed = one.with_stages((), directories)
            made = _without_paths(planning.plan(placed), directories)
            directories[name] = str(root / name)
            _write_skeleton(made, root / name)
        stages.append((name, made))
    with naming(directories):
        made = planning.plan(config.with_stages(config.before(), directories))
    return replace(_without_paths(made, directories), stages=tuple(stages))


def _without_paths(made: MergePlan, directories: dict[str, str]) -> MergePlan:
    warnings = tuple(_named(warning, directories) for warning in made.warnings)
    return replace(made, warnings=warnings)


def _named(text: str, directories: dict[str, str]) -> str:
    """Return a text with the name of each stage in the place of its directory."""
    for name, path in sorted(directories.items(), key=lambda one: -len(one[1])):
        text = text.replace(path, f"stage {name}")
    return text


@contextlib.contextmanager
def naming(directories: dict[str, str], prefix: str = "") -> Iterator[None]:
    """Name stages in the errors of the block, and not the places of their results."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{prefix}{_named(str(error), directories)}") from None
    except StorageError as error:
        raise StorageError(f"{prefix}{_named(str(error), directories)}") from None


def of_stage(name: str, directories: dict[str, str]) -> contextlib.AbstractContextManager[None]:
    """Name a stage before the errors of the block, which is about it; see ``naming``."""
    return naming(directories, f"stage {show(name)}: ")


def _write_skeleton(made: MergePlan, directory: Path) -> None:
    """Write the files of a result with holes in the place of tensors."""
    directory.mkdir(parents=True)
    for shard in made.shards:
        head = made.header(shard)[0]
        path = directory / shard.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(head)
        os.truncate(path, len(head) + shard.n_bytes)
    for name, index in index_files(made.shards).items():
        (directory / name).write_bytes(index)
    made.auxiliary.copy(directory)
