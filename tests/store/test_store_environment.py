"""The caller's flush-to-zero mode changes no byte of a store or of a restored task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tallies import Store, pack
from tallies.torch import store_deltas
from tests.support.checkpoints import assert_same_tensors, read, write
from tests.support.command import tree

CODECS = ("tall", "emr", "magnitude", "sparse", "bitdelta", "tsv_c", "twin")


@contextmanager
def flushing() -> Iterator[None]:
    """Flush subnormals to zero in this thread, and check that the machine does."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        assert np.float32(1e-40) * np.float32(1) == 0
        yield
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("codec", CODECS)
def test_subnormals_are_packed_and_restored_as_they_are(tmp_path: Path, codec: str) -> None:
    """Base and task vectors are around the smallest normal float32."""
    rng = np.random.default_rng(3)
    scale = float(np.finfo(np.float32).tiny)
    models = {
        name: {
            "w": (rng.standard_normal((70, 66)) * scale).astype(np.float32),
            "b": (rng.standard_normal(40) * scale).astype(np.float32),
        }
        for name in ("base", "a", "b")
    }
    for name, model in models.items():
        write(tmp_path / name, model)
    tasks = {"a": tmp_path / "a", "b": tmp_path / "b"}
    pack(tmp_path / "base", tasks, tmp_path / "store", codec=codec)
    packed = tree(tmp_path / "store")
    expected = {task: Store.open(tmp_path / "store").load(task) for task in tasks}
    dense = [
        {name: one.dense().numpy().tobytes() for name, one in deltas.items()}
        for deltas in store_deltas(Store.open(tmp_path / "store"))
    ]
    assert any(
        0 < abs(x) < scale for model in expected.values() for x in model["w"].ravel().tolist()
    )

    with flushing():
        pack(tmp_path / "base", tasks, tmp_path / "store", codec=codec, overwrite=True)
        store = Store.open(tmp_path / "store")
        found = {task: store.load(task) for task in tasks}
        one = store.tensor("a", "w")
        deltas = [
            {name: one.dense().numpy().tobytes() for name, one in deltas.items()}
            for deltas in store_deltas(store)
        ]
        store.unpack("b", tmp_path / "out")
    assert tree(tmp_path / "store") == packed
    for task, model in expected.items():
        assert_same_tensors(found[task], model)
    assert one.tobytes() == expected["a"]["w"].tobytes()
    assert deltas == dense
    assert_same_tensors(read(tmp_path / "out"), expected["b"])
