"""Makes the stages before a merge, and keeps their results where the merge finds them.

All stages are planned before the first is merged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from .._version import __version__
from ..checkpoint.destination import Destination
from ..checkpoint.files import digest_of_start, stamps
from ..checkpoint.locks import lock_file
from ..engine.usage import Progress
from ..errors import InputError, StorageError
from ..lora.adapter_report import AdapterReport
from ..recipe.config import MergeConfig
from . import facts, planning
from .plan import MergePlan
from .report import MergeReport
from .stage_plans import LOCK, PREFIX, naming, of_stage, plan_stages, sweep

_MEMORY: Final = Path("/dev/shm")  # noqa: S108, folders in it are made with names that nobody else has
"""The file system whose files are in memory."""

_ROOM: Final = 1 << 24
"""Bytes that a file system in memory keeps free for others."""


@dataclass(frozen=True)
class Staged:
    """A merge whose stages are merged."""

    config: MergeConfig
    """The request of the merge, with the places of the results that it takes."""
    max_bytes: int
    """Memory for buffers, without what the results of stages take."""
    progress: Progress
    reports: dict[str, dict[str, Any]]
    """The report on each stage by its name."""


@contextlib.contextmanager
def staged(
    config: MergeConfig,
    out: str | os.PathLike[str],
    merge: Callable[[MergeConfig, Path, int, Progress], MergeReport | AdapterReport],
    *,
    max_bytes: int,
    progress: Progress,
    resume: bool,
    overwrite: bool,
) -> Iterator[Staged]:
    """Merge the stages before a merge, and remove their results after the block.

    The results are in memory where they take no more than half of ``max_bytes``, else in a hidden
    directory beside the output. With ``resume`` they are always there, and stay when the block
    fails.

    Args:
        config: The request.
        out: The output of the whole.
        merge: Merges one request to a directory, in so much memory, with so much progress.
        max_bytes: Upper bound for buffers and results in memory together.
        progress: Is called with the bytes that all stages moved so far and move in all.
        resume: Go on from the stages that an earlier run has finished.
        overwrite: Allow the output to replace an earlier one.

    Yields:
        The request to merge at last.

    Raises:
        InputError: A stage or the merge is wrong; nothing was merged yet.
        StorageError: Reading or writing fails.
    """
    planned = plan_stages(config)
    plans = [*(one for _, one in planned.stages), planned]
    skeletons = [one for _, one in planned.config.places.stages]
    roots = [root for one in plans for root in one.input_roots()]
    roots = [root for root in roots if not str(root).startswith(tuple(skeletons))]
    destination = Destination(out, roots, overwrite, of_weights=True)
    target = destination.path
    held = sum(one.bytes_written + one.auxiliary.n_bytes for one in plans[:-1])
    in_memory = not resume and held <= max_bytes // 2 and _has_room(held)
    moved = _Moved(progress, sum(one.bytes_moved for one in plans))
    root = _in_memory() if in_memory else _beside(target)
    directories: dict[str, str] = {}
    reports: dict[str, dict[str, Any]] = {}
    requests: list[tuple[str, MergeConfig]] = []
    if in_memory:
        max_bytes -= held
    with _alone(root, keep=resume):
        for (name, one), made in zip(config.before(), plans, strict=False):
            with of_stage(name, directories):
                request, place = one.with_stages((), directories), root / name
                requests.append((name, request.pinned()))
                found = _report_of_finished(request, place) if resume else None
                if found is None:
                    shutil.rmtree(place, ignore_errors=True)
                    report = cast(MergeReport, merge(request, place, max_bytes, moved.part(made)))
                    home = target.parent if destination.is_file else target
                    own = {path: other for other, path in {**directories, name: str(place)}.items()}
                    names = {**facts.names_from(made, home), **own}
                    found = replace(report, names=names).to_json_dict()
                    del found["recipe"]
                    if resume:
                        record = json.dumps([_key(request), found])
                        _record(place).write_text(record, encoding="utf-8")
                reports[name] = found
            directories[name] = str(place)
        with naming(directories):
            request = config.with_stages(requests, directories)
            yield Staged(request, max_bytes, moved.part(planned), reports)


def _record(directory: Path) -> Path:
    """Return the place of the record of a finished stage: its key and its report."""
    return directory.with_name(f"{directory.name}.json")


def _report_of_finished(request: MergeConfig, directory: Path) -> dict[str, Any] | None:
    """Return the report of a run that merged the same stage over the same inputs, or None."""
    try:
        key, report = json.loads(_record(directory).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return report if key == _key(request) and directory.is_dir() else None


def _key(request: MergeConfig) -> str:
    """Return a digest of all that decides the result of a stage."""
    made = planning.plan(request)
    adapters = made.adapter_files()
    inputs = stamps([Path(path) for path in [*made.input_files(), *adapters]])
    starts = [digest_of_start(path) for path in adapters]
    text = json.dumps([__version__, made.to_json_dict(), inputs, starts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _Moved:
    """The bytes that all stages move, of which each counts its own."""

    def __init__(self, progress: Progress, whole: int) -> None:
        self._progress = progress
        self._whole = whole
        self._done = 0

    def part(self, made: MergePlan) -> Progress:
        """Return the function that counts the bytes of one plan behind those before it."""
        progress, before = self._progress, self._done
        self._done += made.bytes_moved
        if not callable(progress):
            return progress

        def count(done: int, _: int) -> None:
            progress(before + done, self._whole)

        count.shows_bar = getattr(progress, "shows_bar", False)  # type: ignore[attr-defined]
        return count


def _has_room(n_bytes: int) -> bool:
    try:
        status = os.statvfs(_MEMORY)
    except OSError:
        return False
    free = status.f_bavail * status.f_frsize
    return os.access(_MEMORY, os.W_OK | os.X_OK) and free >= n_bytes + _ROOM


def _in_memory() -> Path:
    """Create a directory in memory; those that killed runs have left there are removed."""
    sweep(_MEMORY)
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=_MEMORY))


def _beside(target: Path) -> Path:
    """Return the hidden directory of stages beside an output, which is created."""
    parent = next(one for one in target.parents if one.is_dir())
    found = parent / f".{target.name}.tallies-stages"
    try:
        found.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{found}: cannot be set up: {error.strerror or error}") from None
    return found


@contextlib.contextmanager
def _alone(directory: Path, *, keep: bool) -> Iterator[None]:
    """Hold a directory of stages alone and remove it after the block; see ``staged``.

    Args:
        directory: The directory, which exists.
        keep: Leave it for another run when the block fails, unless an input is wrong.
    """
    file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            lock_file(file)
        except BlockingIOError:
            raise InputError(
                f"{directory}: another run merges its stages there; wait for it, or choose "
                "another output"
            ) from None
        try:
            yield
        except InputError:
            keep = False
            raise
        else:
            keep = False
        finally:
            if not keep:
                shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(file)
