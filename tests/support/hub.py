"""A hub on this machine: a server that speaks the paths, headers and failures of the real one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

TOKEN = "hf_AToken0fTheTestsThatNobodyMaySee"

_SMALL = 1 << 12
"""Files below this size are sent by the hub itself, and larger ones from the CDN."""


@dataclass(frozen=True)
class Body:
    """A file: its first bytes, and zeros up to its size."""

    start: bytes
    n_bytes: int

    @property
    def blob(self) -> str:
        return hashlib.sha256(self.start + str(self.n_bytes).encode()).hexdigest()

    def pieces(self, first: int, end: int) -> Iterator[bytes]:
        if first < len(self.start):
            yield self.start[first:end]
            first = len(self.start)
        while first < end:
            step = min(end - first, 1 << 20)
            yield bytes(step)
            first += step


@dataclass
class Repository:
    """A model: its files by commit, and the commits of its branches and tags."""

    name: str
    commits: dict[str, dict[str, Body]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: Mapping[str, Body | bytes], *refs: str) -> str:
        """Add a commit and let branches and tags name it; ``main`` always does."""
        bodies = {
            name: body if isinstance(body, Body) else Body(body, len(body))
            for name, body in files.items()
        }
        text = repr([(name, body.blob) for name, body in sorted(bodies.items())])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = bodies
        self.refs |= dict.fromkeys((*refs, "main"), commit)
        return commit


class Hub:
    """The server: its models, what it was asked, and the faults that it still has to show."""

    def __init__(self) -> None:
        self.models: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request."""
        self.n_bytes = 0
        """Bytes of all answers, heads included."""
        self.faults: list[tuple[str, str, Any]] = []
        """A part of a path, a fault and its argument: each is shown once."""
        self.tokens_at_cdn: list[str] = []
        self.lock = threading.Lock()

    def model(self, name: str, files: Mapping[str, Body | bytes], *refs: str) -> Repository:
        """Add a model, or a commit to a model."""
        found = self.models.setdefault(name, Repository(name))
        found.commit(files, *refs)
        return found

    def directory(self, name: str, path: Path, *refs: str) -> Repository:
        """Add a model with the files of a directory."""
        files = [file for file in path.rglob("*") if file.is_file()]
        return self.model(
            name, {file.relative_to(path).as_posix(): file.read_bytes() for file in files}, *refs
        )

    def asked(self, part: str, method: str = "GET") -> int:
        """Count the requests whose path has this part."""
        return sum(part in path and one == method for one, path in self.requests)

    def fault(self, path: str) -> tuple[str, Any]:
        """Take the next fault for a path, or none."""
        with self.lock:
            for i, (part, kind, argument) in enumerate(self.faults):
                if part in path:
                    del self.faults[i]
                    return kind, argument
        return "", None

    def body(self, blob: str) -> Body | None:
        for repository in self.models.values():
            for files in repository.commits.values():
                for body in files.values():
                    if body.blob == blob:
                        return body
        return None


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.with_body = with_body
        self.kind, self.argument = self.hub.fault(f"{self.command} {path}")
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
        if self.kind == "status":
            status, headers = self.argument
            self._send(status, b"no", headers)
        elif path.startswith("/cdn/"):
            self._cdn(path.removeprefix("/cdn/"))
        elif match := re.fullmatch(r"/api/models/((?:[^/]+/)?[^/]+?)(?:/revision/(.+))?", path):
            self._api(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        else:
            self._send(404, b"")

    def _find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.hub.models.get(name)
        if repository is None:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def _api(self, name: str, revision: str) -> None:
        if (found := self._find(name, unquote(revision))) is None:
            return
        repository, commit = found
        siblings: list[dict[str, Any]] = []
        for file, body in repository.commits[commit].items():
            one: dict[str, Any] = {"rfilename": file, "size": body.n_bytes, "blobId": body.blob}
            if body.n_bytes >= _SMALL:
                one["lfs"] = {"size": body.n_bytes, "sha256": body.blob, "pointerSize": 130}
            siblings.append(one)
        data = {"id": name, "modelId": name, "sha": commit, "siblings": siblings}
        headers = {"Content-Type": "application/json"}
        self._send(200, json.dumps(data).encode(), headers)

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (found := self._find(name, unquote(revision))) is None:
            return
        repository, commit = found
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
            return
        body = repository.commits[commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if body is None:
            self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
        elif body.n_bytes < _SMALL:
            self._send_body(body, headers | {"ETag": f'"{body.blob}"'})
        else:
            # Another host name, as a CDN has: tokens must not follow.
            place = f"http://localhost:{self.server.server_address[1]}/cdn/{body.blob}"
            headers |= {"X-Linked-ETag": f'"{body.blob}"', "X-Linked-Size": str(body.n_bytes)}
            self._send(302, b"", headers | {"Location": place, "ETag": '"pointer"'})

    def _cdn(self, blob: str) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.tokens_at_cdn.append(token)
        body = self.hub.body(blob)
        if body is None:
            self._send(404, b"")
        else:
            self._send_body(body, {"ETag": f'"{blob}"'})

    def _send_body(self, body: Body, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, end, status = 0, body.n_bytes, 200
        if wanted and self.kind != "no ranges":
            first = int(wanted[1])
            end = min(int(wanted[2]) + 1, end) if wanted[2] else end
            status = 206
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{body.n_bytes}"
        self._head(status, end - first, headers)
        if not self.with_body:
            return
        if self.kind == "drop":
            end = min(end, first + self.argument)
        if self.kind == "slow":
            time.sleep(self.argument)
        try:
            for piece in body.pieces(first, end):
                self.wfile.write(piece)
                with self.hub.lock:
                    self.hub.n_bytes += len(piece)
        except OSError:  # the client has what it wants
            self.close_connection = True
        if self.kind == "drop":
            self.close_connection = True

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] = {}) -> None:
        self._head(status, len(content), headers)
        if self.with_body:
            self.wfile.write(content)
            with self.hub.lock:
                self.hub.n_bytes += len(content)

    def _head(self, status: int, n_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(n_bytes)}.items():
            self.send_header(name, value)
        with self.hub.lock:
            self.hub.n_bytes += sum(map(len, self._headers_buffer))  # type: ignore[attr-defined]
        self.end_headers()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Let a hub answer; yields its address."""
    handler = type("Answer", (_Answer,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@contextmanager
def asked_at(address: str, home: Path) -> Iterator[dict[str, str]]:
    """Let this process and those it starts take models from a hub; yields the environment."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    environment = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN_PATH": str(home / "token"),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    values = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    with mock.patch.dict(os.environ, environment), mock.patch.multiple(constants, **values):
        os.environ.pop("HF_TOKEN", None)
        close_session()
        yield environment
        close_session()
