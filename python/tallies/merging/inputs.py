"""Opens the models of a request, on disk or on the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.opening import open_donor, open_model, under_other_names
from ..recipe.config import MergeConfig

if TYPE_CHECKING:
    from ..hub.download import Download


class Inputs:
    """The models of a request; ``opened`` has each that was asked for, by its path.

    Args:
        config: The request, whose models of the hub have their commits.
    """

    def __init__(self, config: MergeConfig) -> None:
        self._config = config
        self.opened: dict[str, Checkpoint] = {}

    def open(self, text: str, rename: Mapping[str, str] | None = None) -> Checkpoint:
        """Open the model of this text, the same checkpoint every time; see ``open_model``.

        Only the headers of a model of the hub are there, unless the cache has all of the model.

        Args:
            text: The text of the model.
            rename: The prefixes of the names to replace, as ``under_other_names`` does.
        """
        variant = self._config.variant or ""
        path = self._config.places.headers(text, variant)
        if path not in self.opened:
            self.opened[path] = open_model(path, variant=variant)
        found = self.opened[path]
        return found if rename is None else under_other_names(found, rename)

    def donor(self, text: str) -> Checkpoint:
        """Open the model that gives its small files; see ``open_donor``."""
        return open_donor(self._config.places.headers(text, weights=False))

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name the models of the hub in the errors of the block, not the files that stand in."""
        if not any(map(self._config.places.hub_model, texts(self._config))):
            yield
            return
        from ..hub.opening import named

        with named():
            yield


def texts(config: MergeConfig) -> list[str]:
    """Return the texts of all models of a request, each once; the donor of small files is last."""
    found = [config.base_model, *(entry.model for entry in config.experts()[0]), config.files_from]
    return list(dict.fromkeys(text for text in found if text))


def downloads(config: MergeConfig) -> tuple[Download, ...]:
    """Return what has to be downloaded before a request can be merged.

    A model that only gives small files is asked for these alone.
    """
    models = {text: config.places.hub_model(text) for text in texts(config)}
    if not any(models.values()):
        return ()
    from ..hub.opening import missing

    wanted = [
        missing(model, config.variant or "", weights=_gives_weights(config, text))
        for text, model in models.items()
        if model is not None
    ]
    return tuple(one for one in wanted if one is not None)


def fetch(wanted: tuple[Download, ...], *, bars: bool) -> None:
    """Download files of a request's models; see ``hub.download.download``."""
    if wanted:
        from ..hub.opening import fetch as fetch_from_hub

        fetch_from_hub(wanted, bars=bars)


def fetch_opaque(config: MergeConfig, *, bars: bool) -> None:
    """Download the models whose tensors cannot be listed from afar."""
    models = [config.places.hub_model(text) for text in texts(config)]
    if any(models):
        from ..hub.opening import files, is_opaque_model

        opaque = [one for one in models if one and is_opaque_model(one)]
        files(opaque, config.variant or "", bars=bars)


def _gives_weights(config: MergeConfig, text: str) -> bool:
    entries = config.experts()[0]
    return text in (config.base_model, *(entry.model for entry in entries))
