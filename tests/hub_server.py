"""The Hugging Face hub as its library sees it: repositories, branches, commits and large files, over HTTP on this machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]
LARGE = (".safetensors", ".gif", ".png")


@dataclass
class Repository:
    """A repository.

    Attributes:
        private: whether it needs the owner's token.
        gated: whether its owner must grant access.
        branches: the commits of every branch, the newest last.
        commits: the files of every commit.
        messages: of the commits, the newest last.
    """

    private: bool = False
    gated: bool = False
    branches: dict[str, list[str]] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, message: str = "", branch: str = "main") -> str:
        """Add a commit that has the branch's files, and these."""
        before = self.branches.get(branch, [])
        content = {**(self.commits[before[-1]] if before else {}), **files}
        known = (
            f"{branch} {len(self.commits)} {sorted((name, hashlib.sha1(body).hexdigest()) for name, body in content.items())}"
        )
        commit = hashlib.sha1(known.encode()).hexdigest()
        self.commits[commit] = content
        self.branches[branch] = [*before, commit]
        self.messages.append(message)
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, or of itself."""
        return self.branches[revision][-1] if revision in self.branches else revision if revision in self.commits else None

    def files(self, branch: str = "main") -> Files:
        """The newest files of a branch."""
        return self.commits[self.branches[branch][-1]]


@dataclass
class Hub:
    """The server's state.

    Attributes:
        address: for $HF_ENDPOINT.
        repositories: by name.
        users: name and role by token.
        trouble: what goes wrong: `cut`, `wrong bytes`, `busy`, `full`, `moved`.
        asked: method and path of every request.
        objects: large files, by SHA-256.
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    users: dict[str, tuple[str, str]] = field(default_factory=lambda: {"secret": ("me", "write"), "reader": ("me", "read")})
    trouble: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    objects: Files = field(default_factory=dict)

    def downloads(self) -> list[str]:
        """The paths of what was downloaded."""
        return [path for method, path in self.asked if method == "GET" and ("/resolve/" in path or path.startswith("/lfs/"))]

    def add(self, name: str, files: Files, **options: bool) -> Repository:
        """A repository with one commit."""
        self.repositories[name] = Repository(**options)
        self.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n", **files})
        return self.repositories[name]


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub without repositories, while the block runs."""
    state = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": state}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def _serve(self) -> None:
        self.hub.asked.append((self.command, self.path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        try:
            for method, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, url.path)
                if found and self.command in method:
                    answer(self, *(unquote(part) for part in found.groups()))
                    return
            raise _RefusedError(404)
        except _RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(
                refused.status, json.dumps({"error": refused.message}).encode(), **{k: v for k, v in headers.items() if v}
            )

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815  as http.server calls them

    def _send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _user(self) -> tuple[str, str] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise _RefusedError(401, message="Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def _repository(self, name: str, write: bool = False) -> Repository:
        user, found = self._user(), self.hub.repositories.get(name)
        if self.hub.trouble == "busy":
            raise _RefusedError(503, message="busy")
        if found is None or (found.private and user is None):
            raise _RefusedError(404 if user else 401, "RepoNotFound", "Repository not found")
        if found.gated:
            raise _RefusedError(403, "GatedRepo", "Access to this model is restricted")
        if write and (user is None or user[1] != "write" or name.partition("/")[0] not in (user[0], "lab")):
            raise _RefusedError(403, message="you do not have the right to write")
        return found

    def _commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.resolve(revision)
        if commit is None:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise _RefusedError(401, message="Invalid username or password.")
        self._json({"type": "user", "name": user[0], "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": user[1]}}})

    def info(self, name: str, revision: str = "main") -> None:
        repository = self._repository(name)
        commit = self._commit_of(repository, revision)
        siblings: list[dict[str, Any]] = []
        for file, body in repository.commits[commit].items():
            siblings.append({"rfilename": file})
            if "blobs" in self.query:
                siblings[-1] |= {"size": len(body), "blobId": _blob_id(body)}
                if file.endswith(LARGE):
                    siblings[-1]["lfs"] = {"sha256": _sha256(body), "size": len(body), "pointerSize": 130}
        self._json({"id": name, "private": repository.private, "sha": commit, "siblings": siblings, "tags": [], "downloads": 0})

    def resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        commit = self._commit_of(repository, revision)
        body = repository.commits[commit].get(file)
        if body is None:
            self._send(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit)
        elif file.endswith(LARGE):
            oid = _sha256(body)
            self.hub.objects[oid] = body
            # Large files come from another host.
            elsewhere = f"{self.hub.address.replace('127.0.0.1', 'localhost')}/lfs/{oid}"
            linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(body))}
            self._send(302, Location=elsewhere, X_Repo_Commit=commit, **linked)
        else:
            self._send(200, body, ETag=f'"{_blob_id(body)}"', X_Repo_Commit=commit)

    def large(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise _RefusedError(400, message="the token has left the hub")
        body = self.hub.objects[oid]
        if self.hub.trouble == "cut":
            self.close_connection = True
            self._send(200, body[: len(body) // 2], length=len(body), ETag=f'"{oid}"')
        else:
            self._send(200, bytes(len(body)) if self.hub.trouble == "wrong bytes" else body, ETag=f'"{oid}"')

    def create(self) -> None:
        wanted = json.loads(self.body)
        user = self._user()
        name = f"{wanted.get('organization') or (user or ('', ''))[0]}/{wanted['name']}"
        if user is None or user[1] != "write" or not name.startswith(("me/", "lab/")):
            raise _RefusedError(403, message="you do not have the right to create it")
        if name in self.hub.repositories:
            raise _RefusedError(409, message="You already created this model repo")
        self.hub.add(name, {}).private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self._json({"url": f"{self.hub.address}/{name}", "name": name})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        if not re.match(r"---\n(.*\n)*?license: \S+\n(.*\n)*?---\n", text):
            self._send(400, json.dumps({"errors": [{"message": "no license"}], "warnings": []}).encode())
        else:
            self._json({"errors": [], "warnings": []})

    def branch(self, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        if branch in repository.branches:
            raise _RefusedError(409, message="Reference already exists")
        repository.branches[branch] = [repository.branches["main"][-1]]
        self._json({})

    def preupload(self, name: str, revision: str) -> None:
        self._commit_of(self._repository(name, write=True), revision)
        files = [file["path"] for file in json.loads(self.body)["files"]]
        mode = {file: "lfs" if file.endswith(LARGE) else "regular" for file in files}
        self._json({"files": [{"path": file, "uploadMode": mode[file], "shouldIgnore": False} for file in files]})

    def batch(self, name: str) -> None:
        self._repository(name, write=True)
        objects = json.loads(self.body)["objects"]
        for one in objects:
            if one["oid"] not in self.hub.objects:
                one["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if self.hub.trouble == "full":
            raise _RefusedError(403, message="storage quota exceeded")
        if _sha256(self.body) != oid:
            raise _RefusedError(400, message="wrong bytes")
        self.hub.objects[oid] = self.body
        self._send(200)

    def commit(self, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if self.hub.trouble == "moved":
            repository.commit({"README.md": b"somebody else's"})
        if header.get("parentCommit") not in (None, repository.branches[branch][-1]):
            raise _RefusedError(412, message="A commit has happened since. Please refresh and try again.")
        files = {}
        for line in lines[1:]:
            value = line["value"]
            files[value["path"]] = (
                base64.b64decode(value["content"]) if line["key"] == "file" else self.hub.objects[value["oid"]]
            )
        commit = repository.commit(files, header["summary"], branch)
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit, "success": True})


_NAME = "([^/]+/[^/]+)"
_ROUTES = (
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("GET",), f"/api/models/{_NAME}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/revision/([^/]+)", _Handler.info),
    (("GET", "HEAD"), f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (("GET", "HEAD"), "/lfs/([0-9a-f]+)", _Handler.large),
    (("PUT",), "/lfs/([0-9a-f]+)", _Handler.put),
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("POST",), f"/api/models/{_NAME}/branch/([^/]+)", _Handler.branch),
    (("POST",), f"/api/models/{_NAME}/preupload/([^/]+)", _Handler.preupload),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (("POST",), f"/api/models/{_NAME}/commit/([^/]+)", _Handler.commit),
)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _blob_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
