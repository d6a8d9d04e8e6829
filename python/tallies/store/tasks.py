"""One expert of a store as ``store.json`` states it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..checkpoint.parts import Part
from ..checkpoint.paths import is_possible
from ..messages import show
from ..spec.dtypes import DTYPES, fills_bytes


@dataclass
class Task:
    """One expert: its origin, and its files, relative to the store.

    While a choice is due, ``candidates`` has a file for each lambda, and ``file`` is None.
    """

    source: str
    """Its place as ``origins`` records it; that of an older store may be absolute."""
    fingerprint: str
    scale: float
    mask_lambda: float | None
    n_set: dict[str, int]
    """By lambda, bits set in the masks of each candidate; or the number of values kept."""
    file: str | None = None
    candidates: dict[str, str] = field(default_factory=dict)
    n_missing: int = 0
    """Tensors of the base that the expert lacks, and that are the base's in the task."""
    n_extra: int = 0
    """Tensors of the expert that the base lacks, and that are left out."""
    forms: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Dtype and shape of the tensors that the base lacks or has in another form."""
    lacks: tuple[str, ...] = ()
    """Tensors of the base that the task does not have."""
    borrowed: dict[str, str] = field(default_factory=dict)
    """The file that has a tensor which another task has alike, by name; it is stored once."""
    parts: tuple[Part, ...] = ()
    """The weights of the expert's directories, where there is no base to take them from."""

    def __post_init__(self) -> None:
        texts = [self.source, self.fingerprint, *([] if self.file is None else [self.file])]
        for table in (self.candidates, self.borrowed):
            if not isinstance(table, dict):
                raise ValueError(f"found {show(table)}, expected an object of texts")
            texts.extend(table.values())
        require_texts(texts)
        require_paths(texts)
        if not isinstance(self.n_set, dict):
            raise ValueError(f"found {show(self.n_set)}, expected an object of numbers")

    @property
    def is_whole(self) -> bool:
        """True if the tensors of the task are those of the expert, and no others."""
        return not (self.n_missing or self.n_extra)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the task as plain data; what it has not is left out."""
        optional = ("n_missing", "n_extra", "forms", "lacks", "borrowed", "parts")
        data = {key: value for key, value in asdict(self).items() if value or key not in optional}
        if self.parts:
            data["parts"] = [
                {key: getattr(part, key) for key in ("folder", "stem", "variant", "metadata")}
                for part in self.parts
            ]
        return data

    @classmethod
    def from_json_dict(cls, data: Mapping[str, Any]) -> Task:
        """Return the task of such data."""
        return cls(
            **{
                **data,
                "forms": {name: _form(*one) for name, one in data.get("forms", {}).items()},
                "lacks": tuple(map(str, data.get("lacks", ()))),
                "parts": tuple(_part(**one) for one in data.get("parts", ())),
            }
        )

    def files(self) -> set[str]:
        """Return the files that have tensors of the task."""
        own = set(self.candidates.values()) if self.file is None else {self.file}
        return own | {*self.borrowed.values()}


def require_texts(values: Iterable[object]) -> None:
    """Raise ValueError for the first value that is no text."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"found {show(value)}, expected text")


def require_paths(values: Iterable[str]) -> None:
    """Raise ValueError for the first text that no file system takes as a path."""
    for value in values:
        if not is_possible(value):
            raise ValueError(f"found {show(value)}, expected a path")


def require_form(dtype: str, shape: Sequence[int]) -> None:
    """Raise ValueError unless a tensor can have this dtype and shape."""
    is_shape = all(type(n) is int and n >= 0 for n in shape)
    if dtype not in DTYPES or not is_shape or not fills_bytes(dtype, shape):
        raise ValueError(f"found {show(dtype)} {show(shape)}, expected a dtype and a shape")


def _form(dtype: str, shape: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    require_form(dtype, shape)
    return dtype, tuple(shape)


def _part(folder: str, stem: str, variant: str, metadata: Mapping[str, str]) -> Part:
    """Return a part, whose folder and stem become names of files below a directory."""
    path = PurePosixPath(folder)
    plain = not any("/" in one or not is_possible(one) for one in (stem, variant))
    if path.is_absolute() or ".." in path.parts or not is_possible(folder) or not stem or not plain:
        raise ValueError(f"found files {stem!r} in {folder!r}, expected names below a directory")
    return Part(folder, stem, variant, (), {str(k): str(v) for k, v in metadata.items()})
