# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Hugging Face hub on localhost, as far as its real client asks: look up, list, download, upload.

    with hub_server.running() as server:
        server.add("models", "OWNER/NAME", {"config.json": b"..."})
        # HF_ENDPOINT=server.url

Files that end in .safetensors or .parquet are LFS files: their ETag is the SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".parquet")
ACTIONS = {"commit": "/commit/main$", "delete": "/repos/delete$", "write": "/auth-check/write$"}


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False  # needs a token
    commit: str = ""
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit


class Server:
    """What is on the hub, what goes wrong, and what was asked."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.asked: list[tuple[str, str, str]] = []  # method, path, Range
        self.cut: dict[str, list[int]] = {}  # file -> after so many bytes each of the next answers is cut
        self.spoilt: dict[str, bytes] = {}  # file -> what is sent in its place
        self.down = False  # 503 to all
        self.token = ""  # of the last request
        self.commits: list[dict[str, Any]] = []  # what was uploaded: {path: bytes}
        self.created: dict[str, str] = {}  # name -> private or public
        self.forbidden: set[str] = set()  # refused: commit, delete, write, card
        self.stored: dict[str, bytes] = {}  # oid -> uploaded LFS file
        self.url = ""

    def add(self, kind: str, name: str, files: dict[str, bytes], **more: Any) -> Repo:
        """A repository with one commit, on the branch main. `kind`: models or datasets."""
        text = json.dumps({path: oid(path, content) for path, content in sorted(files.items())})
        commit = hashlib.sha1((name + text).encode()).hexdigest()
        repo = Repo(files, commit=commit, branches={"main": commit, commit: commit}, **more)
        self.repos[kind, name] = repo
        return repo

    def got(self, file: str, method: str = "GET") -> int:
        """How often a file was asked for."""
        return sum(m == method and path.endswith(f"/{file}") and "/resolve/" in path for m, path, _ in self.asked)


def oid(path: str, content: bytes) -> str:
    """The git blob's name, or the SHA-256 of an LFS file."""
    if path.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, code: int, body: Any = None, **headers: str) -> None:
            content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def repo(self, kind: str, name: str) -> Repo | None:
            """The repository, unless an error was answered."""
            repo = server.repos.get((kind, name))
            if repo is None or (repo.private and not server.token):
                self.answer(401 if not server.token else 404, X_Error_Code="RepoNotFound", X_Error_Message="not found")
                return None
            if repo.gated:
                self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
                return None
            return repo

        def dispatch(self) -> None:
            path = unquote(urlsplit(self.path).path)
            server.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            server.asked.append((self.command, path, self.headers.get("Range", "")))
            if server.down:
                return self.answer(503)
            if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                return self.info(*match.groups())
            if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/(.+)", path):
                return self.tree(*match.groups())
            if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file("datasets" if match[1] else "models", match[2], match[3], match[4])
            return self.upload(path)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = dispatch

        def info(self, kind: str, name: str, revision: str | None) -> None:
            if repo := self.repo(kind, name):
                commit = repo.branches.get(revision or "main")
                if commit is None:
                    return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="no revision")
                self.answer(200, {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in repo.files]})

        def tree(self, kind: str, name: str, revision: str) -> None:
            if repo := self.repo(kind, name):
                rows: list[dict[str, Any]] = []
                for path, content in repo.files.items():
                    row: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
                    row["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                    if path.endswith(LFS):
                        row["lfs"] = {"oid": oid(path, content), "size": len(content), "pointerSize": 134}
                    rows.append(row)
                self.answer(200, rows)

        def file(self, kind: str, name: str, revision: str, path: str) -> None:
            if not (repo := self.repo(kind, name)):
                return
            if path not in repo.files:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="no file")
            right = repo.files[path]
            content = server.spoilt.get(path, right)
            headers = {"X_Repo_Commit": repo.commit, "ETag": f'"{oid(path, right)}"', "Accept_Ranges": "bytes"}
            if path.endswith(LFS):
                headers |= {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": str(len(right))}
            start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
            if start:
                headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if self.command == "GET" and server.cut.get(path):
                after = server.cut[path].pop(0)
                self.send_response(206 if start else 200)
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : start + after])
                self.close_connection = True
                return
            self.answer(206 if start else 200, content[start:], **headers)

        def upload(self, path: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if path.startswith("/stored/"):
                server.stored[path.removeprefix("/stored/")] = body
                return self.answer(200)
            if path == "/api/validate-yaml":
                errors = [{"message": "bad tags"}] if "card" in server.forbidden else []
                return self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
            if not server.token:
                return self.answer(401, {"error": "Invalid username or password."})
            for action, pattern in ACTIONS.items():
                if action in server.forbidden and re.search(pattern, path):
                    return self.answer(403, {"error": f"you may not {action}"})
            if path == "/api/repos/delete":
                asked = json.loads(body)
                del server.repos["models", f"{asked['organization']}/{asked['name']}"]
                return self.answer(200)
            if path.endswith("/auth-check/write"):
                return self.answer(200)
            if path == "/api/repos/create":
                asked = json.loads(body)
                owner = asked.get("organization", "me")
                name = f"{owner}/{asked['name']}"
                if ("models", name) in server.repos:
                    return self.answer(409, {"error": "exists"})
                server.add("models", name, {".gitattributes": b"*.safetensors filter=lfs"})
                server.created[name] = asked.get("visibility", "public")
                return self.answer(200, {"url": f"{server.url}/{name}", "name": name, "id": name})
            if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
                rows = json.loads(body)["files"]
                modes = [
                    {"path": r["path"], "uploadMode": "lfs" if r["path"].endswith(LFS) else "regular"} for r in rows
                ]
                return self.answer(200, {"files": [row | {"shouldIgnore": False} for row in modes]})
            if path.endswith(".git/info/lfs/objects/batch"):
                rows = json.loads(body)["objects"]
                objects = [
                    {**row, "actions": {"upload": {"href": f"{server.url}/stored/{row['oid']}"}}} for row in rows
                ]
                return self.answer(200, {"transfer": "basic", "objects": objects})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                lines = [json.loads(line) for line in body.splitlines()]
                found = {}
                for line in lines:
                    value = line["value"]
                    if line["key"] == "file":
                        found[value["path"]] = base64.b64decode(value["content"])
                    if line["key"] == "lfsFile":
                        found[value["path"]] = server.stored[value["oid"]]
                server.commits.append(found)
                server.add("models", match[1], found)
                commit = {
                    "commitOid": server.repos["models", match[1]].commit,
                    "commitUrl": f"{server.url}/{match[1]}/commit/x",
                }
                return self.answer(200, {"success": True, **commit})
            self.answer(404, {"error": f"the stand-in does not know {self.command} {path}"})

    return Handler


@contextmanager
def running() -> Iterator[Server]:
    """A server on a free port; its url is what HF_ENDPOINT must be."""
    found = Server()
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    found.url = f"http://127.0.0.1:{web.server_address[1]}"
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
