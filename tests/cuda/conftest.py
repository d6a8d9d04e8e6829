"""The kernels' table and the operators, on a device and emulated on the processor.

The emulator (tests/emulator) runs the kernels' own sources, with every thread and every block in
turn. The emulator holds the arithmetic, the indexing, the tails, the alignment of loads, the
reductions, the order of kernels and their workspaces to the specification; a call that copies,
waits or allocates by itself is an error there. The emulator cannot show races between threads or
blocks, late writes that the memory model allows, faults of the device's compiler, streams, the
caching allocator and speed: ``pytest -m cuda`` runs the same tests on a device.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tallies import _core, cuda
from tallies.torch import ops
from tests.support.cuda_place import Place, skip_without_device
from tests.support.cuda_table import CudaTable

PLACES = ["emulated", pytest.param("device", marks=pytest.mark.cuda)]


@pytest.fixture(scope="module")
def emulated(emulator: Path) -> Path:
    return emulator / "libcuda_emulated.so"


@pytest.fixture(scope="module", params=PLACES)
def table(request: pytest.FixtureRequest) -> CudaTable:
    if request.param == "emulated":
        return CudaTable(request.getfixturevalue("emulated"))
    problem = cuda.problem()
    if problem is not None:
        pytest.skip(problem)
    return CudaTable(Path(_core.__file__).parent / "_cuda.so")


@pytest.fixture(scope="session", params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "emulated":
        library = request.getfixturevalue("emulator") / "libtorch_emulated.so"
        ops.load(library, "tallies_torch_emulated_register")
        return Place(torch.ops.tallies_emulated, "cpu")
    skip_without_device()
    return Place(torch.ops.tallies, "cuda")


@pytest.fixture
def device() -> Place:
    skip_without_device()
    return Place(torch.ops.tallies, "cuda")
