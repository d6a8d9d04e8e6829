"""The documentation holds: its examples run, its links and paths exist, and its words are plain."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import tallies
from tallies import kernels
from tallies.cli import _pages as pages
from tallies.cli import group

ROOT = Path(__file__).parents[2]
USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = ROOT / "docs" / "methods.md"
PAGES = [
    *USER_PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "csrc/README.md")),
    ROOT / "bench" / "README.md",
]

# A mark on the line above a fence: its commands take minutes or need the network, or it makes the
# checkpoints that the examples of all pages work on.
FENCE = re.compile(
    r"^(?:<!-- (long-running|checkpoints|hosts) -->\n)?```(\w+)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def module_names() -> list[str]:
    found = pkgutil.walk_packages(tallies.__path__, "tallies.")
    # Libraries, and the module that runs the program.
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


def examples(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of each block of a page that is to be run, in order."""
    for mark, language, text in FENCE.findall(page.read_text()):
        if language in ("python", "bash") and not mark:
            yield language, text


def run_example(language: str, text: str, folder: Path) -> str:
    """Run one block in a folder, and return what it prints.

    ``tallies`` is the program of the package under test.
    """
    program = f'tallies() {{ "{sys.executable}" -m tallies "$@"; }}'
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text]
        if language == "python"
        else ["bash", "-euo", "pipefail", "-c", f"{program}\n{text}"],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three small checkpoints, made by the block of docs/start.md."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (text,) = (
        text
        for mark, _, text in FENCE.findall((ROOT / "docs" / "start.md").read_text())
        if mark == "checkpoints"
    )
    run_example("python", text, folder)
    return folder


# The warnings that examples show on purpose; readers who copy the others see none.
WARNINGS = {
    "docs/cuda.md": ("merged on the processor instead",),
    "docs/inputs.md": ("float8 tensors as value times scale",),
    "docs/lora.md": ("changed tensors left as in the base",),
    "docs/moe.md": ("the gates are random",),
    "docs/stores.md": ("all tasks were packed again",),
}


@pytest.mark.parametrize("page", [page for page in USER_PAGES if any(examples(page))], ids=name_of)
def test_examples_run(page: Path, checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    for language, text in examples(page):
        lines = run_example(language, text, tmp_path).splitlines()
        warnings = [line for line in lines if line.startswith("warning")]
        told = WARNINGS.get(name_of(page), ())
        assert [one for one in warnings if not any(word in one for word in told)] == [], text


def test_pages_with_commands_have_examples() -> None:
    having = {name_of(page) for page in USER_PAGES if any(examples(page))}
    assert having >= {
        "README.md",
        *(f"docs/{name}.md" for name in ("start", "recipes", "inputs", "kinds", "stores", "torch")),
        *(f"docs/{name}.md" for name in ("guarantees", "cuda")),
    }


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_page_of_methods_is_what_they_state() -> None:
    assert GENERATED.read_text() == pages.markdown(pages.described()), "run 'make docs'"


@pytest.mark.parametrize("page", USER_PAGES, ids=name_of)
def test_no_page_counts_what_grows(page: Path) -> None:
    number = r"(?:\d+|six|seven|eight|nine|ten|eleven|twelve)"
    assert not re.search(rf"(?i)\b{number} (?:methods|codecs|commands)\b", page.read_text())


def test_pages_name_every_command_and_exit_status() -> None:
    text = "".join(page.read_text() for page in USER_PAGES)
    missing = [name for name in group.list_commands(None) if f"tallies {name}" not in text]  # type: ignore[arg-type, attr-defined]
    assert not missing
    for error in (tallies.InputError, tallies.StorageError):
        assert f"| {error.exit_status} |" in text


def test_the_index_and_the_site_have_every_page() -> None:
    index, readme, site = (
        (ROOT / name).read_text() for name in ("docs/index.md", "README.md", "mkdocs.yml")
    )
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in site
        assert page.name == "index.md" or f"]({page.name})" in index
        assert page.name in ("index.md", "api.md") or f"](docs/{page.name})" in readme


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_point_to_what_is_there(page: Path) -> None:
    text = page.read_text()
    gone = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and (
            not target.exists() or (anchor and anchor not in anchors(target))
        ):
            gone.append(link)
    folders = "|".join(
        path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."
    )
    paths = re.findall(rf"`((?:{folders})/[\w./]*\w)`", text)
    gone += [
        path
        for path in paths
        if Path(path).stem not in ("x", "test_x")  # stand for names
        and not (ROOT / path).exists()
        and not (page.parent / path).exists()
    ]
    assert not gone


def test_links_of_the_site_reach_every_page() -> None:
    outside = runpy.run_path(str(ROOT / "docs" / "site" / "outside.py"))
    sources = {f"docs/{page.name}": page.name for page in (ROOT / "docs").glob("*.md")}
    sources |= {source: target for source, target in outside["PAGES"].items() if "/" in target}
    linked = set()
    for source, target in sources.items():
        page = SimpleNamespace(file=SimpleNamespace(src_uri=target))
        text = outside["on_page_markdown"]((ROOT / source).read_text(), page)
        for link in re.findall(r"(?<!!)\[[^\]]+\]\(([^)#\s]+)", text):
            if "://" not in link:
                linked.add(os.path.normpath(Path(target).parent / link))
    assert linked == set(sources.values()) - {"index.md"}


# Openings after which a reader has to look for the noun.
OPENING = re.compile(
    r"(?:^(?:[*|-] |\d\. )?|[.!?:] )((?:What|That of|Of|Whether|Where)\b[^\n]{,60})", re.MULTILINE
)


def prose(page: Path) -> str:
    """Return a page without its blocks of code; wrapped lines are joined."""
    text = FENCE.sub("", page.read_text())
    return re.sub(r"(?<=[^\n])\n(?=[^\n*|#>-])", " ", text)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in (GENERATED, ROOT / "csrc" / "README.md")],
    ids=name_of,
)
def test_sentences_open_with_their_subject(page: Path) -> None:
    assert not OPENING.findall(prose(page))


@pytest.mark.parametrize("text", ["Of all.", "Yes. What is it", "Yes.\n\nWhether so", "* Where it"])
def test_openings_that_are_refused(text: str) -> None:
    assert OPENING.search(text)
