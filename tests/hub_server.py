"""A small Hub on the loopback address: the part of the protocol by which `huggingface_hub` pushes and pulls models.

As the real one, it keeps large files apart, by their SHA-256, so that an upload that was interrupted goes on where it
stopped.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

OWNER, TOKEN = "user", "hf_writer"
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repo:
    """Commits, oldest first: their hash and the files."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit by its hash, or the last one of `main`."""
        return self.commits[-1] if revision == "main" else next((c for c in self.commits if c[0] == revision), None)


class Hub(ThreadingHTTPServer):
    """The server's state. `commits_to_fail` answers as many commits with an error; `uploads` counts large files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.uploads = 0
        self.commits_to_fail = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class Refused(Exception):
    """An answer that is no success: status, and the headers by which the client tells why."""

    def __init__(self, status: int, body: dict[str, Any] | None = None, **headers: str):
        self.status, self.body = status, json.dumps(body or {}).encode()
        self.headers = {f"X-Error-{name}": value for name, value in headers.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def repo(self, name: str) -> Repo:
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            raise Refused(401, Message="Invalid credentials in Authorization header")
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and authorization is None):
            raise Refused(404 if authorization else 401, Code="RepoNotFound")
        return repo

    def commit_of(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = self.repo(repo).at(revision)
        if commit is None:
            raise Refused(404, Code="RevisionNotFound")
        return commit

    # What is asked for; each answers with JSON, or with a file's commit and content.

    def get_info(self, repo: str, revision: str | None, **_) -> dict[str, Any]:
        sha, files = self.commit_of(repo, revision or "main")
        siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
        return {"id": repo, "sha": sha, "siblings": siblings, "private": self.repo(repo).private, "tags": []}

    def get_tree(self, repo: str, revision: str, **_) -> list[dict[str, Any]]:
        _, files = self.commit_of(repo, revision)
        return [{"type": "file", "path": p, "size": len(c), "oid": etag(c)} for p, c in files.items()]

    def get_file(self, repo: str, revision: str, path: str, **_) -> tuple[str, bytes]:
        sha, files = self.commit_of(repo, revision)
        if path not in files:
            raise Refused(404, Code="EntryNotFound")
        return sha, files[path]

    def create(self, body: bytes, **_) -> dict[str, Any]:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, Message="Invalid credentials in Authorization header")
        request = json.loads(body)
        name = f"{request['organization'] or OWNER}/{request['name']}"
        answer = {"url": f"{self.server.url}/{name}"}
        if name in self.server.repos:
            raise Refused(409, answer)
        is_private = request.get("visibility") == "private" or request.get("private", False)  # by the client's version
        self.server.repos[name] = Repo(is_private)
        return answer

    def validate(self, **_) -> dict[str, Any]:
        return {"errors": [], "warnings": []}

    def preupload(self, repo: str, body: bytes, **_) -> dict[str, Any]:
        self.repo(repo)
        paths = [file["path"] for file in json.loads(body)["files"]]
        mode = {True: "lfs", False: "regular"}
        return {
            "files": [
                {"path": path, "uploadMode": mode[path.endswith(".safetensors")], "shouldIgnore": False}
                for path in paths
            ]
        }

    def lfs_batch(self, repo: str, body: bytes, **_) -> dict[str, Any]:
        self.repo(repo)
        objects = json.loads(body)["objects"]
        for item in objects:
            if item["oid"] not in self.server.large_files:
                item["actions"] = {"upload": {"href": f"{self.server.url}/large/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def put_large(self, oid: str, body: bytes, **_) -> dict[str, Any]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large_files[oid] = body
        self.server.uploads += 1
        return {}

    def commit(self, repo: str, body: bytes, **_) -> dict[str, Any]:
        commits = self.repo(repo).commits
        if self.server.commits_to_fail:
            self.server.commits_to_fail -= 1
            raise Refused(503)
        files = dict(commits[-1][1])
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.large_files[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        sha = hashlib.sha1(body + commits[-1][0].encode()).hexdigest()
        commits.append((sha, files))
        return {"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha}

    ROUTES = (
        ("GET", rf"/api/models/{REPO}(/revision/(?P<revision>\w+))?", get_info),
        ("GET", rf"/api/models/{REPO}/tree/(?P<revision>\w+)", get_tree),
        ("GET", rf"/{REPO}/resolve/(?P<revision>\w+)/(?P<path>.+)", get_file),
        ("POST", r"/api/repos/create", create),
        ("POST", r"/api/validate-yaml", validate),
        ("POST", rf"/api/models/{REPO}/preupload/\w+", preupload),
        ("POST", rf"/api/models/{REPO}/commit/\w+", commit),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
        ("PUT", r"/large/(?P<oid>\w+)", put_large),
    )

    def answer(self) -> None:
        method, path = "GET" if self.command == "HEAD" else self.command, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for verb, pattern, respond in self.ROUTES:
                if verb == method and (match := re.fullmatch(pattern, path)):
                    answer = respond(self, **match.groupdict(), body=body)
                    break
            else:
                raise Refused(404)
        except Refused as refused:
            self.send(refused.status, refused.body, refused.headers)
            return
        if isinstance(answer, tuple):
            sha, content = answer
            self.send(200, content, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": sha})
        else:
            self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Silence: the tests have their own words."""


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
