"""The models of a request, on disk or on the hub: open them, and download what is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.opening import open_donor, open_model, under_other_names
from ..checkpoint.scaled import with_scales
from ..errors import InputError
from ..hub.names import HubModel
from .adapters import named_by_adapter, warnings_of
from .places import PLUS, Places

if TYPE_CHECKING:
    from ..hub.download import Download


class Inputs:
    """The models of a request; ``opened`` has each that was asked for, by its path.

    Args:
        places: The directories from which the texts lead.
        texts: The texts of the models.
        donor: The text of the model that gives its small files alone, or None.
        variant: The variant of the weights, such as ``fp16``.
    """

    def __init__(
        self,
        places: Places,
        texts: Iterable[str],
        donor: str | None = None,
        variant: str | None = None,
    ) -> None:
        self._places = places
        self._variant = variant or ""
        pieces = [places.pieces(text) for text in texts]
        self._models = _on_the_hub(places, (first for first, *_ in pieces))
        self._adapters = _on_the_hub(places, (one for _, *others in pieces for one in others))
        self._donors = [] if donor is None else _on_the_hub(places, places.pieces(donor)[:1])
        self._warnings: list[str] = []
        self._read: dict[str, Checkpoint] = {}
        self.opened: dict[str, Checkpoint] = {}

    def open(self, text: str, rename: Mapping[str, str] | None = None) -> Checkpoint:
        """Open the model of this text, the same checkpoint every time; see ``open_model``.

        Only the headers of a model of the hub are there, unless the cache has all of the model. Its
        adapters are there: they are small, and their scales are among their tensors.

        Args:
            text: The text of the model, which may have adapters.
            rename: The prefixes of the names to replace, as ``under_other_names`` does.
        """
        first, *adapters = self._places.pieces(text)
        paths = [self._places.headers(first, self._variant), *map(self._places.local, adapters)]
        key = PLUS.join(paths)
        if key not in self.opened:
            try:
                self._read_model(paths[0])
            except InputError as error:
                raise named_by_adapter(error, first, adapters, self._places) from None
            self.opened[key] = self._with_adapters(paths)
            self._warnings.extend(warnings_of(text, self.opened[key], self._places))
        found = self.opened[key]
        return found if rename is None else under_other_names(found, rename)

    def _with_adapters(self, paths: list[str]) -> Checkpoint:
        first, *adapters = paths
        return _adapted(self._read_model(first), adapters)

    def _read_model(self, path: str) -> Checkpoint:
        if path not in self._read:
            self._read[path] = open_model(path, variant=self._variant)
        return self._read[path]

    @property
    def warnings(self) -> list[str]:
        """Warnings of the adapters of the models that were opened."""
        return list(dict.fromkeys(self._warnings))

    def open_donor(self, text: str) -> Checkpoint:
        """Open the model that gives its small files; see ``checkpoint.opening.open_donor``."""
        _, *adapters = self._places.pieces(text)
        found = open_donor(self._places.headers(text, weights=False))
        if not adapters:
            return found
        from ..checkpoint.adapters.opening import open_adapter

        opened = tuple(open_adapter(self._places.local(one)) for one in adapters)
        return replace(found, adapters=opened)

    @property
    def _on_hub(self) -> list[HubModel]:
        return [*self._models, *self._adapters, *self._donors]

    def downloads(self) -> tuple[Download, ...]:
        """Return what has to be downloaded before the data of the models can be read."""
        if not self._on_hub:
            return ()
        from ..hub.opening import missing

        wanted = [missing(model, self._variant) for model in self._models]
        wanted += [missing(one) for one in self._adapters if one not in self._models]
        wanted += [missing(one, weights=False) for one in self._donors if one not in self._models]
        return tuple(one for one in wanted if one is not None)

    def fetch_opaque(self, *, bars: bool) -> None:
        """Download the models whose tensors cannot be listed from afar, and all adapters."""
        if self._models or self._adapters:
            from ..hub.opening import files, is_opaque

            files([one for one in self._models if is_opaque(one)], self._variant, bars=bars)
            files(self._adapters, bars=bars)

    def fetch(self, *, bars: bool) -> bool:
        """Download what is missing, with a bar for each file; return False if nothing is.

        Models that are opened again after a download have their data.
        """
        wanted = self.downloads()
        if wanted:
            from ..hub.opening import fetch

            fetch(wanted, bars=bars)
            self.opened.clear()
            self._read.clear()
        return bool(wanted)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name the models of the hub in the errors of the block, not the files that stand in."""
        if not self._on_hub:
            yield
            return
        from ..hub.opening import named

        with named():
            yield


def open_whole(text: str, variant: str = "", *, bars: bool = False) -> Checkpoint:
    """Open a model with its adapters, all downloaded; its tensors may be of any kind.

    Args:
        text: The text of the model.
        variant: The variant of the weights, such as ``fp16``.
        bars: Show a bar for each file that is downloaded.

    Raises:
        InputError: The model is no complete, well-formed one, or an adapter does not fit to it.
        StorageError: A file cannot be read, or the hub fails.
    """
    places = Places.of()
    first, *adapters = places.pieces(text)
    found = with_scales(_stored(places, first, variant, bars=bars))
    return _adapted(found, (places.local(adapter, bars=bars) for adapter in adapters))


def _adapted(model: Checkpoint, adapters: Iterable[str]) -> Checkpoint:
    """Return a model with adapters, which are opened one after the other, laid over it."""
    for path in adapters:
        # Here, because most models have no adapter, and two dozen modules come with these.
        from ..checkpoint.adapters.opening import open_adapter
        from ..checkpoint.adapters.placing import place

        model = place(model, open_adapter(path))
    return model


def open_stored(text: str, variant: str = "", *, bars: bool = False) -> Checkpoint:
    """Open a model as its files store it: scales of others are tensors of their own.

    Args:
        text: The text of the model.
        variant: The variant of the weights, such as ``fp16``.
        bars: Show a bar for each file that is downloaded.

    Raises:
        InputError: The model is no complete, well-formed one, or the text names adapters.
        StorageError: A file cannot be read, or the hub fails.
    """
    places = Places.of()
    first, *adapters = places.pieces(text)
    if adapters:
        raise InputError(
            f"{text}: found an adapter on a model, expected a model as its files store it; merge "
            "the adapter into its model first (tallies merge), or pack with codec 'lora'"
        )
    return _stored(places, first, variant, bars=bars)


def _stored(places: Places, text: str, variant: str, *, bars: bool) -> Checkpoint:
    return Checkpoint.open(places.local(text, variant, bars=bars), variant=variant)


def _on_the_hub(places: Places, texts: Iterable[str]) -> list[HubModel]:
    return [model for text in dict.fromkeys(texts) if (model := places.hub_model(text))]
