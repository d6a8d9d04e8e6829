"""The family of frames: every tensor of a task, entropy coded, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core import Limits
from ...checkpoint.data import same_tensor
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...coding import zstandard
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import tensor_fingerprint
from ._lossless_layout import blocks_name, entries_of
from ._lossless_packing import Pair, pack_task, refuse_names
from ._lossless_unpacking import elements, unpack
from .family import Family, Moved, StoredTask
from .job import PackJob


class LosslessFamily(Family):
    """The frames NAME of each tensor that a task changed, and the table NAME::blocks of its blocks.

    A row of the table has how a block is coded (a number of ``Fields``, and 16 more where the
    base's elements count), the bytes of each of its frames, and 32 bits of a check of its elements.
    Nothing is shared: the file of a task does not depend on the others.
    """

    name = "lossless"
    kind = "coded"
    reads_decoded = True

    def check_request(self, tensors: Sequence[TensorInfo], max_memory: int) -> None:
        zstandard("codec 'lossless'")
        refuse_names({one.name: one for one in tensors})

    def entries(self, tensor: TensorInfo) -> list[Entry]:
        # The frames' bytes are known once they are coded.
        return entries_of(tensor, 0)

    def stored_entries(self, task: StoredTask, name: str) -> list[Entry]:
        frames = task.own.get(name)
        return entries_of(task.restored(name), frames.n_bytes if frames is not None else 0)

    def pack(self, job: PackJob) -> tuple[list[int], list[float]]:
        n_kept = []
        seen: dict[str, list[int]] = {}
        for i, file in enumerate(job.files):
            pairs = {
                name: Pair(sources[1 + i], sources[0])
                for name, sources in job.tensors.items()
                if not same_tensor(sources[0], sources[1 + i])
            }
            pairs |= {name: Pair(one, job.base_of(one)) for name, one in job.own[i].items()}
            refuse_names(pairs)
            alike = _alike(job, pairs, seen, i)
            for name, first in alike.items():
                del pairs[name]
                job.record.prints[1 + i][name] = job.record.prints[1 + first][name]
            if alike:
                job.record.borrowed[file] = {name: job.files[j] for name, j in alike.items()}
            done = pack_task(job, pairs, job.directory / file)
            job.record.add_file(file, done.n_bytes)
            job.record.checksums[file].update(done.checksums)
            for name, lanes in done.base.items():
                base = pairs[name].base
                assert base is not None
                job.record.prints[0][name] = tensor_fingerprint(base, lanes)
            job.record.prints[1 + i].update(
                {
                    name: tensor_fingerprint(pairs[name].expert, lanes)
                    for name, lanes in done.expert.items()
                }
            )
            n_kept.append(sum(one.expert.n_elements for one in pairs.values()))
        return n_kept, [1.0] * len(job.tasks)

    @property
    def stores_equal_once(self) -> bool:
        return True

    def parts(self, name: str) -> list[str]:
        return [name, blocks_name(name)]

    def restore(
        self,
        task: StoredTask,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        zstandard("codec 'lossless'")
        return unpack(task, files, outputs, limits, progress)

    def restore_range(self, task: StoredTask, name: str, first: int, out: memoryview) -> None:
        zstandard("codec 'lossless'")
        elements(task, name, first, out)


def _alike(
    job: PackJob, pairs: Mapping[str, Pair], seen: dict[str, list[int]], task: int
) -> dict[str, int]:
    """Return for each tensor of a task that an earlier one has alike the number of that task.

    Args:
        job: The packing.
        pairs: The tensors of the task.
        seen: By name, the tasks whose files have a tensor of it; this task's others are added.
        task: The number of the task.
    """
    found = {}
    for name, pair in pairs.items():
        for other in seen.setdefault(name, []):
            if same_tensor(_expert(job, other, name), pair.expert):
                found[name] = other
                break
        else:
            seen[name].append(task)
    return found


def _expert(job: PackJob, task: int, name: str) -> TensorInfo:
    own = job.own[task].get(name)
    return job.tensors[name][1 + task] if own is None else own
