"""A packing in which each task is packed by itself, into a file whose size only its data tell."""

from __future__ import annotations

from pathlib import Path

from ..files import same_tensor
from . import sparse_files
from .manifest import Manifest
from .pack_run import PackRun


class SparseRun(PackRun):
    """One packing of sparse task vectors."""

    def write(self, directory: Path) -> Manifest:
        made = self._plan
        n_set = []
        for i, (_, _, file) in enumerate(made.masks):
            # What the task itself changed: its file does not depend on the others.
            sources = {name: made.sources(name) for name in made.masked}
            own = {
                name: one[0] for name, one in sources.items() if not same_tensor(one[0], one[1 + i])
            }
            packed = sparse_files.pack(
                own,
                {name: sources[name][1 + i] for name in own},
                directory / file,
                made.parameters,
                self._limits,
                refuse_nonfinite=self._stop,
                progress=self._advance if self._progress else None,
            )
            self.record.checksums[file] = packed.checksums
            self.record.file_bytes[file] = packed.n_bytes
            self.record.prints[0].update(packed.base)
            self.record.prints[1 + i].update(packed.expert)
            n_set.append(sum(packed.n_set.values()))
        self.record.note_unpacked()
        return self.record.manifest(n_set, [1.0] * len(made.masks))
