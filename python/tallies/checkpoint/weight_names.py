"""The names of weight files and of their indexes, taken apart.

``model.fp16-00001-of-00002.safetensors`` is the first of two shards of the variant ``fp16`` of the
stem ``model``; ``model.safetensors.index.fp16.json`` says which shard holds which tensor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

USUAL_STEMS: Final = ("model", "pytorch_model", "diffusion_pytorch_model")
"""The stems that transformers and diffusers look for, safetensors first."""

SAFETENSORS: Final = ".safetensors"
TORCH: Final = (".bin", ".pt", ".pth")
SUFFIXES: Final = (SAFETENSORS, *TORCH)
"""The ends of the names of files that are read."""

_NAME: Final = re.compile(
    r"(?P<body>.+?)(?P<suffix>\.(?:safetensors|bin|pt|pth))"
    r"(?P<index>(?:\.(?P<before>[\w-]+))?\.index(?:\.(?P<after>[\w-]+))?\.json)?\Z",
    re.DOTALL,
)
_SHARD: Final = re.compile(
    r"(?P<body>.+?)-(?P<number>\d{1,9})-of-(?P<total>\d{1,9})(?:\.(?P<variant>[A-Za-z]\w*))?\Z",
    re.DOTALL,
)
_VARIANT: Final = re.compile(r"[A-Za-z][\w-]*\Z")


@dataclass(frozen=True)
class WeightName:
    """A name of a weight file or of an index of such files."""

    text: str
    stem: str
    variant: str
    """``fp16`` and the like, or nothing."""
    suffix: str
    number: int = 0
    """The place among the shards, from 1 on; 0 for a file that holds all tensors."""
    total: int = 0
    """The number of shards; 0 for a file that holds all tensors."""
    is_index: bool = False

    @property
    def is_usual(self) -> bool:
        """Tell if transformers and diffusers look for such a name."""
        return self.stem in USUAL_STEMS

    @property
    def saved_stem(self) -> str:
        """The stem under which libraries save the same tensors as safetensors."""
        return "model" if self.stem == "pytorch_model" else self.stem


def parse_name(text: str) -> WeightName | None:
    """Take the name of a weight file apart; None for a name of another kind.

    Only the usual stems have variants: ``v1.5.safetensors`` has the stem ``v1.5``.

    >>> parse_name("model.fp16-00001-of-00002.safetensors").variant
    'fp16'
    """
    found = _NAME.match(text)
    if found is None:
        return None
    body, variant = found["body"], found["before"] or found["after"] or ""
    number = total = 0
    shard = _SHARD.match(body)
    if shard and not found["index"]:
        body, variant = shard["body"], shard["variant"] or ""
        number, total = int(shard["number"]), int(shard["total"])
    stem, _, rest = body.partition(".")
    if not variant and stem in USUAL_STEMS and _VARIANT.match(rest):
        body, variant = stem, rest
    return WeightName(text, body, variant, found["suffix"], number, total, bool(found["index"]))
