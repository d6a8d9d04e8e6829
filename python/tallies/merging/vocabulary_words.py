"""Words the vocabulary of a result for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..messages import counted, some


def in_words(vocabulary: Mapping[str, Any]) -> str:
    """Return the plain data of a vocabulary as text."""
    named = vocabulary["tokenizer"]
    source = {"base": "that of the base", "union": "union"}.get(named, f"that of {named}")
    if not vocabulary["changed"]:
        return f"{source}, the same tokens in all models"
    parts = [source, f"{vocabulary['tokens']:,} tokens"]
    if added := vocabulary["added"]:
        parts.append(f"{len(added):,} new ({some(added)})")
    if averaged := vocabulary["averaged"]:
        parts.append(f"{counted(len(averaged), 'row')} averaged ({some(averaged)})")
    if zero := vocabulary["zero"]:
        parts.append(f"{counted(len(zero), 'row')} of zeros ({some(zero)})")
    if vocabulary["padding"]:
        parts.append(f"{counted(vocabulary['padding'], 'row')} of padding")
    return ", ".join(parts)
