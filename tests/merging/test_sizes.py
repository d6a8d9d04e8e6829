"""Memory of a merge, and bytes and elements beyond four GiB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tallies import _core
from tallies.engine.codes import KEEP_ALL
from tallies.spec.dtypes import DTYPE_CODES
from tests.reference.blend import disjoint_merge
from tests.reference.elect import elect_signs
from tests.reference.select import magnitude_bits
from tests.reference.sums import in_order_sum
from tests.reference.task_arithmetic import add_to_base, task_vectors
from tests.support import checkpoints
from tests.support.checkpoints import Array, write
from tests.support.merges import dyadic

# Sizes.


PEAKS = """
import sys
import tallies

root, method, scope = sys.argv[1:]
peaks = []
for size in ("small", "large"):
    base, *experts = (f"{root}/{size}-{i}.safetensors" for i in range(4))
    recipe = {"merge_method": method, "base_model": base, "models": [{"model": e} for e in experts]}
    if method == "ties":
        recipe["parameters"] = {"scope": scope, "equal": "first"}
    report = tallies.merge(recipe, f"{root}/{size}-{method}-{scope}", max_memory="64MiB", threads=2)
    peaks.append(report.peak_memory_bytes)
print(*peaks)
"""


@pytest.fixture(scope="module")
def four_hundred_megabytes() -> Iterator[Path]:
    """A base and three experts of 100 MB in two tensors each, and the same in small."""
    noise = np.random.default_rng(0).standard_normal(12_500_000, np.float32)
    with TemporaryDirectory() as name:
        for i in range(4):
            model = {"one": noise * (i + 1), "two": np.roll(noise, i)}
            write(Path(name, f"large-{i}.safetensors"), model)
            write(Path(name, f"small-{i}.safetensors"), {n: a[:1000] for n, a in model.items()})
        yield Path(name)


@pytest.mark.parametrize(
    ("method", "scope"), [("task_arithmetic", ""), ("ties", "model"), ("ties", "tensor")]
)
def test_memory_stays_within_the_budget(
    four_hundred_megabytes: Path, method: str, scope: str
) -> None:
    command = [sys.executable, "-c", PEAKS, str(four_hundred_megabytes), method, scope]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small <= 64 << 20
    # Not the peak of this process, which started that one and holds far more.
    assert small < 128 << 20


def write_at(path: Path, offset: int, array: Array) -> None:
    """Puts an array into a file of its own, behind a hole that takes no room on disk."""
    with open(path, "wb") as file:
        file.seek(offset)
        file.write(array.tobytes())


@pytest.mark.parametrize("dtype", ["F32", "F8_E4M3"])
def test_bytes_and_elements_beyond_four_gib(tmp_path: Path, dtype: str) -> None:
    """One tensor of more than 2**32 elements, of which the last thousand are merged."""
    kind = checkpoints.DTYPES[dtype]
    first, n = 2**32, 1000
    rng = np.random.default_rng(1)
    arrays = [dyadic(rng, n).astype(kind) for _ in range(3)]
    core = _core.Plan(True)
    places = []
    for i, array in enumerate(arrays):
        path = tmp_path / str(i)
        write_at(path, 64 + first * kind.itemsize, array)
        places.append((core.open_to_read(str(path)), 64, DTYPE_CODES[dtype]))
    out = tmp_path / "out"
    place = (core.open_to_write(str(out), 64), 64, DTYPE_CODES[dtype])
    core.add_job(first + n, places, [place])
    cutoff = first + n // 2
    floor = int(magnitude_bits(np.float32(0.25)))
    candidate = _core.Candidate(
        weights=[1.0, 1.0],
        floors=[KEEP_ALL, floor - 1],
        cutoffs=[first + n, cutoff],
        zero_sign=-1,
    )
    whole = _core.Slice(job=0, first=first, n_elements=n)
    (both,) = core.combine(
        tasks=[_core.CombineTask(job=whole, candidates=[candidate])],
        gate=1,
        vote=1,
        blend=3,
        fingerprints=True,
        limits=_core.Limits(2, 1 << 16),
    )
    (result,) = both.candidates
    deltas = task_vectors(arrays[0], arrays[1:])
    size = np.abs(deltas[1])
    deltas[1][(size < 0.25) | ((size == 0.25) & (np.arange(n) >= n // 2))] = 0
    merged = disjoint_merge(deltas, elect_signs(deltas, zero="negative"))
    expected = add_to_base(arrays[0], 1.0, merged)
    with open(out, "rb") as file:
        file.seek(64 + first * kind.itemsize)
        assert file.read() == expected.tobytes()
    (stretch,) = result.minus[0]
    assert first <= stretch[0] < sum(stretch) <= first + n
    assert (
        result.cancellations
        == ((deltas > 0).any(axis=0) & (deltas < 0).any(axis=0) & (in_order_sum(deltas) == 0)).sum()
    )
    for lanes, array in zip(both.inputs, arrays, strict=True):
        assert lanes == _core.fingerprint(array.ctypes.data, array.nbytes, first * kind.itemsize)
