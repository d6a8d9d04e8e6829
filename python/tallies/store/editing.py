"""Changing a store: adding and removing tasks, and choosing between candidates.

The old store stays whole until ``store.json`` is replaced, which is done at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint.locks import only_one
from ..checkpoint.occupied import strangers
from ..errors import InputError, StorageError
from ..messages import some, unknown
from .codecs import registry as codecs
from .families.registry import family_of
from .lambdas import DEFAULT, text
from .manifest import Manifest, open_files
from .names import check_new_task
from .origins import base_place, recorded, relocate, resolved, root_of, task_places
from .packing.pack import pack, pack_again
from .packing.report import PackReport
from .sharing import borrow, release
from .small_files import own_files

_WORK = ".adding"

Places = Mapping[str, str | os.PathLike[str]]


def add(
    store: str | os.PathLike[str],
    task: str,
    source: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    tasks: Places | None = None,
    mask_lambda: float | None = None,
    **options: Any,
) -> PackReport:
    """Add one task to a store.

    A codec without a shared vector packs the new task alone. A codec with one packs all tasks
    again, from the experts that the store remembers.

    Args:
        store: The directory of the store.
        task: The name of the new task.
        source: The checkpoint of the new task.
        base: The base, where it is no longer at the path that the store remembers.
        tasks: Experts of other tasks that are no longer at the paths that the store remembers.
        mask_lambda: The new task's lambda, for codecs that have one.
        **options: Options of ``pack`` other than the codec and its parameters.

    Returns:
        The report on what was packed.

    Raises:
        InputError: The name is taken, the base is another one, or an expert is gone.
        StorageError: Reading or writing fails.
    """
    root, moved = root_of(store), tasks or {}
    manifest = _read(root, base, moved)
    check_new_task(root, manifest.tasks, task)
    origin = base_place(root, manifest, base)
    options.setdefault("variant", manifest.variant)
    if not _is_independent(manifest):
        sources = {**task_places(root, manifest, moved), task: os.fspath(source)}
        options["lambda"] = DEFAULT if mask_lambda is None else mask_lambda
        return _pack_again(root, manifest, origin, sources, options)
    with _editing(root):
        manifest = _read(root, base, moved)
        check_new_task(root, manifest.tasks, task)
        work = root / _WORK
        shutil.rmtree(work, ignore_errors=True)
        try:
            report = pack(
                origin or None,
                {task: source},
                work,
                codec=manifest.codec,
                **manifest.parameters,
                **options,
            )
            added = Manifest.read(work)
            if added.base_fingerprint != manifest.base_fingerprint:
                raise InputError(
                    f"{origin}: is not the base of {root}: its fingerprint is "
                    f"{added.base_fingerprint}, expected {manifest.base_fingerprint}"
                )
            family = family_of(manifest.codec, manifest.parameters)
            if family.stores_equal_once:
                before, new = open_files(root, manifest), open_files(work, added)
                borrow(manifest, before, added, new, work, family.parts)
            for file in added.files():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(work / file, root / file)
            for name, tensor in added.tensors.items():
                if tensor.is_stored:
                    manifest.tensors[name] = replace(manifest.tensors[name], kind=tensor.kind)
            place = recorded(resolved(added.tasks[task].source, work), root)
            manifest.tasks[task] = replace(added.tasks[task], source=place)
            manifest.checksums.update(added.checksums)
            manifest.small_files.update(added.small_files)
            manifest.write(root)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    n_bytes = sum((root / file).stat().st_size for file in manifest.checksums)
    names = list(manifest.tasks)
    return replace(report, path=str(root), store_tasks=names, store_bytes=n_bytes)


def remove(
    store: str | os.PathLike[str],
    task: str,
    *,
    keep_shared: bool = False,
    base: str | os.PathLike[str] | None = None,
    tasks: Places | None = None,
    **options: Any,
) -> PackReport | None:
    """Remove one task from a store.

    Without a shared vector, or with ``keep_shared``, the task's files alone are removed, and the
    other tasks keep their bits. Otherwise all other tasks are packed again, from the experts that
    the store remembers.

    Args:
        store: The directory of the store.
        task: The name of the task.
        keep_shared: Leave the shared vector as it is, with the removed task in it.
        base: The base, where it is no longer at the path that the store remembers.
        tasks: Experts that are no longer at the paths that the store remembers.
        **options: Options of ``pack`` other than the codec and its parameters.

    Returns:
        The report on the tasks that were packed again; None where files were only removed.

    Raises:
        InputError: The store has no such task, or no other one; the base or an expert is gone.
        StorageError: Reading or writing fails.
    """
    root, moved = root_of(store), tasks or {}
    manifest = _read(root, base, moved)
    _find(root, manifest, task)
    if len(manifest.tasks) == 1:
        raise InputError(f"{root}: task {task!r} is the only one; remove the directory instead")
    if not keep_shared and not _is_independent(manifest):
        del manifest.tasks[task]
        sources = task_places(root, manifest, moved)
        return _pack_again(root, manifest, base_place(root, manifest, base), sources, options)
    with _editing(root):
        manifest = _read(root, base, moved)
        _find(root, manifest, task)
        gone = manifest.tasks.pop(task)
        part_names = family_of(manifest.codec, manifest.parameters).parts
        files = release(root, manifest, open_files(root, manifest), gone, part_names)
        small = own_files(task, manifest.small_files.pop(task, {}))
        _drop(root, manifest, files, small)
    return None


def choose(
    store: str | os.PathLike[str],
    task: str,
    mask_lambda: float | str,
    *,
    base: str | os.PathLike[str] | None = None,
    tasks: Places | None = None,
) -> None:
    """Keep one of the candidate masks of a task and remove the others.

    Args:
        store: The directory of the store.
        task: The name of the task.
        mask_lambda: The lambda of the candidate to keep.
        base: The base, for the store to remember, where it is elsewhere by now.
        tasks: Experts, for the store to remember, that are elsewhere by now.

    Raises:
        InputError: The store has no such task or lambda, or the task has no candidates.
        StorageError: Reading or writing fails.
    """
    root = root_of(store)
    with _editing(root):
        manifest = _read(root, base, tasks or {})
        found = _find(root, manifest, task)
        if not found.candidates:
            raise InputError(
                f"{root}: task {task!r} has no candidates: its lambda is {found.mask_lambda}"
            )
        try:
            key = text(float(mask_lambda))
        except ValueError:
            key = str(mask_lambda)
        if key not in found.candidates:
            raise InputError(f"{root}: task {task!r}: lambda {unknown(key, found.candidates)}")
        open_files(root, manifest)
        chosen, file = found.candidates[key], f"tasks/{task}.safetensors"
        new = root / f"{file}.new"
        try:
            new.parent.mkdir(exist_ok=True)
            new.unlink(missing_ok=True)
            try:
                os.link(root / chosen, new)
            except OSError:
                shutil.copyfile(root / chosen, new)
            os.replace(new, root / file)
        except OSError as error:
            raise StorageError(f"{new}: cannot be written: {error.strerror or error}") from None
        manifest.checksums[file] = manifest.checksums[chosen]
        manifest.tasks[task] = replace(
            found,
            mask_lambda=float(key),
            n_set={key: found.n_set[key]},
            file=file,
            candidates={},
        )
        _drop(root, manifest, list(found.candidates.values()))


def _is_independent(manifest: Manifest) -> bool:
    """Return whether each task is packed without regard to the others."""
    return not family_of(manifest.codec, manifest.parameters).has_shared


def _find(root: Path, manifest: Manifest, task: str) -> Any:
    if task not in manifest.tasks:
        raise InputError(f"{root}: task {unknown(task, manifest.tasks)}")
    return manifest.tasks[task]


def _read(root: Path, base: str | os.PathLike[str] | None, tasks: Places) -> Manifest:
    """Read the manifest, with the places of models that moved."""
    manifest = Manifest.read(root)
    relocate(root, manifest, base, tasks)
    return manifest


def _pack_again(
    root: Path, manifest: Manifest, base: str, sources: dict[str, str], options: dict[str, Any]
) -> PackReport:
    parameters = dict(manifest.parameters)
    for name, task in manifest.tasks.items():
        if task.file is None:
            raise InputError(
                f"{root}: task {name!r} has several candidates; keep one first with 'tallies "
                f"choose {root} {name} LAMBDA'"
            )
    if codecs.get(manifest.codec).has_lambda():
        parameters["lambda"] = {
            name: manifest.tasks[name].mask_lambda if name in manifest.tasks else options["lambda"]
            for name in sources
        }
    options = {name: value for name, value in options.items() if name != "lambda"}
    _refuse_strangers(root)
    report = pack_again(manifest, base, sources, root, **parameters, **options)
    report.warnings.append("the shared vector changed: all tasks were packed again")
    return report


def _refuse_strangers(root: Path) -> None:
    """Raise InputError if the directory that is to be replaced holds files of others."""
    try:
        found = strangers(root)
    except OSError as error:
        raise StorageError(f"{root}: cannot be listed: {error.strerror or error}") from None
    if found:
        raise InputError(
            f"{root}: holds {some(found)}, which is no file of the store ({len(found)} such); all "
            "tasks are packed again into a new directory in its place: move it elsewhere first"
        )


def _drop(root: Path, manifest: Manifest, files: Sequence[str], small: Sequence[str] = ()) -> None:
    """Write the manifest without some files, then remove the files."""
    for file in files:
        del manifest.checksums[file]
    manifest.write(root)
    for file in (*files, *small):
        with contextlib.suppress(OSError):
            (root / file).unlink()
            for parent in Path(file).parents[:-1]:
                (root / parent).rmdir()


@contextlib.contextmanager
def _editing(root: Path) -> Iterator[None]:
    """Let one process at a time change the store."""
    try:
        with only_one(root / ".lock"):
            yield
    except BlockingIOError:
        raise InputError(f"{root}: another process is changing it; try again later") from None
