"""The text of a model, and the path that it leads to.

A request keeps the text as the user wrote it; a path is made of it when the model is opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


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

    def path(self, text: str) -> str:
        """Return the absolute path that a text means, whether or not something is there.

        ``~`` and ``~user`` at the start are home directories, as in a shell; variables of the
        environment are left alone.
        """
        path = os.path.expanduser(text)
        if not path:
            return path
        starts = [self.here, self.folder] if self.folder else [self.here]
        if self.file_first:
            starts.reverse()
        places = [_tidied(os.path.join(start, path)) for start in starts]
        return next(filter(os.path.exists, places), places[0])

    def identity(self, text: str) -> str:
        """Return what two texts share if, and only if, they mean the same model."""
        return os.path.realpath(self.path(text))

    def relative_to(self, output: str | os.PathLike[str], text: str) -> str:
        """Return the text by which a report in the directory ``output`` names the same model.

        A path from a home directory stays; any other becomes relative to the output, so that both
        can be moved together. A path in the user's home is written from there where the output is
        elsewhere: no report tells the name of a user.
        """
        if text.startswith("~") and os.path.expanduser(text) != text:
            return text
        parent, name = os.path.split(self.path(text))
        # The last component stays, though it be a link: it is the name that the user knows.
        path = os.path.join(os.path.realpath(parent), name)
        start, home = os.path.realpath(output), os.path.realpath(os.path.expanduser("~"))
        if _is_below(path, home) and not _is_below(start, home):
            return os.path.join("~", os.path.relpath(path, home))
        return os.path.relpath(path, start)


def _is_below(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory != os.sep


def _tidied(path: str) -> str:
    """Return the path without ``.`` and doubled slashes; a ``..`` after a link has to stay."""
    return path if ".." in path.split(os.sep) else os.path.normpath(path)
