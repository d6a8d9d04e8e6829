"""Word the failures of the hub: one line with the model, the cause and a way out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from ..errors import InputError, StorageError, TalliesError
from ..messages import did_you_mean, show
from .library import endpoint, host, nearby, transport
from .names import HubModel

OFFLINE: Final = "the network may not be asked (--offline, HF_HUB_OFFLINE)"


@contextlib.contextmanager
def worded(model: HubModel, file: str = "") -> Iterator[None]:
    """Raise InputError or StorageError in place of what the library raises about a model.

    No address with its query, no header and no token gets into the message.
    """
    try:
        yield
    except TalliesError:
        raise
    except Exception as error:
        raise _failure(model, file, error) from None


def unreachable(model: HubModel, why: str) -> InputError:
    """Return the error for a hub that cannot be asked, and a cache without the model."""
    return InputError(
        f"{model}: no such file or directory here, not in the cache of downloads, and {why}; "
        f"download it first where there is a network (hf download {model.repo}), or name a "
        "directory" + did_you_mean(model.repo, nearby(model.repo))
    )


def is_about_the_network(error: BaseException) -> bool:
    """Return True if an error means that the hub could not be reached at all."""
    http = transport()
    return isinstance(error, (http.ConnectError, http.ConnectTimeout, http.ProxyError))


def _failure(model: HubModel, file: str, error: BaseException) -> TalliesError:
    from huggingface_hub import errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and cause is not None:
        error = cause
    name = f"{model}{file and '/'}{file}"
    page = f"{endpoint()}/{model.repo}"
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{name}: is gated; ask for access at {page}, then log in with 'hf auth login' or set "
            "HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return _no_such_model(model)
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"{model}: the model has no revision {show(model.revision)}; {page}/commits/main lists "
            "the revisions"
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return InputError(f"{name}: the model has no such file; {page}/tree/main lists the files")
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return unreachable(model, OFFLINE)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return _no_such_model(model) if status == 404 else _refused(name, status)
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{name}: is no name of a model, expected org/name")
    if is_about_the_network(error):
        return unreachable(model, f"{host()} cannot be reached")
    if isinstance(error, transport().TransportError):
        return StorageError(
            f"{name}: the connection to {host()} broke off again and again; run the same command "
            "again, finished files are kept"
        )
    if isinstance(error, OSError) and error.strerror:
        return StorageError(f"{error.filename or name}: {error.strerror}")
    if "onsistency check" in str(error):
        return StorageError(
            f"{name}: {host()} sent a file of another size than it announced; run the same command "
            "again"
        )
    return StorageError(f"{name}: cannot be downloaded ({type(error).__name__})")


def _no_such_model(model: HubModel) -> InputError:
    return InputError(
        f"{model}: no such file or directory here, and {host()} has no such model or keeps it "
        "private; check the spelling, or log in with 'hf auth login'"
        + did_you_mean(model.repo, nearby(model.repo))
    )


def _refused(name: str, status: int) -> TalliesError:
    if status == 429:
        return StorageError(f"{name}: {host()} counts too many requests; wait, then run again")
    if status in (401, 403):
        return InputError(
            f"{name}: {host()} refuses the token (status {status}); log in again with "
            "'hf auth login', or unset HF_TOKEN"
        )
    return StorageError(f"{name}: {host()} answers with status {status}; try again later")
