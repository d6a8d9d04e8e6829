"""Word why two tensors of one name have other shapes, and the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .empty import GATHER
from .policy import Advice
from .tied import is_embedding, is_head

_CLASSES: Final = re.compile(
    r"(?:\A|[./])(?:classifier|classification_head|score|qa_outputs|cls_head|heads?|fc)\b"
)


def why_other_shape(name: str, found: Sequence[int], expected: Sequence[int], way: Advice) -> str:
    """Return the end of a message about a tensor's shape, from its punctuation on.

    Args:
        name: The name of the tensor.
        found: The shape in the model that the message is about.
        expected: The shape in the template.
        way: The ways out.
    """
    if 0 in found and 0 not in expected:
        return f": its weights are empty; {GATHER}"
    if 0 not in found and 0 in expected:
        return f", whose weights are empty; {GATHER}"
    rows = len(found) == len(expected) and found[:1] != expected[:1] and found[1:] == expected[1:]
    if rows and len(found) == 2 and (is_embedding(name) or is_head(name)):
        first, last = min(found[0], expected[0]), max(found[0], expected[0]) - 1
        who = "the former" if found[0] > expected[0] else "the latter"
        return (
            f": rows {first} to {last} are only in {who} (vocabularies of {found[0]} and "
            f"{expected[0]} tokens); {way.vocabulary}"
        )
    what = ""
    if rows and len(found) <= 2 and _CLASSES.search(name):
        what = f" (heads of {found[0]} and {expected[0]} classes)"
    return f"{what}; shapes must be equal, or {way.other_shape.format(name)}"
