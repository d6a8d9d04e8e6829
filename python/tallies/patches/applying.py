"""``apply_patch``: an old model and a chain of patches -> the new model, elsewhere or in place."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._core import Limits, Plan
from .._version import __version__
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.destination import Destination
from ..checkpoint.files import refuse_changed, stamps
from ..checkpoint.metadata import RECIPE
from ..checkpoint.occupied import REPORT_NAME
from ..checkpoint.tensors import TensorInfo
from ..engine.bar import with_progress
from ..engine.environment import in_float_environment
from ..engine.files import PlanFiles
from ..engine.limits import allow_open_files, n_threads, tile_limits, too_little
from ..engine.page_cache import io_code
from ..engine.usage import Advance, Progress, measure
from ..errors import InputError
from ..sizes import parse_size
from ..spec.dtypes import n_stored
from .chains import Link, OnePatch, as_list, check_forms, links_of
from .in_place import InPlace
from .models import open_stored
from .replacing import refuse_other_kind
from .report import PatchReport, counts
from .results import Result
from .small import SmallOut
from .works import Work, apply_works, works_of

_OTHER_BYTES = 1 << 20


@with_progress("apply")
@in_float_environment
def apply_patch(
    patches: OnePatch | Sequence[OnePatch],
    to: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    undo: bool = False,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    sync: bool | None = None,
    io: str = "auto",
    progress: Progress = None,
) -> PatchReport:
    """Apply patches to a model, and change it in place unless ``out`` names a place for a new one.

    A chain is applied in one pass, and a later change wins.
    The chain is checked before any tensor is read. Fingerprints of all that is read and made are
    compared with those that the patches state. A new checkpoint appears by a rename when it is
    complete. In place, a journal beside the files has the old values before the first one is
    overwritten: a run that is killed leaves it, and the next run in that place begins by restoring
    the old model.

    Args:
        patches: A patch, or patches in their order: directories, files, bytes of files, or reports
            of ``make_patch``.
        to: The model to start from.
        out: The directory to create, or a file whose name ends in ``.safetensors``; None changes
            the model in place.
        undo: Take the patches back, from the new model to the old one. In place, a change that was
            interrupted is taken back, and no patches are needed for that.
        max_memory: Upper bound for memory, as bytes or as text such as "1GiB".
        threads: The number of threads; by default, all cores.
        variant: The variant of the weights to read of a model that has several, such as "fp16".
        overwrite: Replace an earlier result in the place of ``out``.
        sync: Flush what is written to disk before the result appears, or before the journal goes;
            by default only in place.
        io: How to read the model: "buffered", "direct" or "auto", as for ``merge``.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes moved so far and the bytes to move in all.

    Returns:
        The report.

    Raises:
        InputError: The model is not the one that the patches start from, a patch is damaged, or
            the chain is none. The model is as it was before.
        StorageError: Reading or writing fails. The model is as it was before, or the journal says
            how to restore it.

    >>> tallies.apply_patch(["monday", "tuesday"], "old", "new").n_changed  # doctest: +SKIP
    12345
    """
    start = time.perf_counter()
    if not isinstance(to, (str, os.PathLike)):
        raise InputError(
            f"to: found {type(to).__name__}, expected a path; tallies.torch.apply_patch changes "
            "modules and dicts of tensors in memory"
        )
    given = as_list(patches)
    max_bytes, n = parse_size(max_memory), n_threads(threads)
    if out is None:
        place = InPlace(to, variant)
        with place.locked():
            place.restore(max_bytes, n)
            if undo and place.is_undone(given):
                return place.report(start, n)
            links = links_of(given, undo=undo)
            target = place.open()
            run = _Run(links, target, undo)
            limits, advance = run.limits(max_bytes, n, io), run.advance(progress)
            place.change(
                target, run.works, links, limits, max_bytes, advance, sync=sync is not False
            )
            advance.finish()
            return run.report(
                start, limits, max_bytes, place.path, {}, place.small_done, place.warnings
            )
    links = links_of(given, undo=undo)
    run = _Run(links, open_stored(to, variant), undo)
    limits, advance = run.limits(max_bytes, n, io), run.advance(progress)
    return run.write(out, limits, max_bytes, advance, overwrite, bool(sync), start)


class _Run:
    """One application of a chain.

    Args:
        links: The chain.
        target: The model that it starts from.
        undo: True if the links lead backwards.
    """

    def __init__(self, links: list[Link], target: Checkpoint, undo: bool) -> None:
        check_forms(target, links[0])
        self._links, self._target, self._undo = links, target, undo
        self._forms = links[-1].forms(new=True)
        self.works = works_of(links, target.tensors)

    @property
    def _n_bytes(self) -> int:
        return sum(work.source.n_bytes for work in self.works)

    def limits(self, max_bytes: int, threads: int, io: str) -> Limits:
        """Return the limits of the native passes."""
        return tile_limits(max_bytes, threads, io_code(io, self._target.files))

    def advance(self, progress: Progress) -> Advance:
        """Return the counter of a run that reads all tensors and writes them."""
        return Advance(progress, 2 * self._n_bytes)

    def write(
        self,
        out: str | os.PathLike[str],
        limits: Limits,
        max_bytes: int,
        advance: Advance,
        overwrite: bool,
        sync: bool,
        start: float,
    ) -> PatchReport:
        """Write a new checkpoint; arguments and results are those of ``apply_patch``."""
        first = self._links[0]
        inputs = [self._target.path, *(one.patch.path for one in self._links)]
        destination = Destination(out, inputs, overwrite, of_weights=True)
        refuse_other_kind(destination.path, with_patch=False)
        small = SmallOut.of(self._links, self._target, alone=destination.is_file)
        if destination.is_file:
            origin = {RECIPE: json.dumps(self._origin())}
            result = Result.single(destination.path.name, self._target, self._forms, origin)
        else:
            result = Result.like(self._target, self._forms)
        sizes = {file.name: file.n_bytes for file in result.files}
        destination.check_space(sum(sizes.values()) + _OTHER_BYTES)
        sources = [*self._target.files, *{one.source.path for one in self.works}]
        allow_open_files(len(sources) + len(sizes))
        before = stamps(self._target.files)
        with destination.writing(resume=False, sync=sync) as directory:
            files = PlanFiles(Plan(True))
            places: dict[str, TensorInfo] = {}
            for file in result.files:
                path = directory / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                files.create(path, file.n_bytes)
                files.write_head(path, file.head)
                places |= {n: replace(one, path=path) for n, one in file.places.items()}

            def check(work: Work) -> None:
                work.check_old(first)
                work.check_new()

            apply_works(self.works, files, places, limits, max_bytes, advance, check)
            files.close_written()
            for name, index in result.indexes.items():
                (directory / name).write_bytes(index)
            small.write(directory)
            refuse_changed(before)
            report = self.report(
                start, limits, max_bytes, destination.path, sizes, small.done, small.warnings
            )
            if not destination.is_file:
                text = json.dumps(self._record(sizes, small), indent=2, ensure_ascii=False)
                (directory / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
        advance.finish()
        return report

    def _origin(self) -> dict[str, Any]:
        links = [{"old": one.old, "new": one.new} for one in self._links]
        return {"undone" if self._undo else "patched": links}

    def _record(self, sizes: Mapping[str, int], small: SmallOut) -> dict[str, Any]:
        """Return the ``tallies.json`` beside the result, which names no place."""
        names = [path.as_posix() for path in small.paths]
        return {
            **self._origin(),
            "fingerprint": self._links[-1].new,
            "files": dict(sizes),
            "auxiliary_files": names,
            "tallies": __version__,
        }

    def report(
        self,
        start: float,
        limits: Limits,
        max_bytes: int,
        path: Path,
        sizes: dict[str, int],
        small: dict[str, str],
        warnings: list[str],
    ) -> PatchReport:
        """Return the report on a run that ends now."""
        records = [one for link in self._links for one in link.changes.values()]
        n_read = sum(one.patch.n_bytes for one in self._links)
        n_bytes = self._n_bytes
        return PatchReport(
            kind="undone" if self._undo else "applied",
            path=str(path),
            old=self._target.label,
            new=None,
            patches=[one.label for one in self._links],
            old_fingerprint=self._links[0].old,
            new_fingerprint=self._links[-1].new,
            n_elements=sum(n_stored(*form) for form in self._forms.values()),
            n_bytes=n_read,
            model_bytes=n_bytes,
            files=sizes,
            small_files=small,
            warnings=[*warnings, *filter(None, [too_little(max_bytes, limits.n_threads)])],
            **counts(records),
            **measure(start, n_bytes + n_read, n_bytes, limits.n_threads, limits.bytes_direct),
        )
