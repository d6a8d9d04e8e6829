"""The native library of the operators: what it needs of torch, and what it says without it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tallies import _core
from tallies.torch import ops

CSRC = Path(__file__).parents[2] / "csrc"
HOME = Path(_core.__file__).parent
REGISTER = "tallies_torch_register"


def compiled(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The compiler's word on a file that sees our sources and torch's headers."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None, "needs a C++ compiler, which built the package"
    path = folder / "unit.cpp"
    path.write_text(source)
    headers = Path(torch.__file__).parent / "include"
    command = [compiler, "-std=c++20", "-fsyntax-only", f"-I{CSRC}", "-isystem", str(headers)]
    return subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)


# Torch's headers come first by their full names: "torch/..." names a folder of ours as well.
SHIMS = """
#define USE_CUDA
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
"""


def test_the_declarations_are_those_of_torch(tmp_path: Path) -> None:
    done = compiled(SHIMS + '#include "torch/abi.h"\n', tmp_path)
    assert done.returncode == 0, done.stderr


def test_another_declaration_would_not_compile(tmp_path: Path) -> None:
    wrong = 'extern "C" AOTITorchError aoti_torch_get_dim(AtenTensorHandle, int32_t*);\n'
    done = compiled(SHIMS + wrong, tmp_path)
    assert done.returncode != 0 and "aoti_torch_get_dim" in done.stderr


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"^tallies\.torch: _torch\.so is missing.*TALLIES_TORCH"):
        ops.load(tmp_path / "_torch.so", REGISTER)


def test_an_old_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"found torch 2\.9\.1\+cpu, expected 2\.10 or newer"):
        ops.load(HOME / "_torch.so", REGISTER)


def test_a_library_that_does_not_load_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "_torch.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(ImportError, match=r"^tallies\.torch: _torch\.so does not fit torch"):
        ops.load(broken, REGISTER)


def test_a_library_of_something_else_is_refused() -> None:
    with pytest.raises(ImportError, match=r"_torch\.so does not fit torch .*no_such_function"):
        ops.load(HOME / "_torch.so", "no_such_function")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_does_not_load_the_operators_of_its_tensors() -> None:
    with pytest.raises(ImportError, match=r"_torch_cuda\.so does not fit torch .*libtorch_cuda"):
        ops.load(HOME / "_torch_cuda.so", "tallies_torch_cuda_register")


def test_registering_again_is_an_import_error_and_no_abort() -> None:
    code = (
        "import tallies.torch.ops as ops\n"
        "try:\n"
        f"    ops.load(ops.Path(ops.native.__file__).parent / '_torch.so', '{REGISTER}')\n"
        "except ImportError as error:\n"
        "    assert 'refused the operators' in str(error), error\n"
        "    print('refused')\n"
        "import torch\n"
        "assert torch.ops.tallies.trim(torch.ones(3), 1.0).tolist() == [1, 1, 1]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"


@pytest.mark.parametrize(
    ("library", "torch_libraries"),
    [
        ("_torch.so", {"libtorch_cpu.so"}),
        ("_torch_cuda.so", {"libtorch_cpu.so", "libtorch_cuda.so"}),
    ],
)
def test_a_library_needs_torch_only_by_name(library: str, torch_libraries: set[str]) -> None:
    readelf = shutil.which("readelf")
    assert readelf is not None, "needs binutils"
    listing = subprocess.run(
        [readelf, "-d", HOME / library], capture_output=True, text=True, check=True
    ).stdout
    needed = {
        line.rpartition("[")[2].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line
    }
    assert {"libtallies.so", *torch_libraries} <= needed
    others = needed - torch_libraries
    assert not {name for name in others if re.search("python|libtorch|cuda", name)}
    assert "$ORIGIN]" in listing
