"""A codec of a new family is two files: one states the codec, the other its family."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tallies import InputError, Store, pack
from tallies.inspection.verify import verify
from tallies.store import add, codecs, consensus, families, remove
from tallies.store.codecs import registry as known_codecs
from tallies.store.families import registry as known_families
from tallies.torch import store_deltas
from tests.support.checkpoints import assert_same_tensors, read
from tests.support.stores import BASE, assert_refused, expert, flip

CODEC = '''
"""Whole matrices, as they are."""

from ._codec import Codec


class Verbatim(Codec):
    """The expert's own matrices."""

    name = "verbatim"
    formula = "f_t ~ f_t"
    paper = "none"
    family = "copies"
    mask = None

    @classmethod
    def is_coded(cls, name, shape, parameters):
        return len(shape) == 2
'''

FAMILY = '''
"""The family of copies."""

import ctypes

from ...checkpoint.data import chunks
from ...engine.fingerprints import content, content_of
from .family import Family


class Copies(Family):
    """The tensor NAME of each tensor and task."""

    name = "copies"
    kind = "copy"

    def entries(self, tensor):
        return [(tensor.name, tensor.dtype, tensor.shape)]

    def pack(self, job):
        n_set = [0] * len(job.files)
        for name, sources in job.tensors.items():
            for i, file in enumerate(job.files):
                data = b"".join(map(bytes, chunks(sources[1 + i])))
                job.write(file, name, data, content_of(data))
                n_set[i] += sources[1 + i].n_elements
            job.record.note_read(name, sources, [content(one) for one in sources])
        return n_set, [1.0] * len(job.tasks)

    def restore(self, task, files, outputs, limits, progress=None):
        restored = {}
        for name, places in outputs.items():
            stored = task.own[name]
            data = b"".join(map(bytes, chunks(stored)))
            restored[name] = content_of(data)
            task.check(stored, restored[name])
            for file, offset, _ in places:
                if file < 0:
                    ctypes.memmove(offset, data, len(data))
                else:
                    files.plan.write(file, data, offset)
        return restored
'''


@pytest.fixture
def verbatim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Lay one file beside the codecs and one beside the families."""
    for package, name, text in ((codecs, "verbatim", CODEC), (families, "copies", FAMILY)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
    known_codecs._codecs.cache_clear()
    known_families._families.cache_clear()
    yield "verbatim"
    known_codecs._codecs.cache_clear()
    known_families._families.cache_clear()


def test_it_packs_restores_and_switches(verbatim: str, models: Path, tmp_path: Path) -> None:
    assert verbatim in known_codecs.names()
    root = tmp_path / "store"
    report = pack(models / "base", {"a": models / "a"}, root, codec=verbatim)
    assert (report.tensors_masked, report.tensors_dense) == (2, 1)
    store = Store.open(root)
    assert store.manifest.tensors["layer.weight"].kind == "copy"
    assert_same_tensors(store.load("a"), expert(1))
    assert store.unpack("a", tmp_path / "out").exact
    assert_same_tensors(read(tmp_path / "out"), expert(1))
    assert verify(root)["kind"] == "store"

    (deltas,) = store_deltas(store)
    expected = expert(1)["layer.weight"].astype(np.float32) - BASE["layer.weight"]
    assert torch.equal(deltas["layer.weight"].dense(), torch.from_numpy(expected))

    add(root, "b", models / "b")
    assert_same_tensors(Store.open(root).load("b"), expert(2))
    remove(root, "a")
    assert Store.open(root).tasks == ("b",)
    with pytest.raises(InputError, match="verbatim keeps no masks; nothing to count"):
        consensus(root)


def test_its_damage_is_found(verbatim: str, models: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    pack(models / "base", {"a": models / "a"}, root, codec=verbatim)
    flip(root / "tasks" / "a.safetensors", "layer.weight", 3, 1)
    store = Store.open(root)
    words = "layer.weight' is damaged"
    assert_refused(lambda: store.load("a"), words)
    assert_refused(lambda: verify(root), words)


def test_without_its_files_nobody_knows_it() -> None:
    assert "verbatim" not in known_codecs.names()
    assert known_codecs.names()[:9] == [
        *("tall", "emr", "magnitude", "sparse", "lossless", "lora", "bitdelta", "tsv_c", "twin")
    ]
    assert {"masked", "sparse", "low_rank", "changes"} <= {*known_families._families()}
    assert "copies" not in known_families._families()
