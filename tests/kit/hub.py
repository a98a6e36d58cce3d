"""A Hugging Face Hub of one's own on 127.0.0.1: repositories, branches, commits, and files by LFS.

It speaks as much of the Hub's HTTP as the real client asks when policies go up and come down.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """What the server knows.

    Attributes:
        commits: Files by repository and commit.
        branches: Commits by repository and branch.
        asked: How often each method and kind of address was asked.
        sizes: What a listing says of the size of a file, where it is not the truth.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.blobs: Files = {}
        self.asked = Counter[str]()
        self.sizes: dict[str, int] = {}
        self.address = ""

    def create(self, repo: str) -> bool:
        if repo in self.commits:
            return False
        self.commits[repo], self.branches[repo] = {}, {}
        self.commit(repo, "main", {})
        return True

    def commit(self, repo: str, branch: str, files: Files) -> str:
        text = f"{repo}{len(self.commits[repo])}{sorted(files)}"
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[repo][sha] = files
        self.branches[repo][branch] = sha
        return sha

    def resolve(self, repo: str, revision: str) -> tuple[str, Files] | None:
        sha = self.branches[repo].get(revision, revision)
        files = self.commits[repo].get(sha)
        return None if files is None else (sha, files)


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve; gives the address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub.address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(
        self, value: Any = None, status: int = 200, data: bytes | None = None, **headers: str
    ) -> None:
        body = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, what: str) -> None:
        self.answer({"error": what}, 404, X_Error_Code=what, X_Error_Message=what)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self) -> None:
        data = self.body()
        self.hub.blobs[hashlib.sha256(data).hexdigest()] = data
        self.hub.asked["PUT"] += 1
        self.answer({})

    def do_POST(self) -> None:
        path, data = unquote(urlsplit(self.path).path), self.body()
        parts = path.strip("/").split("/")
        self.hub.asked[f"POST {parts[-1]}"] += 1
        if path == "/api/repos/create":
            asked = json.loads(data)
            repo = f"{asked['organization']}/{asked['name']}"
            made = self.hub.create(repo)
            self.answer({"url": f"{self.hub.address}/{repo}"}, 200 if made else 409)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}},
                }
                for one in json.loads(data)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif parts[4] == "preupload":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(data)["files"]
            ]
            self.answer({"files": files})
        elif parts[4] == "branch":
            repo, name = "/".join(parts[2:4]), parts[5]
            there = name in self.hub.branches[repo]
            self.hub.branches[repo].setdefault(name, self.hub.branches[repo]["main"])
            self.answer({}, 409 if there else 200)
        else:
            self.commit("/".join(parts[2:4]), parts[5], data)

    def commit(self, repo: str, branch: str, data: bytes) -> None:
        found = self.hub.resolve(repo, branch)
        assert found is not None
        files = dict(found[1])
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.commit(repo, branch, files)
        url = f"{self.hub.address}/{repo}/commit/{sha}"
        self.answer({"success": True, "commitOid": sha, "commitUrl": url})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[0] == "api"
        repo = "/".join(parts[2:4] if api else parts[:2])
        kind = parts[4] if api and len(parts) > 4 else "resolve" if not api else "info"
        self.hub.asked[f"{self.command} {kind}"] += 1
        if repo not in self.hub.commits:
            self.missing("RepoNotFound")
            return
        revision = parts[5] if len(parts) > 5 and api else "main" if api else parts[3]
        found = self.hub.resolve(repo, revision)
        if found is None:
            self.missing("RevisionNotFound")
            return
        sha, files = found
        if kind == "tree":
            self.answer([self.listed(name, data) for name, data in files.items()])
        elif api:
            sizes = {name: self.hub.sizes.get(name, len(data)) for name, data in files.items()}
            listed = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            self.answer({"id": repo, "modelId": repo, "sha": sha, "siblings": listed})
        elif parts[4] not in files:
            self.missing("EntryNotFound")
        else:
            data = files[parts[4]]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(data=data, ETag=etag, X_Repo_Commit=sha, Accept_Ranges="bytes")

    def listed(self, name: str, data: bytes) -> dict[str, Any]:
        oid = hashlib.sha256(data).hexdigest()
        size = self.hub.sizes.get(name, len(data))
        one: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": oid[:40]}
        if name.endswith(".safetensors"):
            one["lfs"] = {"oid": oid, "size": size, "pointerSize": 130}
        return one
