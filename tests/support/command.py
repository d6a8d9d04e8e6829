"""The command line in this process, and files as they were before it ran."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from tallies.cli import main

COMMAND = [sys.executable, "-m", "tallies"]


class Ended(NamedTuple):
    """A command that came to its end."""

    status: int
    out: str
    err: str


def tallies(*arguments: object) -> Ended:
    """Run a command to its end; nothing that it prints gets out."""
    out, err = io.StringIO(), io.StringIO()
    status: object = None
    with (
        mock.patch.object(sys, "argv", ["tallies", *map(str, arguments)]),
        mock.patch.dict(os.environ, TALLIES_DEBUG="0"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int)
    return Ended(status, out.getvalue(), err.getvalue())


def ties(*models: object, base: object = "base", out: object = "out", more: str = "") -> list[str]:
    """Arguments of a TIES merge, and ``more`` of them."""
    chosen = [f"--model={model}" for model in models]
    return ["merge", "--method=ties", f"--base={base}", *chosen, f"--out={out}", *more.split()]


def assert_failed(ended: Ended, status: int) -> str:
    """One line on standard error and nothing else; that line."""
    assert (ended.status, ended.out) == (status, "")
    assert ended.err.startswith("tallies: ")
    assert ended.err.endswith("\n")
    assert len(ended.err.splitlines()) == 1
    assert "internal error" not in ended.err
    return ended.err.strip()


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Everything below a directory by relative path, hidden or not.

    Contents of files, targets of links, None for directories.
    """

    def what(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(root)): what(path) for path in sorted(root.rglob("*"))}
