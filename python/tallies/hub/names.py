"""The names of models on the hub: ``org/name``, ``org/name@revision``, ``hf://org/name``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import InputError
from ..messages import show

SCHEME: Final = "hf://"

_WORD: Final = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"

_REVISION: Final = r"[^@\s\0\ud800-\udfff]+"

_MODEL: Final = re.compile(
    rf"(?P<repo>(?:{_WORD}/)?{_WORD})(?:@(?P<revision>{_REVISION}))?", re.ASCII
)

_FILE: Final = re.compile(r"\.(?:safetensors|bin|pt|pth|gguf|json|ya?ml)\Z")

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")

_SNAPSHOT: Final = re.compile(
    r"(?:\A|.*/)models--(?P<repo>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{40})(?![0-9a-f])", re.ASCII
)

_OTHER_SCHEME: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)

_MOST_CHARACTERS: Final = 96


@dataclass(frozen=True)
class HubModel:
    """A model on the hub; ``str`` is its name as people write it."""

    repo: str
    """``org/name``; without ``org/`` for a few old models."""
    revision: str | None = None
    """A branch, a tag or a commit; None for the main branch."""

    def __str__(self) -> str:
        if self.revision is None:
            return self.repo
        short = self.revision[:10] if self.is_pinned else self.revision
        return f"{self.repo}@{short}"

    @property
    def is_pinned(self) -> bool:
        """True if the revision is a whole commit, which never changes."""
        return bool(self.revision and _COMMIT.fullmatch(self.revision))

    @property
    def text(self) -> str:
        """The text that names this model in a recipe, the whole commit included."""
        name = self.repo if "/" in self.repo else SCHEME + self.repo
        return name if self.revision is None else f"{name}@{self.revision}"

    @property
    def folder(self) -> str:
        """The name of the model's directory in the cache."""
        return f"models--{self.repo.replace('/', '--')}"


def named(text: str) -> HubModel | None:
    """Return the model of the hub that a text names, or None if the text must be a path.

    Raises:
        InputError: The text begins with ``hf://`` and names no model, or with another scheme.
    """
    if text.startswith(SCHEME):
        found = _parse(text.removeprefix(SCHEME))
        if found is None:
            raise InputError(
                f"{show(text)}: expected hf://org/name or hf://org/name@revision, without the name "
                "of a file"
            )
        return found
    if other := _OTHER_SCHEME.match(text):
        raise InputError(
            f"{show(text)}: models at {other['scheme']}:// addresses are not read; download the "
            "model and name its directory, or name a model of the hub as org/name"
        )
    found = _parse(text)
    return found if found and "/" in found.repo and may_be_model(text) else None


def may_be_model(text: str) -> bool:
    """Return True if a text may be the name of a model, with ``hf://`` before it or not."""
    found = _parse(text.removeprefix(SCHEME))
    return found is not None and not _FILE.search(found.repo)


def _parse(text: str) -> HubModel | None:
    match = _MODEL.fullmatch(text)
    if match is None or len(match["repo"]) > _MOST_CHARACTERS:
        return None
    if "--" in match["repo"] or ".." in text or match["repo"].endswith(".git"):
        return None
    return HubModel(match["repo"], match["revision"])


def of_snapshot(path: Path | str) -> HubModel | None:
    """Return the model whose snapshot a path of the cache leads to, or into."""
    found = _SNAPSHOT.match(str(path))
    return HubModel(found["repo"].replace("--", "/"), found["commit"]) if found else None
