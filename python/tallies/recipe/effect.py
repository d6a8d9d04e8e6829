"""A recipe with everything written out that is in effect, defaults included.

A report that repeats its merge holds such a recipe, so that another version of this package with
other defaults repeats it too.
"""

from __future__ import annotations

from typing import Any

from ..spec.choices import Extra, Missing
from ..spec.parameters import told
from . import modifiers
from .config import MergeConfig
from .settings import Scalar, Setting, never_lacks


def in_effect(config: MergeConfig) -> MergeConfig:
    """Return a request that names every value which this one leaves to a default.

    Defaults that have no effect stay unnamed.
    Parameters stand under ``parameters``, whether the method has one value of them, one a tensor or
    one a model; a model keeps those of its own, and has those that follow from its order. A list of
    rules that fits only some tensors gets a last rule for the others. Keys that are missing still
    mean the base's own: its dtypes, its files; and parameters without a default are there only
    where they were given.
    """
    experts = config.own_parameters()
    shared: dict[str, Setting] = {}
    parameters = config.method.parameters(config.semantics)
    for name, parameter in parameters.items():
        own = [given.get(name) for given in experts]
        if parameter.per_model and name not in config.parameters and all(map(never_lacks, own)):
            continue  # nothing would read a shared value
        setting = _completed(config.parameters.get(name), parameter.default)
        if setting is not None:
            shared[name] = setting
    heard = told(shared, parameters)
    shared = {name: shared[name] for name in shared if name in config.parameters or name in heard}
    belonging: dict[str, Any] = {
        "missing": _completed(config.missing, Missing.ERROR),
        "extra": _completed(config.extra, Extra.ERROR),
    }
    if config.method.by_order(config.parameters, len(experts)) is not None:
        belonging["models"] = tuple(config.experts()[0])
    return config.model_copy(update={"parameters": shared, **_modifiers(config), **belonging})


def _modifiers(config: MergeConfig) -> dict[str, Any]:
    """Return the modifiers that are given, with their defaults."""
    found: dict[str, Any] = {}
    if config.post_scale is not None:
        found["post_scale"] = _completed(config.post_scale, 1.0)
    for options in (modifiers.LayerScaling, modifiers.DropLayers):
        if (given := getattr(config, options.name)) is not None:
            found[options.name] = {
                name: given.get(name, option.default)
                for name, option in options.parameters().items()
            }
    return found


def _completed(setting: Setting | None, default: Scalar | None) -> Setting | None:
    """Return a setting that has a value for every tensor, if there is a default."""
    if setting is None or default is None:
        return default if setting is None else setting
    if never_lacks(setting):
        return setting
    assert isinstance(setting, list)
    return [*setting, {"filter": None, "value": default}]
