"""``patch.json``: what a patch starts from, what it makes, and checksums of all that it stores."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .._version import __version__
from ..checkpoint.json_text import object_checksum
from ..checkpoint.layout import tensor_bytes
from ..checkpoint.tensors import MAX_TENSOR_BYTES
from ..engine.fingerprints import model_fingerprint
from ..errors import InputError
from ..messages import show
from .kept import KeptFile, SmallFile, check_small, kept_files
from .layout import LayoutWord, PartEntries, frames_name, n_parts, new_name, parts_of

FORMAT: Final = "tallies patch"
VERSIONS: Final = (1, 2)
"""The versions that are read. From 2 on, tensors that are added or replaced may have parts, which
are coded, and names of small files may have backslashes."""

Form = tuple[str, tuple[int, ...]]
"""The dtype and the shape of a tensor."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Whole = Field(ge=0, strict=True)


ChangeWord = Literal["none", "changed", "added", "removed", "replaced"]


class Part(_Record):
    """A run of a tensor's elements, and the layout of what changed in it."""

    first: int = Whole
    n_elements: int = Whole
    layout: LayoutWord
    n_changed: int = Whole


class TensorChange(_Record):
    """The change of one tensor; ``old`` and ``new`` are fingerprints, None where it is not."""

    name: str
    dtype: str
    """The dtype of the new tensor; of the old one where there is no new one."""
    shape: tuple[int, ...]
    change: ChangeWord
    old: str | None
    new: str | None
    old_dtype: str | None = None
    """The dtype of the old tensor where it is replaced, and likewise the shape."""
    old_shape: tuple[int, ...] | None = None
    parts: tuple[Part, ...] = ()

    @property
    def old_form(self) -> Form | None:
        """The dtype and the shape of the old tensor; None where there is none."""
        if self.change == "replaced":
            assert self.old_dtype is not None
            assert self.old_shape is not None
            return (self.old_dtype, self.old_shape)
        return None if self.change == "added" else (self.dtype, self.shape)

    @property
    def new_form(self) -> Form | None:
        """The dtype and the shape of the new tensor; None where there is none."""
        return None if self.change == "removed" else (self.dtype, self.shape)

    @property
    def n_changed(self) -> int:
        """The elements that changed in place."""
        if self.is_stored_whole:
            return 0
        return sum(part.n_changed for part in self.parts)

    @property
    def is_stored_whole(self) -> bool:
        """True if the patch has the new tensor as it is."""
        return self.change in ("added", "replaced")

    def entries(self) -> list[str]:
        """Return the names of the entries that hold the change, before they are coded."""
        if self.is_stored_whole and not self.parts:
            return [new_name(self.name)]
        return [
            name
            for number, part in enumerate(self.parts)
            for name in PartEntries.of(self.name, number, part.layout).names
        ]


class Stored(_Record):
    """One tensor of the patch's files."""

    file: str
    """The file in the directory; nothing in a patch that is one file."""
    fingerprint: str


class Manifest(_Record):
    """The content of ``patch.json``."""

    values: Literal["xor", "difference", "new"]
    coder: Literal["none", "zstd"]
    old: str
    """The fingerprint of the whole old model."""
    new: str
    tensors: tuple[TensorChange, ...]
    """All tensors of both models, in the order of their names."""
    stored: dict[str, Stored]
    small_files: dict[str, SmallFile]

    @property
    def kept_files(self) -> list[KeptFile]:
        """The small files that the patch keeps: old ones too, if it can be taken back."""
        return kept_files(self.small_files, both=self.values != "new")

    @property
    def version(self) -> int:
        """The version of the format, the least one that has what the patch needs."""
        has_parts = any(one.is_stored_whole and one.parts for one in self.tensors)
        return 2 if has_parts or any("\\" in path for path in self.small_files) else 1

    def to_json(self, indent: int | None = None) -> str:
        """Return the text of ``patch.json``."""
        head = {"format": FORMAT, "version": self.version, "tallies": __version__}
        data = {**head, **self.model_dump(mode="json", exclude_defaults=True)}
        data["checksum"] = object_checksum(data)
        return json.dumps(data, indent=indent, ensure_ascii=False)

    @classmethod
    def parse(cls, data: dict[str, Any], where: str) -> Manifest:
        """Check the JSON object of a manifest.

        Args:
            data: The object.
            where: The file, for messages.

        Raises:
            InputError: It is another object, one of a newer format, or a damaged one.
        """
        if data.get("format") != FORMAT:
            raise InputError(f'{where}: expected "format": {FORMAT!r}; this is no patch')
        version = data.get("version")
        if version not in VERSIONS:
            raise InputError(
                f"{where}: has format version {show(version)}, and this is tallies {__version__}, "
                f"which reads versions {VERSIONS[0]} to {VERSIONS[-1]}; upgrade tallies"
            )
        expected = data.pop("checksum", None)
        found = object_checksum(data)
        if found != expected:
            raise InputError(
                f"{where}: is damaged: its checksum is {found}, expected {show(expected)}; copy or "
                "make the patch again"
            )
        data = {key: one for key, one in data.items() if key not in ("format", "version")}
        data.pop("tallies", None)
        try:
            manifest = cls.model_validate(data)
            _check(manifest)
            if manifest.version > version:
                raise ValueError(
                    "has parts of whole tensors, or names with a backslash, which version "
                    f"{version} lacks"
                )
        except ValidationError as error:
            one = error.errors(include_url=False)[0]
            place = ".".join(map(str, one["loc"]))
            raise _damaged(where, f"{place}: found {show(one['input'])}: {one['msg']}") from None
        except ValueError as error:
            raise _damaged(where, str(error)) from None
        return manifest


def _damaged(where: str, why: str) -> InputError:
    return InputError(f"{where}: is damaged: {why}; copy or make the patch again")


def table(tensors: Iterable[TensorChange], *, new: bool) -> dict[str, str]:
    """Return the fingerprints of the tensors of the old or the new model, by name."""
    found = {one.name: one.new if new else one.old for one in tensors}
    return {name: text for name, text in found.items() if text is not None}


def _check(manifest: Manifest) -> None:
    """Raise ValueError where the parts of a manifest contradict each other."""
    names = [one.name for one in manifest.tensors]
    if names != sorted(set(names)):
        raise ValueError("tensors are not in the order of their names, each once")
    for one in manifest.tensors:
        try:
            _check_tensor(one)
        except ValueError as error:
            raise ValueError(f"tensor {show(one.name)}: {error}") from None
    for which in ("old", "new"):
        found = model_fingerprint(table(manifest.tensors, new=which == "new"))
        expected = getattr(manifest, which)
        if found != expected:
            raise ValueError(
                f"the fingerprint of the {which} model is {show(expected)}, and {found} by those "
                "of its tensors"
            )
    check_small(manifest.small_files)
    _check_stored(manifest)


_LACKS: Final = {
    "none": (False, False),
    "changed": (False, False),
    "replaced": (False, False),
    "added": (True, False),
    "removed": (False, True),
}


def _check_tensor(one: TensorChange) -> None:
    one.name.encode()
    for form in _forms(one):
        if any(size < 0 for size in form[1]) or tensor_bytes((one.name, *form)) > MAX_TENSOR_BYTES:
            raise ValueError(f"shape {show(form[1])}, expected whole numbers")
    if (one.old is None, one.new is None) != _LACKS[one.change]:
        raise ValueError(f"fingerprints do not fit to {one.change!r}")
    if one.change != "changed" and not (one.is_stored_whole and one.parts):
        if one.parts:
            raise ValueError(f"has parts, and is {one.change!r}")
        if one.change == "none" and one.old != one.new:
            raise ValueError("has other fingerprints, and is 'none'")
        return
    # Parts are listed where there are as many of them: a shape can say that they are billions.
    n = n_parts(one.dtype, one.shape)
    if len(one.parts) != n or [(part.first, part.n_elements) for part in one.parts] != parts_of(
        one.dtype, one.shape
    ):
        raise ValueError("its parts are not those of its dtype and shape")
    for part in one.parts:
        if part.n_changed > part.n_elements or (part.n_changed == 0) != (part.layout == "none"):
            raise ValueError(
                f"part at {part.first}: {part.n_changed} of {part.n_elements} elements changed, in "
                f"the layout {part.layout!r}"
            )
        if one.is_stored_whole and (part.layout, part.n_changed) != ("dense", part.n_elements):
            raise ValueError(f"part at {part.first}: a tensor that is {one.change} is 'dense'")


def _forms(one: TensorChange) -> list[Form]:
    has_old = one.old_dtype is not None and one.old_shape is not None
    if has_old != (one.change == "replaced"):
        raise ValueError(f"old dtype and shape do not fit to {one.change!r}")
    return [form for form in (one.old_form, one.new_form) if form is not None]


def _check_stored(manifest: Manifest) -> None:
    """Raise ValueError unless exactly the entries are stored that the tensors need."""
    expected: set[str] = set()
    for one in manifest.tensors:
        names = one.entries()
        expected.update(names)
        if manifest.coder != "none" and (one.parts or not one.is_stored_whole):
            expected.update(map(frames_name, names))
    small = {one.entry for one in manifest.kept_files} - expected
    odd = sorted((manifest.stored.keys() - small) ^ expected)
    if odd:
        verb = "lacks" if odd[0] in expected else "has"
        raise ValueError(f"{verb} the entry {show(odd[0])}, unlike its tensors say")
    for name, entry in manifest.stored.items():
        if entry.file and ("/" in entry.file or not entry.file.startswith("changes-")):
            raise ValueError(f"entry {show(name)} is in {show(entry.file)}, expected a file of it")
