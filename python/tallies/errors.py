"""The two kinds of failure, each with its exit status of the command line."""

from __future__ import annotations


class TalliesError(Exception):
    """Base of every error raised on purpose; the text is one line for a person to read."""

    exit_status = 3


class InputError(TalliesError, ValueError):
    """The request or an input is wrong; nothing was written (exit status 2)."""

    exit_status = 2


class StorageError(TalliesError, OSError):
    """Reading or writing failed; the destination is absent or still the old one (exit status 3)."""

    exit_status = 3


def note_kept(error: BaseException, place: str) -> None:
    """Note on an error that what was finished before it is kept, for a run that goes on."""
    error.__dict__["kept_in"] = place


def kept_in(error: BaseException) -> str | None:
    """Return the place of what was finished before an error, or None."""
    found = error.__dict__.get("kept_in")
    return found if isinstance(found, str) else None
