"""Read the first bytes of a file on the hub, however large the file is."""

from __future__ import annotations

from .attempts import attempt
from .failures import worded
from .library import endpoint, quietly, transport, utilities
from .listing import Listing, RemoteFile

_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_ANSWER = 30.0


def read_start(listing: Listing, file: RemoteFile, first: int, end: int) -> bytes:
    """Return the bytes of a file from ``first`` up to ``end``, or to the end of the file.

    Raises:
        InputError: This user may not read the file.
        StorageError: The hub fails, or the file is another one than was listed.
    """
    end = min(end, file.n_bytes)
    if first >= end:
        return b""
    with worded(listing.model, file.name), quietly():
        return attempt(lambda: _read(listing, file, first, end))


def _read(listing: Listing, file: RemoteFile, first: int, end: int) -> bytes:
    from huggingface_hub import hf_hub_url

    model = listing.model
    url = hf_hub_url(model.repo, file.name, revision=model.revision, endpoint=endpoint())
    headers = utilities().build_hf_headers(library_name="tallies")
    # A compressed answer would count its bytes in another way.
    headers |= {"Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity"}
    http = transport()
    timeout = http.Timeout(_SECONDS_TO_ANSWER, connect=_SECONDS_TO_CONNECT)
    with (
        utilities()
        .get_session()
        .stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response
    ):
        utilities().hf_raise_for_status(response)
        # A server that knows no ranges sends the file from its beginning.
        skip = 0 if response.status_code == 206 else first
        found = bytearray()
        for chunk in response.iter_bytes():
            found += chunk
            if len(found) >= skip + end - first:
                break
    if len(found) < skip + end - first:
        raise http.RemoteProtocolError("the answer ends early")
    return bytes(found[skip : skip + end - first])
