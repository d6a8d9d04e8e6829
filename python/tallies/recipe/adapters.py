"""Finds the base of an adapter that stands where a model is expected: ``base+adapter``.

A base that the adapter's configuration names by a path that exists is taken; then the base of the
recipe; then the model of the hub that the configuration names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..checkpoint.adapters.peft_config import CONFIG
from ..checkpoint.adapters.recognising import is_adapter, stated_base
from ..checkpoint.checkpoint import Checkpoint
from ..errors import InputError
from ..hub.names import HubModel, of_snapshot
from ..messages import show
from .places import PLUS, Places

_MERGE_IT = "or merge it into its base first (PEFT: merge_and_unload, then save_pretrained)"


def with_base(text: str, places: Places, base: str | None = None) -> str:
    """Return the text of a model, with its base before it if the model is an adapter alone.

    Args:
        text: The text of a model, which may have adapters.
        places: The directories from which the text leads.
        base: The text of the request's base, or None.

    Returns:
        The text itself, or ``BASE+ADAPTER``.

    Raises:
        InputError: No base is known for an adapter, or it is an adapter as well.
        StorageError: The hub fails.
    """
    first = places.pieces(text)[0]
    path = _directory(places, first)
    if not is_adapter(path):
        return text
    found = _base_of(first, path, places, base)
    try:
        is_another = is_adapter(_directory(places, places.pieces(found)[0]))
    except InputError as error:
        raise InputError(
            f"{path}: is an adapter on {show(found)}; {error}; a model before it (MODEL"
            f"{PLUS}{text}) is taken instead"
        ) from None
    if is_another:
        other = _on_one_line(found)
        raise InputError(
            f"{path}: is an adapter on {other}, which is an adapter itself; name the model and "
            f"both adapters, in their order (MODEL{PLUS}{other}{PLUS}{text}), {_MERGE_IT}"
        )
    return f"{found}{PLUS}{text}"


def _directory(places: Places, text: str) -> str:
    """Return a path at which the small files of a model can be read."""
    return places.path(text) if places.is_local(text) else places.headers(text, weights=False)


def _base_of(text: str, path: str, places: Places, base: str | None) -> str:
    stated = stated_base(path)
    local = _local(stated, text, places) if stated else None
    if local is not None:
        same = base is not None and places.identity(base) == places.identity(local)
        return base if same and base is not None else local
    if base is not None:
        return base
    if stated is None:
        raise InputError(
            f"{path}: is an adapter that names no base; name the model before it "
            f"(MODEL{PLUS}{text}), give the recipe a base_model (--base MODEL), {_MERGE_IT}"
        )
    if places.hub_model(stated) is None:
        raise InputError(
            f"{path}: is an adapter on {show(stated)}, and nothing is there; name the model before "
            f"it (MODEL{PLUS}{text}), give the recipe a base_model (--base MODEL), {_MERGE_IT}"
        )
    return stated


def _local(stated: str, adapter: str, places: Places) -> str | None:
    """Return the text of a base that is a path with something there, from the adapter's too.

    Args:
        stated: The base as the adapter's configuration names it.
        adapter: The text of the adapter.
        places: The directories from which the texts lead.
    """
    if places.is_local(stated):
        return stated
    path = places.path(adapter)
    if stated.startswith("~") or not os.path.exists(path):
        return None
    is_folder = os.path.isdir(path)
    beside = os.path.join(path if is_folder else os.path.dirname(path), stated)
    if not os.path.exists(beside):
        return None
    short = os.path.normpath(
        os.path.join(adapter if is_folder else os.path.dirname(adapter), stated)
    )
    same = places.is_local(short) and os.path.samefile(places.path(short), beside)
    return short if same else beside


def named_by_adapter(
    error: InputError, base: str, adapters: Iterable[str], places: Places
) -> InputError:
    """Return the error of a model that is none, with the adapter that names it as its base.

    Args:
        error: The error of the model.
        base: The text of the model.
        adapters: The texts of the adapters on it.
        places: The directories from which the texts lead.
    """
    for adapter in adapters:
        path = places.path(adapter)
        try:
            stated = stated_base(path)
        except InputError:  # its own error follows once the model is right
            continue
        local = _local(stated, adapter, places) if stated else None
        if local is not None and places.identity(local) == places.identity(base):
            return InputError(
                f"{error} ({show(stated)} is the base_model_name_or_path in the {CONFIG} of "
                f"{path}; to take another model, name it before the adapter: MODEL{PLUS}{adapter})"
            )
    return error


def other_base(text: str, found: str, base: str, places: Places) -> Iterator[str]:
    """Yield a warning if an adapter's own base is not the base of the request.

    Args:
        text: The text of the adapter.
        found: The text that ``with_base`` made of it.
        base: The text of the request's base.
        places: The directories from which the texts lead.
    """
    own = places.pieces(found)[0]
    if places.identity(own) != places.identity(places.pieces(base)[0]):
        yield (
            f"model {text!r} is an adapter on {own!r}, and the base_model is {base!r}: its task "
            f"vector has the difference of both models; {base}{PLUS}{text} adds it to the base"
        )


def warnings_of(text: str, checkpoint: Checkpoint, places: Places) -> Iterator[str]:
    """Yield what a user has to hear of the adapters of a model.

    Args:
        text: The text of the model.
        checkpoint: The model with its adapters.
        places: The directories from which the text leads.
    """
    base = places.pieces(text)[0]
    for number, adapter in enumerate(checkpoint.adapters):
        if adapter in checkpoint.adapters[:number]:
            yield f"{adapter.path}: is added to {show(base)} again, and counts again"
            continue
        yield from adapter.warnings
        stated = adapter.base or stated_base(str(adapter.path))
        if stated and not _is_same(stated, base, str(adapter.path), checkpoint, places):
            yield (
                f"{adapter.path}: is an adapter on {show(stated)}, as its configuration says, and "
                f"is added to {show(base)}; if these are different models, name its own before it "
                f"({_on_one_line(stated)}{PLUS}...)"
            )


def _on_one_line(text: str) -> str:
    """Return a stranger's text as it is, or with escapes for what is no sign to be seen."""
    return text if text.isprintable() else show(text)


def _is_same(stated: str, base: str, adapter: str, checkpoint: Checkpoint, places: Places) -> bool:
    """Tell if an adapter's base and the model it is added to are one, as far as names tell."""
    local = _local(stated, adapter, places)
    if local is not None and places.identity(local) == places.identity(base):
        return True
    told = stated.partition("@")[0]
    names = {os.path.basename(os.path.normpath(os.path.realpath(checkpoint.path)))}
    names.add(os.path.basename(os.path.normpath(places.path(base))))
    known: list[HubModel | None] = [of_snapshot(checkpoint.path), places.hub_model(base)]
    for model in filter(None, known):
        names |= {model.repo, model.repo.rpartition("/")[2]}
    config = checkpoint.config() if Path(checkpoint.path).is_dir() else {}
    names.add(str(config.get("_name_or_path") or ""))
    last = os.path.basename(os.path.normpath(told))
    return bool({told, last} & names) or last.casefold() in map(str.casefold, names)
