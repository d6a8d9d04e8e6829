"""The metadata in the header of a result: that of the template, but for what would be a lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_OF_THE_CONTENT: Final = re.compile("hash|sha256|checksum|md5|crc32|^sshs_", re.IGNORECASE)
"""Keys whose values follow from the tensors: ``modelspec.hash_sha256``, ``sshs_legacy_hash``."""


RECIPE: Final = "tallies"
"""The key of the recipe in the header of a result that is one file."""


def carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a result, made of its template's.

    Transformers refuses a file without ``format``.

    >>> carried({"modelspec.title": "A", "modelspec.hash_sha256": "0x12"})
    {'format': 'pt', 'modelspec.title': 'A'}
    """
    kept = {key: text for key, text in metadata.items() if not _lies(key)}
    return {"format": "pt", **kept}


def _lies(key: str) -> bool:
    return key == RECIPE or _OF_THE_CONTENT.search(key) is not None
