"""Records the finished parts of a run beside its output, so that another run can go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .._version import __version__
from ..checkpoint.json_text import is_object
from ..checkpoint.tensors import TensorInfo
from ..engine.fingerprints import add_content, content
from ..engine.outcomes import Guessed, Outcome, Score, Statistics, Trim
from ..errors import InputError
from ..spec.dtypes import DTYPES
from .changes import changed, facts
from .steps import Findings

NAME = "journal"


class Journal(Findings):
    """The findings and the finished files of a run, one record a line.

    A journal counts only for a run with the same ``key``: the same plan over the same, unchanged
    inputs. Each line begins with a digest, which tells records from the remains of a killed run or
    a damaged disk.

    Args:
        directory: The directory of the journal's file.
        key: The data in which two runs must agree.
    """

    def __init__(self, directory: Path, key: Mapping[str, Any]) -> None:
        super().__init__()
        text = json.dumps([__version__, key], sort_keys=True)
        self._head: dict[str, Any] = {
            "key": hashlib.sha256(text.encode()).hexdigest(),
            "facts": facts({**key, "version": __version__}),
        }
        self._path = directory / NAME
        self.finished: dict[str, dict[int, Outcome]] = {}
        """Outcomes of the merged tensors of each finished file, by the tensor's number."""

    def load(self) -> bool:
        """Read the records of an earlier run; return False if there are none of this merge."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return False
        n_bytes, guess = 0, None
        for line, record in zip(lines, _records(lines), strict=False):
            if n_bytes == 0 and record.get("key") != self._head["key"]:
                return False
            n_bytes += len(line)
            if "survey" in record:
                self.model = _statistics(record)
                changed = _outcomes(record["outcomes"])
                for held in self.finished.values():
                    held |= {job: changed[job] for job in held.keys() & changed.keys()}
            elif "dropped" in record:
                self.dropped = record["dropped"]
            elif "alpha" in record:
                self.alpha = record["alpha"]
            elif "file" in record:
                self.finished[record["file"]] = _outcomes(record["outcomes"])
                guess = record["guess"]
        os.truncate(self._path, n_bytes)
        return n_bytes > 0 and (guess is None or bool(self.model) or self._load_guess(guess))

    def _load_guess(self, name: str) -> bool:
        """Read the guesses of finished files; return False if they are not as they were written."""
        try:
            data = (self._path.parent / name).read_bytes()
        except FileNotFoundError:
            return False
        self.guess = data
        return name == _guess_name(data)

    def begin(self) -> None:
        """Start the file anew, in the place of another run's."""
        self.finished, self.guess = {}, None
        self._path.write_bytes(_line(self._head))

    def refuse_others(self) -> None:
        """Raise InputError if the run that stopped here was another, and finished files of it."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except OSError:
            return
        records = list(_records(lines))
        was = records[0].get("facts") if records else None
        if not is_object(was) or records[0]["key"] == self._head["key"]:
            return
        if any("file" in one for one in records):
            raise InputError(changed(was, self._head["facts"]))

    def record_model(self, found: Statistics, changed: Mapping[int, Outcome] | None = None) -> None:
        """Note the statistics of the model, and outcomes that changed when these were settled."""
        super().record_model(found)
        scores = [asdict(one) for one in found.scores]
        record = {"survey": found.trims, "weights": found.weights, "scores": scores}
        self._append({**record, "outcomes": _data(changed or {})})

    def record_dropped(self, dropped: list[list[str]]) -> None:
        """Note which layers of the models are left out."""
        super().record_dropped(dropped)
        self._append({"dropped": dropped})

    def record_alpha(self, alpha: float) -> None:
        """Note the factor of the first layer."""
        super().record_alpha(alpha)
        self._append({"alpha": alpha})

    def record_file(
        self, name: str, outcomes: Mapping[int, Outcome], guess: bytes | None = None
    ) -> None:
        """Note that a file is finished, but for votes and thresholds that were guessed.

        Args:
            name: The name of the file.
            outcomes: The outcomes of its merged tensors.
            guess: The guessed thresholds, with the counts of all files so far.
        """
        self.finished[name] = dict(outcomes)
        kept = None
        if guess is not None:
            kept = _guess_name(guess)
            (self._path.parent / kept).write_bytes(guess)
        self._append({"file": name, "outcomes": _data(outcomes), "guess": kept})
        for other in self._path.parent.glob(f"{_GUESS}*"):
            if other.name != kept:
                other.unlink()

    def _append(self, record: Mapping[str, Any]) -> None:
        with open(self._path, "ab") as file:
            file.write(_line(record))


def holds(tensor: TensorInfo, outcome: Outcome, majority: int | None) -> bool:
    """Return True if a tensor of a finished file still has the content that the combine wrote.

    Args:
        tensor: The tensor in the file.
        outcome: The record of its combine.
        majority: The sign of the elected signs, once all files were finished; else None. Stretches
            that took the other sign are then left out, for some of them may have been repeated.
    """
    found = content(tensor)
    expected = list(outcome.output)
    for guessed, sign in ((outcome.plus, 1), (outcome.minus, -1)):
        if majority in (None, sign):
            add_content(expected, guessed.output)
            continue
        for first, n_elements in guessed.ranges:
            at, n_bytes = (DTYPES[tensor.dtype] * n for n in (first, n_elements))
            stretch = replace(tensor, offset=tensor.offset + at, n_bytes=n_bytes)
            add_content(found, [-lane for lane in content(stretch, at)])
    return found == expected


def _records(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the records of whole lines, up to the first that is not as it was written."""
    for line in lines:
        record = line[_N_DIGEST:-1]
        if line != _with_digest(record):
            return
        yield json.loads(record)


_N_DIGEST = 16


def _line(record: Mapping[str, Any]) -> bytes:
    return _with_digest(json.dumps(record).encode())


def _with_digest(record: bytes) -> bytes:
    digest = hashlib.blake2b(record, digest_size=_N_DIGEST // 2).hexdigest()
    return digest.encode() + record + b"\n"


_GUESS = "guess-"


def _guess_name(data: bytes) -> str:
    """Return the name of the file beside the journal that has these guesses."""
    return _GUESS + hashlib.blake2b(data, digest_size=_N_DIGEST // 2).hexdigest()


def _statistics(record: Mapping[str, Any]) -> Statistics:
    return Statistics(
        trims=[Trim(*row) for row in record["survey"]],
        weights=record["weights"],
        scores=[Score(**score) for score in record["scores"]],
    )


def _data(outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    return {str(job): asdict(outcome) for job, outcome in outcomes.items()}


def _outcomes(data: Mapping[str, Any]) -> dict[int, Outcome]:
    return {int(job): _outcome(one) for job, one in data.items()}


def _outcome(data: Mapping[str, Any]) -> Outcome:
    return Outcome(
        **{
            **data,
            "trims": [Trim(*row) for row in data["trims"]],
            "plus": Guessed(*data["plus"]),
            "minus": Guessed(*data["minus"]),
        }
    )
