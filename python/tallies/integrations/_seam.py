"""Replace functions of a host by ours, call by call, and put them back exactly.

A host is another tool that is installed here, such as mergekit. A seam is one function of a host
and the function of ours that takes its calls. Each call is ours, or goes to the host's own function
for a reason that is counted.
"""

from __future__ import annotations

import contextlib
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
from ._facts import HandOver, HostError, Original, Seam, Source, digest_of
from ._loading import WhenLoaded
from ._serving import Place, describe, find, places_of, serve

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
        self._holders: list[tuple[object, bool]] = []
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
            self._holders = [one for one in self._holders if one[0] is not self]
            self._holders.append((self, exact))

    def uninstall(self) -> None:
        """Undo ``install``: put back each function of the host where ours still stands.

        A function that somebody else has replaced since then stays as it is, with a warning that
        names the replacement. Blocks of ``installed`` around the call keep what they installed.
        """
        self._release(self)

    @contextlib.contextmanager
    def installed(self, *, exact: bool = True, force: bool = False) -> Iterator[None]:
        """Serve the host's functions by ours inside a ``with`` block; blocks may nest.

        Args:
            exact: As for ``install``; the innermost block decides.
            force: As for ``install``.

        Raises:
            InputError: The host is not installed.
        """
        holder = object()
        with self._lock:
            self._begin(force)
            self._holders.append((holder, exact))
        try:
            yield
        finally:
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
        if fresh:
            self._calls = {}
        for seam in found:
            self._serve(seam)
        for seam in late:
            then = functools.partial(self._loaded, seam, force)
            self._awaited[seam.label] = WhenLoaded(seam.module, then)

    def _loaded(self, seam: Seam, force: bool) -> None:
        """Serve a seam whose module somebody has just loaded."""
        with self._lock:
            if self._awaited.pop(seam.label, None) and (force or self._is_known(seam)):
                self._serve(seam)

    def _serve(self, seam: Seam) -> None:
        if (place := find(seam.module, seam.name)) is not None:
            self._stand(seam, place)

    def _stand(self, seam: Seam, home: Place) -> None:
        standing = _Standing(seam, home.value, lambda: None)
        standing.ours = self._replacement(standing)
        self._calls.setdefault(seam.label, Counter())
        standing.served = places_of(standing.host, home, self._package)
        serve(standing.served, standing.ours)
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
        for source in (Source(seam.module, seam.name, seam.digest), *seam.copied):
            place = find(source.module, source.name)
            found = None if place is None else digest_of(place.value)
            if found != source.digest:
                name = f"{source.module}.{source.name}".rstrip(".")
                self._warn(
                    f"{name}: found source {found or 'missing'}, expected {source.digest}; "
                    f"{seam.name} stays {self._package}'s own, install(force=True) replaces it all "
                    "the same"
                )
                return False
        return True

    def _warn(self, message: str) -> None:
        warnings.warn(message, UserWarning, stacklevel=5)

    def _replacement(self, standing: _Standing) -> Callable[..., Any]:
        seam, host = standing.seam, standing.host

        @functools.wraps(host)
        def replacement(*args: Any, **keywords: Any) -> Any:
            holders = self._holders
            if not holders:
                return host(*args, **keywords)
            exact = holders[-1][1]
            try:
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

    def _count(self, seam: Seam, reason: str) -> None:
        with self._lock:
            self._calls[seam.label][reason] += 1

    def _release(self, holder: object) -> None:
        with self._lock:
            self._holders = [one for one in self._holders if one[0] is not holder]
            if self._holders:
                return
            standing, self._standing = list(self._standing.values()), {}
            awaited, self._awaited = list(self._awaited.values()), {}
            for finder in awaited:
                finder.close()
            replaced = [text for one in standing for text in self._put_back(one)]
        for text in replaced:
            self._warn(text)

    def _put_back(self, one: _Standing) -> list[str]:
        """Put a host's function back wherever ours stands; return who else stands there."""
        others = [
            f"{place.label}: {describe(place.value)} stands there now and stays; it had replaced "
            "tallies' function"
            for place in map(Place.now, one.served)
            if place is not None and place.value is not one.ours and place.value is not one.host
        ]
        home = find(one.seam.module, one.seam.name)
        serve(places_of(one.ours, home, self._package), one.host)
        return others
