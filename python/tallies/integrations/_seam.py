"""Replace functions of a host by ours, call by call, and put them back exactly.

A host is another tool that is installed here, such as mergekit. A seam is one function of a host
and the function of ours that takes its calls. Each call is ours, or goes to the host's own function
for a reason that is counted.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ._facts import HandOver, HostError, Original, Seam, Source
from ._loading import WhenLoaded
from ._serving import Place, describe, find, others_of, places_of, serve
from ._sources import pieces_of
from ._tensors import reason_of_state

__all__ = ["HandOver", "Host", "HostError", "Original", "Seam", "Source"]


@dataclass
class _Standing:
    """A seam that is installed."""

    seam: Seam
    host: Callable[..., Any]
    ours: Callable[..., Any]
    served: list[Place] = field(default_factory=list)


class Host:
    """The seams of one host. Installing is idempotent, counted, and safe between threads.

    Args:
        package: The name of the package to import, such as ``mergekit``.
        versions: The versions that the seams were tested with.
        seams: The functions to replace.
        distribution: The name for pip, where it is another.
    """

    def __init__(
        self,
        package: str,
        versions: Sequence[str],
        seams: Callable[[], Sequence[Seam]],
        *,
        distribution: str | None = None,
    ) -> None:
        self._package = package
        self._versions = tuple(versions)
        self._make_seams = seams
        self._distribution = distribution or package
        self._lock = threading.RLock()
        self._standing: dict[str, _Standing] = {}
        # Whatever holds the installation, and how exact it is; for install this is the host itself.
        self._holders: dict[object, bool] = {}
        self._blocks: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar(
            f"blocks of {package}", default=()
        )
        self._calls: dict[str, Counter[str]] = {}
        self._awaited: dict[str, WhenLoaded] = {}

    def install(self, *, exact: bool = True, force: bool = False) -> None:
        """Serve the host's functions from here on by ours.

        A function whose source is not the one that was tested keeps the host's path, with a
        warning; so do all functions of a version that was not tested. A second call changes
        ``exact`` and serves what is not served yet.

        Args:
            exact: True for the host's own bits, or else the host's own function, call by call.
                False for ours throughout: 16-bit inputs are summed in float32 and rounded once,
                and among equal magnitudes the lowest index stays.
            force: True to serve functions of unknown versions and sources too.

        Raises:
            InputError: The host is not installed.
        """
        with self._lock:
            self._begin(force)
            self._holders = {**self._holders, self: exact}

    def uninstall(self) -> None:
        """Undo ``install``: put back each function of the host where ours still stands.

        A function that somebody else has replaced since then stays as it is, with a warning that
        names the replacement. Blocks of ``installed`` around the call keep what they installed.
        """
        self._release(self)

    @contextlib.contextmanager
    def installed(self, *, exact: bool = True, force: bool = False) -> Iterator[None]:
        """Serve the host's functions by ours inside a ``with`` block; blocks may nest.

        The innermost block of a thread or task says how exact its calls are, or else ``install``.
        Calls of threads without either are exact, unless no block is.

        Args:
            exact: As for ``install``.
            force: As for ``install``.

        Raises:
            InputError: The host is not installed.
        """
        holder = object()
        with self._lock:
            self._begin(force)
            self._holders = {**self._holders, holder: exact}
        self._blocks.set((*self._blocks.get(), holder))
        try:
            yield
        finally:
            self._blocks.set(tuple(one for one in self._blocks.get() if one is not holder))
            self._release(holder)

    def calls(self, seam: str | None = None) -> dict[str, int]:
        """Return how many calls were ours, and how many the host took, by reason.

        Counts begin anew with each installation, and stay readable after it.

        Args:
            seam: The module and name of one host function; by default, all together.

        Returns:
            ``{"ours": number, reason: number, ...}``.
        """
        with self._lock:
            total: Counter[str] = Counter(ours=0)
            for label, counts in self._calls.items():
                if seam in (None, label):
                    total.update(counts)
            return dict(total)

    def _begin(self, force: bool) -> None:
        """Serve the seams that do not stand yet."""
        # A host that is loaded may have no spec, and searching for it would fail.
        if self._package not in sys.modules and importlib.util.find_spec(self._package) is None:
            raise InputError(
                f"{self._package}: found no such package, expected {self._package} "
                f"{' or '.join(self._versions)}; run pip install "
                f"'{self._distribution}=={self._versions[-1]}'"
            )
        fresh = not self._standing and not self._holders
        known = force or self._has_known_version()
        taken = {*self._standing, *self._awaited}
        wanted = [one for one in self._make_seams() if known and one.label not in taken]
        late = [one for one in wanted if one.late and one.module not in sys.modules]
        found = [one for one in wanted if one not in late and (force or self._is_known(one))]
        homes = [place for one in found if (place := find(one.module, one.name)) is not None]
        for other in others_of(homes, self._package):
            self._warn(f"{other.label}: {describe(other.value)} stands there and stays")
        if fresh:
            self._calls = {}
        self._serve(found)
        for seam in late:
            then = functools.partial(self._loaded, seam, force)
            self._awaited[seam.label] = WhenLoaded(seam.module, then)

    def _loaded(self, seam: Seam, force: bool) -> None:
        """Serve a seam whose module somebody has just loaded."""
        with self._lock:
            if self._awaited.pop(seam.label, None) and (force or self._is_known(seam)):
                self._serve([seam])

    def _serve(self, seams: Sequence[Seam]) -> None:
        """Serve seams whose functions are there, after one look at all modules of the host."""
        homes = [(seam, find(seam.module, seam.name)) for seam in seams]
        there = [(seam, home) for seam, home in homes if home is not None]
        every = places_of([(home.value, home) for _, home in there], self._package)
        for (seam, home), places in zip(there, every, strict=True):
            standing = _Standing(seam, home.value, lambda: None, places)
            standing.ours = self._replacement(standing)
            self._calls.setdefault(seam.label, Counter())
            serve(places, standing.ours)
            self._standing[seam.label] = standing

    def _has_known_version(self) -> bool:
        try:
            version = importlib.metadata.version(self._distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "of no known version"
        if version in self._versions:
            return True
        self._warn(
            f"{self._package} {version}: tested with {', '.join(self._versions)} only; its own "
            "functions stay, install(force=True) replaces them all the same"
        )
        return False

    def _is_known(self, seam: Seam) -> bool:
        """Tell whether a seam's sources are those that were tested, and warn where not."""
        for name, found, expected in pieces_of(seam, self._own):
            if found != expected:
                self._warn(
                    f"{name}: found source {found or 'missing'}, expected {expected}; "
                    f"{seam.name} stays {self._package}'s own, install(force=True) replaces it all "
                    "the same"
                )
                return False
        return True

    def _own(self, value: Any) -> Any:
        """Return the host's function for ours."""
        return next((one.host for one in self._standing.values() if one.ours is value), value)

    def _warn(self, message: str) -> None:
        warnings.warn(message, UserWarning, stacklevel=5)

    def _replacement(self, standing: _Standing) -> Callable[..., Any]:
        seam, host = standing.seam, standing.host

        @functools.wraps(host)
        def replacement(*args: Any, **keywords: Any) -> Any:
            holders = self._holders
            # Somebody may have kept this function beyond its installation.
            if not holders or self._standing.get(seam.label) is not standing:
                return host(*args, **keywords)
            exact = self._exactness(holders)
            try:
                if (state := reason_of_state()) is not None:
                    raise HandOver(state)
                if exact and not seam.exact:
                    raise HandOver("within rounding only")
                result = seam.ours(Original(host, exact), *args, **keywords)
            except HostError as carried:
                self._count(seam, "ours")
                raise carried.error from carried.error.__cause__
            except HandOver as reason:
                self._count(seam, str(reason))
            except InputError:
                self._count(seam, "refused")
            except TypeError:
                self._count(seam, "arguments")
            else:
                self._count(seam, "ours")
                return result
            return host(*args, **keywords)

        return replacement

    def _exactness(self, holders: dict[object, bool]) -> bool:
        """Tell how exact a call of this thread or task is."""
        for block in reversed(self._blocks.get()):
            if block in holders:
                return holders[block]
        return holders[self] if self in holders else any(holders.values())

    def _count(self, seam: Seam, reason: str) -> None:
        with self._lock:
            self._calls[seam.label][reason] += 1

    def _release(self, holder: object) -> None:
        with self._lock:
            self._holders = {one: how for one, how in self._holders.items() if one is not holder}
            if self._holders:
                return
            standing, self._standing = list(self._standing.values()), {}
            awaited, self._awaited = list(self._awaited.values()), {}
            for finder in awaited:
                finder.close()
            replaced = self._put_back(standing)
        for text in replaced:
            self._warn(text)

    def _put_back(self, standing: Sequence[_Standing]) -> list[str]:
        """Put the host's functions back wherever ours stand; return who else stands there."""
        others = [
            f"{place.label}: {describe(place.value)} stands there now and stays; it had replaced "
            "tallies' function"
            for one in standing
            for place in map(Place.now, one.served)
            if place is not None and place.value is not one.ours and place.value is not one.host
        ]
        ours = [(one.ours, find(one.seam.module, one.seam.name)) for one in standing]
        for one, places in zip(standing, places_of(ours, self._package), strict=True):
            serve(places, one.host)
        return others
