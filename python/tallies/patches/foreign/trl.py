"""The sparse update files of TRL's asynchronous GRPO, whose values are bfloat16.

A safetensors file. Version A has ``NAME.indices`` and ``NAME.values``, version B ``NAME.idx`` and
``NAME.val``, whose positions are plain (``raw``) or distances (``gap_delta``). A file that is not
sparse, an anchor, has whole tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...checkpoint.safetensors import read_header
from ...checkpoint.tensors import TensorInfo
from ...errors import InputError
from ...messages import either, show
from ..chains import OnePatch
from ..manifest import Form
from ..report import PatchReport
from .files import write_file
from .updates import MOST_POSITIONS, Change, bits_of, changed_tensors, make, placed, whole

ENCODINGS: Final = ("raw", "gap_delta", "indices")
"""How positions are written: the two encodings of version B, and version A."""

_FORMAT: Final = "sparse_weight_patch"
_DTYPE: Final = "BF16"
_SUFFIXES: Final = {"raw": (".idx", ".val"), "indices": (".indices", ".values")}
_GAPS: Final = ("U16", "U32")


def to_patch(
    update: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> PatchReport:
    """Make a patch of an update file and the model that the update is of.

    Args:
        update: The file: sparse, or an anchor.
        base: The model, of the names that the file has.
        out: The patch to write; None for bytes, which the report then has as ``data``.
        options: Further arguments of ``make_patch``.

    Raises:
        InputError: The file is none of TRL's, is damaged, or does not fit to the model.
        StorageError: A file cannot be read or written.
    """
    if not isinstance(update, (str, os.PathLike)):
        raise InputError(f"update: found {type(update).__name__}, expected a path")
    label = os.fspath(update)
    if os.path.isdir(label):
        raise InputError(
            f"{label}: is a directory, expected an update file of TRL, such as "
            f"{label}/step_000001.safetensors"
        )
    tensors, metadata = read_header(Path(label))
    if metadata.get("format") != _FORMAT:
        raise InputError(f"{label}: its header lacks the format {_FORMAT!r}; this is no update")
    if metadata.get("version") != "1":
        raise InputError(f"{label}: has version {show(metadata.get('version'))}, expected '1'")
    if metadata.get("sparse") not in ("True", "False"):
        raise InputError(
            f"{label}: found sparse {show(metadata.get('sparse'))}, expected 'True' or 'False'"
        )
    by_name = {one.name: one for one in tensors}
    is_sparse = metadata.get("sparse") == "True"
    _refuse_others(label, metadata, by_name, is_sparse=is_sparse)

    def changes_of(forms: Mapping[str, Form]) -> dict[str, list[Change]]:
        if not is_sparse:
            return {name: [_anchor(label, one, forms)] for name, one in by_name.items()}
        return {
            name: [_sparse(label, name, *pair, metadata.get("encoding", "raw"), forms)]
            for name, pair in _pairs(label, by_name).items()
        }

    return make(base, changes_of, label, out, options)


def _refuse_others(
    label: str, metadata: Mapping[str, str], by_name: Mapping[str, TensorInfo], *, is_sparse: bool
) -> None:
    """Raise InputError unless a file has the tensors and values that its header counts."""
    values = tuple(of for _, of in _SUFFIXES.values())
    stored = [n for n in by_name if not is_sparse or n.endswith(values)]
    n_values = sum(by_name[name].n_stored for name in stored)
    if metadata.get("total_changed_elements", str(n_values)) != str(n_values):
        raise InputError(
            f"{label}: has {n_values} values, and its header says "
            f"{show(metadata['total_changed_elements'])}; write or copy the update again"
        )
    if is_sparse and "changed_params" in metadata:
        found = {name.removesuffix(".values") for name in stored}
        expected = _names(label, metadata["changed_params"])
        for name in sorted(found ^ expected):
            verb = "lacks" if name in expected else "has"
            raise InputError(f"{label}: {verb} tensor {show(name)}, unlike its header says")


def _names(label: str, text: str) -> set[str]:
    """Return the names of a list in JSON."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{label}: found changed_params {show(text)}, expected a list of names")
    return set(names)


def _pairs(
    label: str, by_name: Mapping[str, TensorInfo]
) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Return the positions and values of each tensor."""
    found = {}
    left = dict(by_name)
    for positions, values in _SUFFIXES.values():
        for name in [one.removesuffix(values) for one in by_name if one.endswith(values)]:
            pair = (left.pop(name + positions, None), left.pop(name + values))
            if pair[0] is None:
                raise InputError(f"{label}: tensor {show(name)}: lacks its {show(positions[1:])}")
            found[name] = (pair[0], pair[1])
    if left:
        raise InputError(f"{label}: has {show(next(iter(left)))}, which belongs to no tensor")
    return found


def _sparse(
    label: str,
    name: str,
    positions: TensorInfo,
    values: TensorInfo,
    encoding: str,
    forms: Mapping[str, Form],
) -> Change:
    where = f"{label}: tensor {show(name)}"
    n_elements = _n_elements(where, values, name, forms)
    return placed(where, _decoded(where, positions, encoding), bits_of(values), n_elements)


def _decoded(where: str, positions: TensorInfo, encoding: str) -> npt.NDArray[np.int64]:
    """Return positions from their encoding, which their dtype tells too."""
    bits = bits_of(positions)
    if positions.dtype == "I32" and (encoding == "raw" or positions.name.endswith(".indices")):
        return bits.view("<i4").astype(np.int64)
    if positions.dtype in _GAPS and encoding == "gap_delta":
        return np.cumsum(bits.astype(np.int64) + 1) - 1
    if encoding == "nvcomp_cascaded":
        raise InputError(
            f"{where}: its positions are coded by nvCOMP, which a GPU alone decodes; write the "
            "update with the encoding 'raw' or 'gap_delta'"
        )
    raise InputError(
        f"{where}: its positions are {positions.dtype} in the encoding {show(encoding)}, expected "
        "I32 in 'raw', or U16 or U32 in 'gap_delta'"
    )


def _anchor(label: str, tensor: TensorInfo, forms: Mapping[str, Form]) -> Change:
    where = f"{label}: tensor {show(tensor.name)}"
    _n_elements(where, tensor, tensor.name, forms)
    if tensor.name in forms and tensor.shape != forms[tensor.name][1]:
        raise InputError(
            f"{where}: has shape {list(tensor.shape)}, and the model has "
            f"{list(forms[tensor.name][1])}"
        )
    return whole(bits_of(tensor))


def _n_elements(where: str, values: TensorInfo, name: str, forms: Mapping[str, Form]) -> int:
    """Return the elements of the model's tensor, or 0 where it is refused later."""
    dtype, shape = forms.get(name, (_DTYPE, (0,)))
    if (values.dtype, dtype) != (_DTYPE, _DTYPE):
        raise InputError(
            f"{where}: has values {values.dtype}, and the model's are {dtype}; these files have "
            f"{_DTYPE} alone"
        )
    return int(np.prod(shape, dtype=np.int64)) if name in forms else MOST_POSITIONS


def from_patch(
    patch: OnePatch,
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model_version: int = 0,
    encoding: str = "gap_delta",
    overwrite: bool = False,
) -> Path:
    """Write a patch as an update file.

    Args:
        patch: The patch.
        base: The model that it starts from.
        out: The file to write.
        model_version: The step that the file names.
        encoding: "raw" or "gap_delta" of version B, or "indices" for version A.
        overwrite: Replace an earlier file.

    Returns:
        The path of the file.

    Raises:
        InputError: The patch does not fit to the model, or changes what the file cannot hold: other
            tensors than bfloat16, or larger ones than positions of 32 bits name.
        StorageError: A file cannot be read or written.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"encoding: found {show(encoding)}, expected {either(ENCODINGS)}")
    if isinstance(model_version, bool) or not isinstance(model_version, int):
        raise InputError(f"model_version: found {show(model_version)}, expected a whole number")
    at, of = _SUFFIXES["indices" if encoding == "indices" else "raw"]
    found: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    names = []
    n_changed = n_elements = 0
    for one in changed_tensors(patch, base):
        if one.dtype != _DTYPE or one.new.size > MOST_POSITIONS:
            raise InputError(
                f"{base}: tensor {show(one.name)} is {one.dtype} of {one.new.size} elements, and "
                f"an update file of TRL holds {_DTYPE} of at most {MOST_POSITIONS}"
            )
        positions = one.positions()
        names.append(one.name)
        n_changed += positions.size
        n_elements += one.new.size
        found[one.name + at] = _encoded(positions, encoding)
        found[one.name + of] = (_DTYPE, one.new[positions])
    metadata = {
        "format": _FORMAT,
        "version": "1",
        "sparse": "True",
        "model_version": str(model_version),
        "num_changed_params": str(len(names)),
        "total_changed_elements": str(n_changed),
        "total_elements": str(n_elements),
        "sparsity": str(1.0 - n_changed / max(n_elements, 1)),
    }
    if encoding == "indices":
        metadata["changed_params"] = json.dumps(names)
    else:
        metadata["encoding"] = encoding
    return write_file(out, base, found, metadata, overwrite)


def _encoded(positions: npt.NDArray[np.intp], encoding: str) -> tuple[str, npt.NDArray[Any]]:
    if encoding != "gap_delta":
        return "I32", positions.astype("<i4")
    gaps = np.diff(positions, prepend=-1) - 1
    dtype = _GAPS[int(gaps.max(initial=0) > 0xFFFF)]
    return dtype, gaps.astype("<u2" if dtype == "U16" else "<u4")
