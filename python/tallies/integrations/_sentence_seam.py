"""Serve the merge method of sentence-transformers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .. import methods
from ..spec.choices import MERGEKIT
from ._seam import HandOver, Original
from ._sentence_models import torch_dtype
from .sentence_transformers import merge


def served(
    original: Original,
    cls: type[Any],
    models: Sequence[Any],
    method: str = "linear",
    *,
    base_model: Any | None = None,
    parameters: Mapping[str, Any] | None = None,
    dtype: Any | None = "float32",
    out_dtype: Any | None = None,
    device: Any = "cpu",
    batch_options: Any | None = None,
    **load_kwargs: Any,
) -> Any:
    """Merge as ``SentenceTransformer.merge`` does: exactly through mergekit on ours, or by us."""
    if original.exact:
        if importlib.util.find_spec("mergekit") is None:
            raise HandOver("mergekit is missing")
        from .mergekit import installed as mergekit_installed

        with mergekit_installed():
            return original.host(
                cls,
                models,
                method,
                base_model=base_model,
                parameters=parameters,
                dtype=dtype,
                out_dtype=out_dtype,
                device=device,
                batch_options=batch_options,
                **load_kwargs,
            )
    if method not in methods.names() or MERGEKIT not in methods.get(method).semantics:
        raise HandOver("method")
    if len(models) < 2 or batch_options is not None:
        raise HandOver("arguments")
    if str(device) == "meta":
        raise HandOver("device")

    def loaded(model: Any) -> Any:
        if isinstance(model, (str, os.PathLike)):
            return cls(os.fspath(model), device="cpu", **load_kwargs)
        return model

    objects = {id(model): loaded(model) for model in [*models, base_model] if model is not None}
    made = merge(
        [objects[id(model)] for model in models],
        method,
        base_model=None if base_model is None else objects[id(base_model)],
        parameters=parameters,
        dtype=dtype,
    )
    return made.to(device=device, dtype=torch_dtype("out_dtype", out_dtype))
