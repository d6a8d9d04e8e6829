"""The report on an unpacked task, for people and for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from ..._version import __version__
from ...engine.usage import Usage, done_line
from ...messages import counted, labelled
from ...sizes import format_size
from ..codecs import registry as codecs


@dataclass(frozen=True, kw_only=True)
class UnpackReport(Usage):
    """The report on an unpacked task."""

    store: str
    task: str
    path: str
    codec: str
    source: str
    fingerprint: str
    tensors: list[str] | None
    """The tensors that were asked for; None for all."""
    exact: bool
    """True if the tensors are the expert's, bit for bit."""
    files: dict[str, int]
    auxiliary_files: list[str]
    kept_files: list[str]
    """Those of the auxiliary files that the store has, since the task's differ from the base's."""
    files_from: str | None
    """The model whose small files are beside the tensors; None for the task's own."""

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def record(self) -> str:
        """Return the text of the ``tallies.json`` beside the result, which names no place."""
        unpacked = {
            "task": self.task,
            "codec": self.codec,
            "store": os.path.basename(self.store),
            "fingerprint": self.fingerprint,
            "exact": self.exact,
        }
        files = {"files": self.files, "auxiliary_files": self.auxiliary_files}
        data = {"unpacked": unpacked, **files, "tallies": __version__}
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        return summary(self)


def summary(report: UnpackReport, screen: int | None = None) -> str:
    """Return the lines that an unpacking prints.

    Args:
        report: The report on the unpacked task.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    return "\n".join(
        [
            f"{report.task} ({report.codec})",
            *(labelled(label, text, screen) for label, text in _rows(report)),
            done_line(report, screen),
        ]
    )


def _rows(report: UnpackReport) -> Iterator[tuple[str, str]]:
    n_bytes = format_size(sum(report.files.values()))
    size = f"{n_bytes} in {counted(len(report.files), 'file')}"
    yield "output", f"{report.path}: {size}, fingerprint {report.fingerprint}"
    if report.tensors is not None:
        yield "result", f"{counted(len(report.tensors), 'tensor')} of the task"
        return
    if not report.exact:
        made = "the merge of" if codecs.get(report.codec).is_exact else "a reconstruction of"
        yield "result", f"{made} {report.source}"
    elif report.files_from is None:
        yield "result", "the expert bit for bit"
    else:
        yield "result", "the expert's tensors bit for bit"
    yield "files", _small_files(report)


def _small_files(report: UnpackReport) -> str:
    n_all, n_kept = len(report.auxiliary_files), len(report.kept_files)
    if report.files_from is not None:
        return f"{counted(n_all, 'small file')} of {report.files_from}"
    return f"{counted(n_all, 'small file')} of the task, {n_all - n_kept} of them as in the base"
