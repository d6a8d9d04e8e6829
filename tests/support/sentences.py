"""The sentences of docstrings and comments, with the lines on which they begin."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

Sentence = tuple[int, str]


def of_python(source: str) -> Iterator[Sentence]:
    """Yield the sentences of docstrings, of texts below a field, and of comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                for paragraph in re.split(r"\n\s*\n", text):
                    yield from _of_text(node.lineno, paragraph)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [(one.start[0], one.string) for one in tokens if one.type == tokenize.COMMENT]
    yield from _of_comments((line, text.lstrip("#: ")) for line, text in comments)


def of_native(source: str) -> Iterator[Sentence]:
    """Yield the sentences of comments in C++ and CUDA."""
    found = ((n, re.search(r"//\s*(.*)", line)) for n, line in enumerate(source.splitlines(), 1))
    yield from _of_comments((n, match[1]) for n, match in found if match is not None)


def _of_comments(lines: Iterator[Sentence]) -> Iterator[Sentence]:
    """Join comments on lines that follow each other, and yield their sentences."""
    first, last, joined = 0, -1, ""
    for line, text in lines:
        if line == last + 1:
            joined += f" {text}"
        else:
            yield from _of_text(first, joined)
            first, joined = line, text
        last = line
    yield from _of_text(first, joined)


def _of_text(line: int, text: str) -> Iterator[Sentence]:
    """Yield the sentences of a text; the words after a colon, such as an argument's, are one."""
    for sentence in re.split(r"(?<=[.:!?])\s+", text.strip()):
        yield line, " ".join(sentence.split())
