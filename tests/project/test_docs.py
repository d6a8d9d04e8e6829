"""What the documentation says is so: its examples run, and what it points to is there."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tallies
from tallies import kernels
from tallies.cli import _pages as pages
from tallies.cli import group

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "csrc/README.md")]

# A mark on the line above a fence says that its commands take minutes, or the network.
FENCE = re.compile(r"^(<!-- long-running -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def module_names() -> list[str]:
    found = pkgutil.walk_packages(tallies.__path__, "tallies.")
    # Libraries, and what runs at once.
    others = ("__main__", "._cuda", "._torch", "._torch_cuda", ".libtallies")
    return ["tallies", *(one.name for one in found if not one.name.endswith(others))]


@pytest.mark.parametrize("name", module_names())
def test_doctests(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", [*kernels.__all__, "merge_state_dicts"])
def test_public_functions_have_an_example(name: str) -> None:
    module = tallies if name == "merge_state_dicts" else kernels
    assert ">>> " in (getattr(module, name).__doc__ or "")


def examples() -> Iterator[list[str]]:
    """The command of every block of the README that is to be run, in order."""
    for long, language, text in FENCE.findall((ROOT / "README.md").read_text()):
        if language == "python":
            yield [sys.executable, "-W", "error", "-c", text]
        elif language == "bash" and not long:
            yield ["bash", "-euo", "pipefail", "-c", text]


def test_readme_examples_run(tmp_path: Path) -> None:
    commands = list(examples())
    assert {Path(command[0]).name[:4] for command in commands} == {"pyth", "bash"}
    scripts = str(Path(sys.executable).parent)
    for command in commands:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"


def test_the_page_of_methods_is_what_they_state() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    assert page == pages.markdown(pages.described()), "run 'make docs'"


def test_readme_names_every_command_and_exit_status() -> None:
    text = (ROOT / "README.md").read_text()
    missing = [name for name in group.list_commands(None) if f"tallies {name}" not in text]  # type: ignore[arg-type, attr-defined]
    assert not missing
    for error in (tallies.InputError, tallies.StorageError):
        assert f"| {error.exit_status} |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_point_to_what_is_there(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    folders = "|".join(
        path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."
    )
    paths = re.findall(rf"`((?:{folders})/[\w./]*\w)`", text)
    gone = [link for link in links if not (page.parent / link).exists()]
    gone += [
        path for path in paths if not (ROOT / path).exists() and not (page.parent / path).exists()
    ]
    assert not gone
