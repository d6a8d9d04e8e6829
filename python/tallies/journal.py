"""What a run has finished so far, kept beside its output so that another run can go on from there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ._version import __version__
from .passes import Found, Guessed, Outcome

NAME = "journal.json"


class Journal:
    """The survey and the finished files of a run.

    It counts only for a run with the same ``key``: the same plan over the same, unchanged inputs.
    Every change replaces the file, so that a killed run leaves the last complete one.
    """

    def __init__(self, directory: Path, key: Mapping[str, Any]) -> None:
        text = json.dumps([__version__, key], sort_keys=True).encode()
        self._key = hashlib.sha256(text).hexdigest()
        self._path = directory / NAME
        self.survey: list[Found] = []
        self.finished: dict[str, dict[int, Outcome]] = {}
        """Outcomes of the merged tensors of each finished file, by the tensor's number."""

    def load(self) -> bool:
        """Read what an earlier run left; False if there is nothing, or of another merge."""
        try:
            state = json.loads(self._path.read_text())
            if state["key"] != self._key:
                return False
            self.survey = [Found(*row) for row in state["survey"]]
            self.finished = {
                file: {int(job): _outcome(data) for job, data in outcomes.items()}
                for file, outcomes in state["finished"].items()
            }
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def save(self) -> None:
        """Write the present state in place of the last."""
        state = {
            "key": self._key,
            "survey": [list(found) for found in self.survey],
            "finished": {
                file: {str(job): asdict(outcome) for job, outcome in outcomes.items()}
                for file, outcomes in self.finished.items()
            },
        }
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(state))
        os.replace(new, self._path)

    def remove(self) -> None:
        """Remove the file: the output is complete."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def _outcome(data: Mapping[str, Any]) -> Outcome:
    return Outcome(
        **{
            **data,
            "found": [Found(*row) for row in data["found"]],
            "plus": Guessed(*data["plus"]),
            "minus": Guessed(*data["minus"]),
        }
    )
