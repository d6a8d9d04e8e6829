"""Tensors to make of stored ones and of chains of changes, part by part in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from .._core import Limits, PatchTask, Slice, apply_changes
from ..checkpoint.tensors import TensorInfo
from ..engine.files import PlanFiles
from ..engine.fingerprints import add_content, tensor_fingerprint
from ..engine.usage import Advance
from ..errors import InputError
from ..linalg.threads import Workers
from ..messages import show
from ..spec.dtypes import DTYPES
from .chains import Link
from .layout import parts_of
from .part_change import PartChange
from .zeros import zeros_of

T = TypeVar("T")

# A batch of changes is in memory while the next one is read: both at best in the caches.
_BATCH_SHARE: Final = 8
_THREAD_BATCH_BYTES: Final = 1 << 23
_MOST_TENSOR_BYTES: Final = 1 << 30


@dataclass
class Work:
    """A tensor to make: where it is, and the links that change its elements, in their order."""

    name: str
    source: TensorInfo
    links: list[Link]
    expected_old: str | None
    """None for zeros that a link fills."""
    expected_new: str
    origin: Link | None = None
    """The link that has the source; None for a tensor of the old model."""
    old_lanes: list[int] = field(default_factory=lambda: [0] * 8)
    new_lanes: list[int] = field(default_factory=lambda: [0] * 8)

    def parts(self) -> list[tuple[int, int]]:
        """Return the first element and the number of elements of each part."""
        return parts_of(self.source.dtype, self.source.shape)

    def add(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Note the fingerprints of a part, before and after the changes."""
        add_content(self.old_lanes, old)
        add_content(self.new_lanes, new)

    def check_old(self, first: Link) -> None:
        """Raise InputError unless what was read is what the links start from."""
        found = tensor_fingerprint(self.source, self.old_lanes)
        if self.expected_old in (found, None):
            return
        if self.origin is not None:
            raise InputError(
                f"{self.origin.label}: tensor {show(self.name)} is damaged: its fingerprint is "
                f"{found}, expected {self.expected_old}; copy or make the patch again"
            )
        why = f"name the model that the patch was made of (fingerprint {first.old})"
        if found in (self.expected_new, first.new_table.get(self.name)):
            why = (
                "the tensor is the old one already: nothing is to be taken back"
                if first.backwards
                else "the tensor is the new one already: were the patches applied before?"
            )
        raise InputError(
            f"{self.source.path}: is not {first.origin}: tensor {show(self.name)} has "
            f"fingerprint {found}, expected {self.expected_old}; {why}"
        )

    def check_new(self) -> None:
        """Raise InputError unless the changes make what the last link says."""
        found = tensor_fingerprint(self.source, self.new_lanes)
        if found != self.expected_new:
            label = self.links[-1].label if self.links else self.name
            raise InputError(
                f"{label}: tensor {show(self.name)} would have fingerprint {found}, expected "
                f"{self.expected_new}; the patch is damaged: copy or make it again"
            )


def works_of(links: Sequence[Link], tensors: Mapping[str, TensorInfo]) -> list[Work]:
    """Return the tensors to make, in the order of their names.

    Args:
        links: The chain.
        tensors: The tensors of the model that it starts from.
    """
    works = []
    for name, expected in sorted(links[-1].new_table.items()):
        records = [link.changes.get(name) for link in links]
        whole = [i for i, one in enumerate(records) if one is not None and one.is_stored_whole]
        start = whole[-1] if whole else -1
        changing = [
            link
            for link, one in list(zip(links, records, strict=True))[start + 1 :]
            if one is not None and one.change == "changed"
        ]
        if whole:
            works.append(_of_whole(links[start], name, changing, expected))
        else:
            old = links[0].old_table[name]
            works.append(Work(name, tensors[name], changing, old, expected))
    return works


def _of_whole(origin: Link, name: str, changing: list[Link], expected: str) -> Work:
    """Return the work on a tensor that a link has whole: coded, it is a change of zeros."""
    record = origin.changes[name]
    if not record.parts:
        source = origin.patch.new_tensor(name)
        return Work(name, source, changing, origin.new_table[name], expected, origin)
    zeros = zeros_of(name, record.dtype, record.shape)
    return Work(name, zeros, [origin, *changing], None, expected, origin)


@dataclass
class Loaded:
    """A part of a tensor with its changes, as a native pass takes it."""

    work: Work
    number: int
    first: int
    n_elements: int
    changes: list[tuple[Link, PartChange]]
    is_last: bool

    @property
    def n_bytes(self) -> int:
        """The bytes of the changes."""
        return sum(one.n_bytes for _, one in self.changes)

    def task(self, job: int) -> PatchTask:
        """Return the part as a native task."""
        run = Slice(job=job, first=self.first, n_elements=self.n_elements)
        chain = []
        for link, one in self.changes:
            try:
                unit = DTYPES[self.work.source.dtype]
                chain.append(one.stored(link.coding, self.n_elements, unit))
            except InputError as error:
                raise link.damaged(self.work.name, self.number, error) from None
        return PatchTask(slice=run, chain=chain)


def load(works: Sequence[Work], max_bytes: int, threads: int) -> Iterator[list[Loaded]]:
    """Yield the parts of tensors with their changes, as many at a time as memory has room for.

    The next ones are read while the caller works on the last ones.

    Args:
        works: The tensors.
        max_bytes: Upper bound for memory.
        threads: The threads that decode.

    Raises:
        InputError: A patch is damaged.
        StorageError: A patch cannot be read.
    """
    most = min(max_bytes // _BATCH_SHARE, threads * _THREAD_BATCH_BYTES)
    return _ahead(_batches(works, most, threads))


def _batches(works: Sequence[Work], most: int, threads: int) -> Iterator[list[Loaded]]:
    batch: list[Loaded] = []
    held = covered = 0
    for work in works:
        parts = work.parts()
        for number, (first, n) in enumerate(parts):
            found = [(link, link.part(work.name, number, threads)) for link in work.links]
            changes = [(link, one) for link, one in found if one is not None]
            one = Loaded(work, number, first, n, changes, number + 1 == len(parts))
            if batch and (held + one.n_bytes > most or covered > _MOST_TENSOR_BYTES):
                yield batch
                batch, held, covered = [], 0, 0
            batch.append(one)
            held += one.n_bytes
            covered += n * DTYPES[work.source.dtype]
    if batch:
        yield batch


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items of which the next is made in a thread while the caller has the last."""
    end: Any = object()
    with Workers(1) as pool:
        coming: Future[Any] = pool.submit_undisturbed(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit_undisturbed(next, items, end)
            yield item


def apply_works(
    works: Sequence[Work],
    files: PlanFiles,
    outputs: Mapping[str, TensorInfo],
    limits: Limits,
    max_bytes: int,
    advance: Advance,
    check: Callable[[Work], object] = lambda work: None,
    *,
    with_old: bool = True,
) -> None:
    """Write tensors with their changes, and note the fingerprints of each.

    Args:
        works: The tensors.
        files: The open files, among them those that are written.
        outputs: The places of the results by name.
        limits: Threads and buffers.
        max_bytes: Upper bound for memory.
        advance: Is told of the bytes moved.
        check: Called with each tensor that is written, whose fingerprints are known then.
        with_old: Take the fingerprints of the old elements as well.

    Raises:
        InputError: A patch is damaged, and what ``check`` raises.
        StorageError: Reading or writing fails.
    """
    jobs = Jobs(files, outputs)
    for batch in load(works, max_bytes, limits.n_threads):
        done = apply_changes(
            plan=files.plan,
            tasks=[one.task(jobs.of(one.work)) for one in batch],
            limits=limits,
            with_old=with_old,
            progress=advance or None,
        )
        for one, patched in zip(batch, done, strict=True):
            one.work.add(patched.old, patched.new)
            if one.is_last:
                check(one.work)
    for work in works:
        if not work.parts():
            check(work)


class Jobs:
    """The native jobs of tensors, each made when it is first asked for."""

    def __init__(self, files: PlanFiles, outputs: Mapping[str, TensorInfo]) -> None:
        self._files, self._outputs = files, outputs
        self._numbers: dict[str, int] = {}

    def of(self, work: Work) -> int:
        """Return the number of the job of a tensor."""
        if work.name not in self._numbers:
            self._numbers[work.name] = len(self._numbers)
            outputs = [self._files.bits_place(self._outputs[work.name])] if self._outputs else []
            source = self._files.bits_place(work.source)
            self._files.plan.add_job(work.source.n_stored, [source], outputs)
        return self._numbers[work.name]
