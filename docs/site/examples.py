"""Show the examples of docstrings, lines from ``>>>`` on, as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Fence examples outside of a section: Markdown would read them as quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples of one object's docstring."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(
                lambda example: f"```pycon\n{_without_directives(example[0])}\n```",
                obj.docstring.value,
            )


def _without_directives(example: str) -> str:
    return re.sub(r" +# doctest: .*", "", example)
