"""Files stay short enough to be read at once: one idea a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rooms import CSRC, PACKAGE, ROOT

# The longest length of a file in lines, and the way out.
NATIVE = (350, "move a second idea into a header of its own in the same layer")
PYTHON = (300, "move a second idea into a module of its own in the same room")
TEST = (400, "split the tests by idea; helpers that both halves need go to tests/support")

LIMITS = {
    **{
        path: NATIVE
        for path in sorted(CSRC.rglob("*"))
        if path.suffix in (".h", ".cpp", ".cu", ".cmake")
    },
    **dict.fromkeys(sorted(PACKAGE.rglob("*.py")), PYTHON),
    **dict.fromkeys(sorted((ROOT / "tests").rglob("*.py")), TEST),
}


@pytest.mark.parametrize("path", LIMITS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short(path: Path) -> None:
    most, way_out = LIMITS[path]
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= most, f"{n_lines} lines, expected at most {most}; {way_out}"
