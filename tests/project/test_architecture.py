"""Who may include and import whom, and what the kernel objects export."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.cmake import build

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "tallies"

# The rooms of the package from top to bottom: a line imports only what stands below its own room.
ROOMS = (
    "__main__",
    "cli",
    "demo",
    "inspection",
    "torch",
    "store.restoring",
    "store.packing",
    "store.families",
    "store.codecs",
    "store",
    "kernels",
    "merging",
    "engine",
    "engine.surveys",
    "recipe",
    "methods",
    "checkpoint",
    "spec",
    "linalg",
    "cpu",
    "cuda",
    "sizes",
    "messages",
    "discovery",
    "floats",
    "errors",
    "_version",
    "_core",
)

# Rooms that share a storey: their modules import each other, without a cycle of modules.
ONE_STOREY = (
    {"store", "store.restoring", "store.packing", "store.families", "store.codecs"},
    {"engine", "engine.surveys"},
)

CALLS_NATIVE_CODE = {"engine", "kernels", "merging", "store", "torch", "cpu", "cuda", "inspection"}
WORKS_ON_ARRAYS = {"kernels", "inspection", "torch", "demo"}
WORKS_ON_TENSORS = {"torch", "demo"}

# What compilers call for copies and for __builtin_cpu_supports.
EXTERNAL = {
    "memcpy",
    "memmove",
    "memset",
    "__cpu_model",
    "__cpu_features2",
    "_GLOBAL_OFFSET_TABLE_",
}


# C++ includes, against the table of csrc/README.md


@cache
def layers() -> dict[str, tuple[list[str], str]]:
    """Layer -> what it may include of ours, and the words about other headers."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (CSRC / "README.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): (re.findall(r"`([^`]+)`", row[1]), row[2]) for row in rows}


def layer_of(path: str) -> str:
    """The layer that a path below csrc belongs to: that with the longest name."""
    return max((name for name in layers() if path.startswith(f"{name}/")), key=len)


def is_allowed(layer: str, header: str, *, system: bool) -> bool:
    ours, others = layers()[layer]
    if not system:
        return any(header == name or header.startswith(f"{name}/") for name in (layer, *ours))
    if f"`<{header}>`" in others:
        return True
    if "/" in header:
        return header.startswith("pybind11/") and "pybind11" in others
    return ("POSIX" if header.endswith(".h") else "C++ standard library") in others


def native_files() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu"))


def test_the_table_names_every_folder() -> None:
    folders = {str(path.parent.relative_to(CSRC)) for path in native_files()}
    assert folders == layers().keys()


@pytest.mark.parametrize("path", native_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_includes(path: Path) -> None:
    layer = layer_of(str(path.relative_to(CSRC)))
    includes = re.findall(r'^\s*#\s*include\s*(["<])([^">]+)', path.read_text(), re.MULTILINE)
    wrong = [
        header
        for bracket, header in includes
        if not is_allowed(layer, header, system=bracket == "<")
    ]
    assert not wrong, f"{layer} may not include {wrong}; see csrc/README.md"


@pytest.mark.parametrize(
    ("layer", "header", "system"),
    [
        ("core", "kernels/lanes.h", False),
        ("core", "pybind11/pybind11.h", True),
        ("core", "unistd.h", True),
        ("kernels", "vector", True),
        ("kernels", "algorithm", True),
        ("kernels", "cpu/ops.h", False),
        ("cpu", "kernels/lanes.h", False),
        ("cuda", "cpu/ops.h", False),
        ("cuda", "engine/plan.h", False),
        ("bind", "cuda/launch.h", False),
        ("stream", "cpu/ops.h", False),
        ("engine", "kernels/survey.h", False),
        ("engine", "cpu/dispatch.h", False),
        ("engine", "Python.h", True),
        ("bind", "kernels/survey.h", False),
        ("torch", "kernels/survey.h", False),
        ("torch", "torch/csrc/stable/library.h", True),
        ("torch", "pybind11/pybind11.h", True),
    ],
)
def test_what_the_table_forbids(layer: str, header: str, system: bool) -> None:
    assert not is_allowed(layer, header, system=system)


# Python imports


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def is_function(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def import_nodes(
    node: ast.AST, *, inside: bool, typing: bool = False
) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield import statements; those in functions with ``inside``, for checkers with ``typing``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif (inside or not is_function(child)) and (typing or not is_type_checking(child)):
            yield from import_nodes(child, inside=inside, typing=typing)


def imports(path: Path, *, inside: bool = False, typing: bool = False) -> set[str]:
    """Full names of the modules that a file imports."""
    name = module_name(path)
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found: set[str] = set()
    for node in import_nodes(ast.parse(path.read_text()), inside=inside, typing=typing):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        parent = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*parent, *((node.module,) if node.module else ())])
        modules = {f"{source}.{alias.name}" for alias in node.names} & python_modules().keys()
        found |= modules or {source}
    return found


def room_of(name: str) -> str:
    """The room of a module: that with the longest name."""
    path = name.removeprefix("tallies.")
    return max((room for room in ROOMS if f"{path}.".startswith(f"{room}.")), key=len)


def may_import(room: str, other: str) -> bool:
    """Whether a module of one room may import a module of another."""
    if room == other or any({room, other} <= storey for storey in ONE_STOREY):
        return True
    if other == "_core":
        return room.partition(".")[0] in CALLS_NATIVE_CODE
    return ROOMS.index(room) < ROOMS.index(other)


@pytest.mark.parametrize("name", sorted(python_modules().keys() - {"tallies"}))
def test_imports_point_downwards(name: str) -> None:
    ours = {
        m
        for m in imports(python_modules()[name], inside=True, typing=True)
        if m.startswith("tallies")
    }
    assert "tallies" not in ours, "the front door imports the rooms, and no room imports it"
    wrong = sorted(m for m in ours if not may_import(room_of(name), room_of(m)))
    assert not wrong, f"{room_of(name)} may not import {wrong}"


@pytest.mark.parametrize(
    ("room", "other"),
    [
        ("checkpoint", "engine"),
        ("spec", "methods"),
        ("methods", "recipe"),
        ("engine", "merging"),
        ("merging", "store"),
        ("store.codecs", "torch"),
        ("inspection", "cli"),
        ("recipe", "_core"),
        ("checkpoint", "_core"),
        ("cli", "_core"),
    ],
)
def test_imports_that_point_upwards_are_found(room: str, other: str) -> None:
    assert not may_import(room, other)


def test_no_module_hides_one_of_the_standard_library() -> None:
    assert not {path.stem for path in PACKAGE.iterdir()} & set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", python_modules())
def test_arrays_and_tensors_are_imported_late(name: str) -> None:
    roots = {module.partition(".")[0] for module in imports(python_modules()[name])}
    room = room_of(name).partition(".")[0] if name != "tallies" else ""
    assert "numpy" not in roots or room in WORKS_ON_ARRAYS
    assert "torch" not in roots or room in WORKS_ON_TENSORS


def test_only_main_imports_the_command_line() -> None:
    users = {
        name
        for name, path in python_modules().items()
        if not name.startswith("tallies.cli")
        and any(module.startswith("tallies.cli") for module in imports(path, inside=True))
    }
    assert users == {"tallies.__main__"}


METHODS = sorted((PACKAGE / "methods").glob("[!_]*.py"))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_is_one_short_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80, "what it solves for has a room of its own"


def test_imports_have_no_cycle() -> None:
    graph = {name: imports(path) for name, path in python_modules().items()}
    assert list(TopologicalSorter(graph).static_order())


def test_the_reference_needs_numpy_alone() -> None:
    roots: set[str] = set()
    for path in (ROOT / "tests" / "reference").glob("*.py"):
        for node in import_nodes(ast.parse(path.read_text()), inside=True):
            if isinstance(node, ast.Import):
                roots.update(alias.name.partition(".")[0] for alias in node.names)
            elif node.level == 0:
                roots.add(str(node.module).partition(".")[0])
    assert "numpy" in roots
    assert roots <= {"numpy", *sys.stdlib_module_names}


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


# The objects of the kernels


@pytest.fixture(scope="module")
def target_objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The kernels compiled for every instruction set with the flags of CMakeLists.txt."""
    import pybind11

    folder = tmp_path_factory.mktemp("objects")
    options: dict[str, str | Path] = {
        "CMAKE_BUILD_TYPE": "Release",
        "SKBUILD_PROJECT_VERSION": "0",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
        "TALLIES_WERROR": "ON",
        "TALLIES_CUDA": "OFF",
    }
    build(ROOT, folder, "tallies_targets", options)
    return sorted(folder.rglob("targets/*.o"))


def test_kernel_objects_export_their_table_alone(target_objects: list[Path]) -> None:
    assert target_objects
    for path in target_objects:
        listing = subprocess.run(
            ["nm", "-C", path], capture_output=True, text=True, check=True
        ).stdout
        symbols = [re.match(r"[0-9a-f ]{16} (\S) (.*)", line) for line in listing.splitlines()]
        kinds: dict[str, list[str]] = {}
        for symbol in symbols:
            assert symbol is not None, listing
            kinds.setdefault(symbol[1], []).append(symbol[2])
        table = f"tallies::{path.name.partition('.')[0]}_table"
        exported = [name for kind, names in kinds.items() if kind.isupper() for name in names]
        assert set(exported) - EXTERNAL == {table}, path.name
        assert kinds.keys() <= set("DRUbdrt"), (
            f"{path.name} has weak or odd symbols: {kinds.keys()}"
        )
        assert set(kinds.get("U", [])) <= EXTERNAL, path.name
