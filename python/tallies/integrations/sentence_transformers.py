"""Merge models of sentence-transformers, in memory or on disk.

``merge`` takes and gives models or directories. ``install`` makes ``SentenceTransformer.merge`` run
on the kernels of this package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .. import methods
from ..errors import InputError
from ..merging.checkpoints import merge as merge_on_disk
from ..recipe.places import local_path
from ..spec.choices import MERGEKIT, PAPER, Semantics
from ._seam import Host, Seam

VERSIONS: Final = ("6.2.0",)
"""The versions that the seam was tested with."""

_DIGEST: Final = "debec22ae61b565f"
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {"slerp": {"t": 0.5}}
"""Parameters that the library gives and mergekit lacks, by method."""

__all__ = ["calls", "install", "installed", "merge", "uninstall"]


def merge(
    models: Sequence[Any],
    method: str = "linear",
    *,
    base_model: Any | None = None,
    parameters: Mapping[str, Any] | None = None,
    semantics: str | None = None,
    dtype: Any | None = None,
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Merge models of sentence-transformers with all their modules.

    Dense layers and heads are merged like the rest. Everything else, such as the configuration, the
    prompts and the tokenizer, is the base's, or the first model's without one.

    Args:
        models: ``SentenceTransformer`` objects (or of another class of the library, all of one), or
            directories and names of the hub.
        method: The name of the method.
        base_model: The model before fine-tuning, for methods that have one; an object or a path.
        parameters: The method's parameters; a sequence has one value for each model.
        semantics: The author whose variant of the method is meant; by default mergekit's, which
            ``SentenceTransformer.merge`` has, or the paper's for methods that mergekit lacks.
        dtype: The dtype of the result, by name or of torch; None for that of the models.
        out: The directory to write. Directories are merged tile by tile in bounded memory, without
            loading a model; objects are merged in memory and saved.
        options: Options of ``tallies.merge`` for directories, such as ``max_memory``.

    Returns:
        With ``out`` its path; without it a new model, in evaluation mode.

    Raises:
        InputError: The models differ in modules, settings or vocabularies, or cannot be merged.
        StorageError: Reading or writing fails.

    >>> merge(["all-MiniLM-L6-v2", "my-finetune"], out="merged")  # doctest: +SKIP
    PosixPath('merged')
    """
    if isinstance(models, (str, os.PathLike)) or not models:
        raise InputError(f"models: found {models!r}, expected a list of models")
    if semantics is None:
        semantics = MERGEKIT if MERGEKIT in methods.get(method).semantics else PAPER
    values = _values(method, semantics, parameters or {}, len(models))
    others = [i for i, model in enumerate(models) if not _is_same(model, base_model)]
    if base_model is not None:
        values = {
            name: [one[i] for i in others] if isinstance(one, list) else one
            for name, one in values.items()
        }
        models = [models[i] for i in others]
    every = [*models, *([base_model] if base_model is not None else [])]
    if out is not None and all(isinstance(one, (str, os.PathLike)) for one in every):
        request = _request(models, base_model, method, semantics, values, dtype)
        merge_on_disk(request, out, **(options or {}))
        return Path(out)
    if out is not None and os.path.lexists(out):
        raise InputError(f"{os.fspath(out)}: exists, expected a directory to create")
    made = _merge_in_memory(models, base_model, method, semantics, values, dtype)
    if out is None:
        return made
    made.save_pretrained(os.fspath(out))
    return Path(out)


def _is_same(model: Any, other: Any) -> bool:
    """Tell if two are one object or one text."""
    texts = isinstance(model, (str, os.PathLike)) and isinstance(other, (str, os.PathLike))
    return model is other or (texts and os.fspath(model) == os.fspath(other))


def _values(method: str, semantics: str, given: Mapping[str, Any], n_models: int) -> dict[str, Any]:
    """Return parameters with one value a model as lists, and the library's own defaults."""
    values = {}
    for name, value in {**_DEFAULTS.get(method, {}), **given}.items():
        if isinstance(value, Mapping) and all(isinstance(i, int) for i in value):
            value = [value.get(i) for i in range(n_models)]
        if isinstance(value, (list, tuple)) and not any(isinstance(v, Mapping) for v in value):
            if len(value) != n_models or None in value:
                raise InputError(
                    f"{name}: found {value!r}, expected one value for each of the {n_models} models"
                )
            value = list(value)
        values[name] = value
    if "weight" in methods.get(method).parameters(Semantics(semantics)):
        values.setdefault("weight", 1.0)
    return values


def _request(
    models: Sequence[Any],
    base: Any | None,
    method: str,
    semantics: str,
    values: Mapping[str, Any],
    dtype: Any | None,
) -> dict[str, Any]:
    """Return the recipe of a merge on disk."""
    per_model = {name: value for name, value in values.items() if isinstance(value, list)}
    request: dict[str, Any] = {
        "merge_method": method,
        "semantics": semantics,
        "models": [
            {"model": os.fspath(model), "parameters": {name: v[i] for name, v in per_model.items()}}
            for i, model in enumerate(models)
        ],
        "parameters": {name: value for name, value in values.items() if name not in per_model},
    }
    if base is not None:
        request["base_model"] = os.fspath(base)
    if dtype is not None:
        request["out_dtype"] = str(dtype).removeprefix("torch.")
    return request


def _merge_in_memory(
    models: Sequence[Any],
    base: Any | None,
    method: str,
    semantics: str,
    values: Mapping[str, Any],
    dtype: Any | None,
) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            "sentence-transformers is not installed, and models in memory are its own; "
            "pip install sentence-transformers"
        ) from None
    from ._sentence_models import merge_in_memory, torch_dtype

    def loaded(model: Any) -> Any:
        if isinstance(model, (str, os.PathLike)):
            return SentenceTransformer(local_path(model), device="cpu")
        return model

    return merge_in_memory(
        [loaded(model) for model in models],
        None if base is None else loaded(base),
        method,
        semantics,
        values,
        torch_dtype("dtype", dtype),
    )


def _seams() -> list[Seam]:
    from ._sentence_seam import served

    return [Seam("sentence_transformers.base.merging", "merge_models", _DIGEST, served)]


_HOST = Host("sentence_transformers", VERSIONS, _seams, distribution="sentence-transformers")
install = _HOST.install
uninstall = _HOST.uninstall
installed = _HOST.installed
calls = _HOST.calls
