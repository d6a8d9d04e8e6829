"""No sentence of a docstring or comment opens with a word that hides its subject."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.rooms import CSRC, PACKAGE, ROOT
from tests.support.sentences import of_native, of_python

VAGUE = re.compile(r"(What|That of|Of|Whether|Where)\b")

FILES = [
    *sorted(path for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi")),
    *sorted(path for room in ("tests", "bench") for path in (ROOT / room).rglob("*.py")),
    *sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu")),
]


def vague_sentences(path: Path) -> list[str]:
    sentences = (of_python if path.suffix.startswith(".py") else of_native)(path.read_text())
    return [
        f"{path.relative_to(ROOT)}:{line}: {text}" for line, text in sentences if VAGUE.match(text)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_open_with_their_subject(path: Path) -> None:
    found = vague_sentences(path)
    advice = "begin with a verb or with the noun that the sentence is about"
    assert not found, "\n".join([advice, *found])


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""What passes do."""', 1),
        ('x = 1\n"""Of a block."""', 2),
        ('"""Return it.\n\n    Of equal values, the first.\n    """', 1),
        ('def f(x):\n    """Do.\n\n    Args:\n        x: Whether it is.\n    """', 2),
        ("x = 1  # Where it lies.", 1),
        ("# A sentence.\n# What follows is one.", 1),
    ],
)
def test_vague_sentences_of_python_are_found(source: str, line: int) -> None:
    assert [n for n, text in of_python(source) if VAGUE.match(text)] == [line]


def test_vague_sentences_of_native_code_are_found() -> None:
    source = "int n;  // What is left.\n\n// Ends here. Whether\n// there is one.\nint m; // where"
    assert [n for n, text in of_native(source) if VAGUE.match(text)] == [1, 3]
