"""The package and its public names are imported lazily."""

from __future__ import annotations

import subprocess
import sys

import pytest


def in_fresh_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["tallies", "tallies.checkpoint.checkpoint", "tallies.cli"])
def test_importing_leaves_the_heavy_libraries_out(module: str) -> None:
    in_fresh_python(
        f"import sys, {module}\n"
        "assert not {*sys.modules} & {'numpy', 'torch', 'pydantic', 'safetensors', 'sklearn'}"
    )


def test_public_names_are_taken_lazily() -> None:
    in_fresh_python(
        "import sys, tallies\n"
        "assert {m for m in sys.modules if m.startswith('tallies.')} <= "
        "{'tallies._version', 'tallies.errors'}, sys.modules.keys()\n"
        "for name in tallies.__all__:\n"
        "    assert getattr(tallies, name) is not None, name\n"
        "from tallies import merge, plan\n"
        "assert callable(merge) and callable(plan)\n"
        "assert not {*sys.modules} & {'torch', 'sklearn'}\n"
    )


def test_the_front_door_lists_and_resolves_its_modules() -> None:
    modules = ["cpu", "cuda", "inspection", "kernels", "methods", "store", "torch"]
    in_fresh_python(
        "import tallies\n"
        f"assert {modules} == [n for n in dir(tallies) if n in {modules}]\n"
        "assert {*tallies.__all__} < {*dir(tallies)}\n"
        "assert tallies.methods.get('ties').name == 'ties'\n"
        "assert tallies.torch.TaskSwitcher.__module__ == 'tallies.torch.task_switcher'\n"
        "assert [getattr(tallies, n).__name__ for n in dir(tallies) if n in "
        f"{modules}] == ['tallies.' + n for n in {modules}]\n"
        "assert not hasattr(tallies, 'recipes')\n"
    )
