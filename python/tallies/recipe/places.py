"""The text of a model, and the path that it leads to.

A request keeps the text as the user wrote it; a path is made of it when the model is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from ..checkpoint.paths import is_possible
from ..errors import InputError
from ..hub.names import HubModel, may_be_model, named
from ..messages import did_you_mean, show

PLUS: Final = "+"
"""Stands between a model and each adapter on it: ``base+adapter+adapter``."""

_MOST_PIECES: Final = 100


@dataclass(frozen=True)
class Places:
    """The directories from which a request's relative paths start.

    The current directory comes first, then the directory of the recipe file. A report names the
    models of its merge relative to itself: there the file's directory comes first.

    ``Places("/home/me", "/recipes").path("llama")`` is ``/home/me/llama`` if that exists, or else
    ``/recipes/llama`` if that does.
    """

    here: str = ""
    """The current directory when the request was made."""
    folder: str = ""
    """The directory of the request's file, if the request came from one."""
    file_first: bool = False
    stages: tuple[tuple[str, str], ...] = ()
    """The names of earlier stages of the request, and the directories of their results."""
    _found: dict[tuple[str, ...], str] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The answers of the file system by text: a run asks once, see ``anew``."""

    @classmethod
    def of(cls, file: str | None = None, *, is_report: bool = False) -> Places:
        """Return the places of a request that is made now.

        Args:
            file: The file of the request, if there is one.
            is_report: True if the file is the report of a merge.
        """
        try:
            here = os.getcwd()
        except OSError:  # the directory was removed
            here = ""
        folder = "" if file is None else os.path.dirname(os.path.join(here, file))
        return cls(here, folder, is_report)

    def with_stages(self, directories: Mapping[str, str]) -> Places:
        """Return these places with the results of stages by name; no path where none is there."""
        return replace(self, stages=tuple({**dict(self.stages), **directories}.items()))

    def anew(self) -> Places:
        """Return the same places, which ask the file system again: for a run that begins."""
        return replace(self)

    def is_stage(self, text: str) -> bool:
        """Return True for the name of a stage, which wins over a path or a model of the hub."""
        return any(text == name for name, _ in self.stages)

    def path(self, text: str) -> str:
        """Return the absolute path that a text means, whether or not something is there.

        ``~`` and ``~user`` at the start are home directories, as in a shell; variables of the
        environment are left alone.

        Raises:
            InputError: The text has a character that no path has.
        """
        if self.is_stage(text):
            return dict(self.stages)[text]
        if not is_possible(text):
            raise InputError(f"found {show(text)}, expected a path; no path has such a character")
        path = os.path.expanduser(text)
        if not path:
            return path
        starts = [self.here, self.folder] if self.folder else [self.here]
        if self.file_first:
            starts.reverse()
        places = [_tidied(os.path.join(start, path)) for start in starts]
        return next(filter(os.path.exists, places), places[0])

    def is_local(self, text: str) -> bool:
        """Return True for a path with something there, whatever signs are in it."""
        is_there = is_possible(text) and os.path.exists(self.path(text))
        return is_there or self.is_stage(text)

    def pieces(self, text: str) -> tuple[str, ...]:
        """Return the text of a model and those of the adapters on it.

        A path with something there is one piece, whatever pluses are in it: of several readings
        the one with the longest such pieces in front is taken.

        >>> Places.of().pieces("org/llama@v2+org/adapter")
        ('org/llama@v2', 'org/adapter')
        """
        words = text.split(PLUS)
        if len(words) == 1 or len(words) > _MOST_PIECES or self.is_local(text):
            return (text,)
        found = []
        while words:
            ends = range(len(words), 1, -1)
            n = next((n for n in ends if self.is_local(PLUS.join(words[:n]))), 1)
            found.append(PLUS.join(words[:n]))
            words = words[n:]
        return tuple(found) if all(found) else (text,)

    def by_piece(self, text: str, change: Callable[[str], str]) -> str:
        """Return a text with ``change`` applied to the model and to each adapter on it."""
        return PLUS.join(map(change, self.pieces(text)))

    def hub_model(self, text: str) -> HubModel | None:
        """Return the model of the hub that a text names; None if the text means a local path.

        A path with something there is never a model of the hub, and a model with adapters is none.
        """
        if self.is_local(text) or len(self.pieces(text)) > 1:
            return None
        return named(text)

    def identity(self, text: str) -> str:
        """Return what two texts share if, and only if, they mean the same model."""
        return self.by_piece(text, self._identity)

    def _identity(self, text: str) -> str:
        if self.is_stage(text):
            return f"stage {text}"
        if (text,) not in self._found:
            model = self.hub_model(text)
            found = model.text if model else os.path.realpath(self.path(text))
            self._found[text,] = found
        return self._found[text,]

    def pinned(self, text: str) -> str:
        """Return the text with the commits that are meant, where it names models of the hub.

        Raises:
            InputError: There is no such model or revision, or neither hub nor cache can say.
            StorageError: The hub fails.
        """
        return self.by_piece(text, self._pinned)

    def _pinned(self, text: str) -> str:
        model = self.hub_model(text)
        if model is None or model.is_pinned:
            return text
        from ..hub.opening import pin

        return pin(model).text

    def headers(self, text: str, variant: str = "", *, weights: bool = True) -> str:
        """Return a local path at which the headers of the model can be read, without its adapters.

        Args:
            text: The text of the model.
            variant: The variant of the weights, such as ``fp16``.
            weights: False if the small files alone are read.

        Raises:
            InputError: The text names a model of the hub that cannot be read.
            StorageError: The hub fails.
        """
        text = self.pieces(text)[0]
        model = self.hub_model(text)
        if model is None:
            return self._there(text)
        from ..hub.opening import headers

        return str(headers(model, variant, weights=weights))

    def local(
        self, text: str, variant: str = "", *, weights: bool = True, bars: bool = False
    ) -> str:
        """Return a local path with the whole model, downloaded if need be, without its adapters.

        Args:
            text: The text of the model.
            variant: The variant of the weights, such as ``fp16``.
            weights: False if the small files alone are read.
            bars: Show a bar for each file that is downloaded.

        Raises:
            InputError: The text names a model of the hub that cannot be read.
            StorageError: The hub or the disk fails.
        """
        text = self.pieces(text)[0]
        model = self.hub_model(text)
        if model is None:
            return self._there(text)
        from ..hub.opening import files

        (path,) = files([model], variant, weights=weights, bars=bars)
        return str(path)

    def _there(self, text: str) -> str:
        """Return the path of a text; InputError for one that an old model of the hub may have."""
        path = self.path(text)
        if os.path.sep in text or os.path.exists(path) or not may_be_model(text):
            return path
        if os.path.islink(path):
            raise InputError(
                f"{path}: is a link that leads to nothing; link it again, or give the model itself"
            )
        near = did_you_mean(text, os.listdir(self.here or "."))
        raise InputError(
            f"{path}: no such file or directory; a model of the hub without a user or organization "
            f"is written hf://{text}{near}"
        )

    def relative_to(self, output: str | os.PathLike[str], text: str) -> str:
        """Return the text by which a report in the directory ``output`` names the same model.

        A model of the hub and a path from a home directory stay; any other path becomes relative to
        the output, so that both can be moved together. A path in the user's home is written from
        there where the output is elsewhere: no report tells the name of a user. Adapters stand
        behind their model, in the same way.
        """
        key = (text, os.fspath(output))
        if key not in self._found:
            self._found[key] = self.by_piece(text, partial(self._relative_to, output))
        return self._found[key]

    def for_peft(self, output: str | os.PathLike[str], text: str) -> str:
        """Return the text by which the configuration of an adapter in ``output`` names its base.

        PEFT looks for a relative path from the current directory, so that such a path stays as the
        user wrote it; any other text becomes that of ``relative_to``.
        """
        is_relative = bool(text) and not os.path.isabs(text) and not text.startswith("~")
        return text if is_relative else self.relative_to(output, text)

    def _relative_to(self, output: str | os.PathLike[str], text: str) -> str:
        if self.is_stage(text) or (text.startswith("~") and os.path.expanduser(text) != text):
            return text
        if self.hub_model(text) is not None:
            return text
        parent, name = os.path.split(self.path(text))
        # The last component stays, though it be a link: it is the name that the user knows.
        path = os.path.join(os.path.realpath(parent), name)
        start, home = os.path.realpath(output), os.path.realpath(os.path.expanduser("~"))
        if _is_below(path, home) and not _is_below(start, home):
            return os.path.join("~", os.path.relpath(path, home))
        return os.path.relpath(path, start)


def local_path(
    text: str | os.PathLike[str], variant: str = "", *, weights: bool = True, bars: bool = False
) -> str:
    """Return a local path with the model of a text that is read now; see ``Places.local``."""
    return Places.of().local(os.fspath(text), variant, weights=weights, bars=bars)


def _is_below(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory != os.sep


def _tidied(path: str) -> str:
    """Return the path without ``.`` and doubled slashes; a ``..`` after a link has to stay."""
    return path if ".." in path.split(os.sep) else os.path.normpath(path)
