"""Tells the model that an interrupted change in place has left from others of its form."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from .._core import Limits, Plan, apply_changes
from ..checkpoint.checkpoint import Checkpoint
from ..engine.files import PlanFiles
from ..errors import InputError, StorageError
from ..messages import show
from .chains import check_forms
from .journal import Journal, KeptLink
from .kept import checksum
from .new_values import NewValues, are_of_either
from .works import Jobs, Work, load, works_of


def refuse_others(
    journal: Journal,
    links: Sequence[KeptLink],
    found: Checkpoint,
    limits: Limits,
    max_bytes: int,
) -> list[Work]:
    """Return the tensors to restore, if restoring would make the old model of what is there.

    Every byte that was to change must be the old or the new one, and all others as they were. All
    is read, and nothing is written.

    Args:
        journal: The journal.
        links: Its patches, which restore the old model.
        found: The files that it covers.
        limits: Threads and buffers.
        max_bytes: Upper bound for memory.

    Raises:
        InputError: The model is another one, or the journal is damaged.
        StorageError: Reading fails.
    """

    def other(path: str | Path, why: str) -> InputError:
        return InputError(
            f"{path}: is not the model whose change was interrupted: {why}; nothing was written; "
            f"put that back, or remove {journal.path} to keep what is there"
        )

    try:
        check_forms(found, links[0])
    except InputError as error:
        raise other(error.args[0].split(": ")[0], "its tensors are others") from None
    works = works_of(links, found.tensors)
    files = PlanFiles(Plan(True))
    jobs = Jobs(files, {})
    with contextlib.ExitStack() as opened:
        new_values = {}
        for one_link in links:
            with journal.telling_of_damage():
                values = NewValues(one_link.new_values, "rb")
            new_values[id(one_link)] = values
            opened.callback(values.close)
        for batch in load(works, max_bytes, limits.n_threads):
            left = apply_changes(
                plan=files.plan,
                tasks=[one.task(jobs.of(one.work)) for one in batch],
                limits=limits,
                with_values=True,
            )
            for one, patched in zip(batch, left, strict=True):
                work, name = one.work, show(one.work.name)
                work.add(patched.old, patched.new)
                for (link, old), now in zip(one.changes, patched.old_values, strict=True):
                    with journal.telling_of_damage():
                        new = new_values[id(link)].read(len(old.values))
                    if not are_of_either(now, old.values, new):
                        why = f"tensor {name} has values that are neither the old nor the new ones"
                        raise other(work.source.path, why)
        for work in works:
            try:
                work.check_new()
            except InputError:
                why = f"tensor {show(work.name)} differs beside what was to change"
                raise other(work.source.path, why) from None
    _check_small(journal)
    return works


def _check_small(journal: Journal) -> None:
    """Raise InputError unless each old small file is kept as it was, or in its place."""
    for name, of_old in journal.read().small_files.items():
        kept, place = journal.old_small(name), journal.home / name
        if of_old is None or (kept.is_file() and place.is_file() and kept.samefile(place)):
            continue
        try:
            found = checksum((kept if kept.is_file() else place).read_bytes())
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be read: {error.strerror}") from None
        if found != of_old:
            with journal.telling_of_damage():
                raise InputError(f"{kept}: is {'damaged' if kept.is_file() else 'missing'}")
