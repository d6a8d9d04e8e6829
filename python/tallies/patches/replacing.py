"""Keeps ``overwrite`` from replacing results of another kind."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoint.occupied import STORE_NAME, SWEEP_NAME
from ..errors import InputError
from .opened import is_patch


def refuse_other_kind(path: Path, *, with_patch: bool) -> None:
    """Raise InputError where a result of another kind lies.

    Args:
        path: The place of the output, which holds nothing but what this package wrote.
        with_patch: True if a patch is to be written there, False for a model.
    """
    if not (path.is_file() or (path.is_dir() and os.listdir(path))):
        return
    found = "a model"
    if is_patch(path):
        found = "a patch"
    elif (path / STORE_NAME).is_file():
        found = "a store"
    elif (path / SWEEP_NAME).is_file():
        found = "a sweep"
    expected = "a patch" if with_patch else "a model"
    if found != expected:
        raise InputError(
            f"output {str(path)!r}: is {found}, and --overwrite replaces only {expected} here; "
            "choose another, or remove it yourself"
        )
