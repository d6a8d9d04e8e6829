"""Model cards: ``README.md`` beside a model, with YAML at its head that the Hub reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

NAME: Final = "README.md"
RECIPE_NAME: Final = "mergekit_config.yml"
"""The name that mergekit gives the recipe of a result, beside the result."""
_FRONT_MATTER: Final = re.compile(r"\s*---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*$", re.M | re.S)
_MOST_BYTES: Final = 1 << 20


def of_one_model(path: Path) -> bool:
    """Return whether a small file, by its name, tells how one model came to be.

    Beside a result of that model it would be wrong: it names other weights, scores and makers.
    """
    return path.name.lower() in (NAME.lower(), RECIPE_NAME)


def front_matter(model: Path) -> dict[str, Any]:
    """Return the front matter of the card of a model; nothing where there is none to be read.

    Nobody needs a card to merge: one that is damaged counts as none.
    """
    import yaml

    try:
        with open(model / NAME, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_BYTES)
        found = _FRONT_MATTER.match(text.lstrip("\ufeff"))
        data = yaml.safe_load(found["yaml"]) if found else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
