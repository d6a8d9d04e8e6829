"""The rooms of the package, the modules in them, and the modules that each imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "tallies"

# The rooms of the package from top to bottom: a line imports only what stands below its own room.
ROOMS = (
    "__main__",
    "cli",
    "demo",
    "integrations",
    "inspection",
    "torch",
    "store.restoring",
    "store.packing",
    "store.families",
    "store.codecs",
    "store",
    "patches",
    "kernels",
    "merging",
    "lora",
    "moe",
    "engine",
    "engine.surveys",
    "recipe",
    "methods",
    "hub",
    "vocabulary",
    "checkpoint.adapters",
    "checkpoint",
    "spec",
    "coding",
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
    {"checkpoint", "checkpoint.adapters"},
    {"merging", "lora", "moe"},
)

CALLS_NATIVE_CODE = {
    "coding",
    "engine",
    "kernels",
    "merging",
    "lora",
    "moe",
    "patches",
    "store",
    "torch",
    "cpu",
    "cuda",
    "inspection",
}
WORKS_ON_ARRAYS = {"kernels", "inspection", "patches", "torch", "demo"}
WORKS_ON_TENSORS = {"torch", "demo"}


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
    """Return the full names of the modules that a file imports."""
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
    """Return the room with the longest name that a module's name begins with."""
    path = name.removeprefix("tallies.")
    return max((room for room in ROOMS if f"{path}.".startswith(f"{room}.")), key=len)


def may_import(room: str, other: str) -> bool:
    """Tell whether a module of one room may import a module of another."""
    if room == other or any({room, other} <= storey for storey in ONE_STOREY):
        return True
    if other == "_core":
        return room.partition(".")[0] in CALLS_NATIVE_CODE
    return ROOMS.index(room) < ROOMS.index(other)
