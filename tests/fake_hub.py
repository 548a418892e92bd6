"""A Hub on loopback, by the Hub's HTTP API: repositories, preupload, LFS batch and upload, commit, tree, resolve.

It can misbehave: hang up after so many bytes, answer with any status, serve other bytes than those it was given.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "a" * 34
LARGE = (".safetensors", ".png")
"""Endings of files that the Hub's .gitattributes give to LFS."""
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs -text\n"


def sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    private: bool = False
    commits: list = field(default_factory=list)
    """(commit's hash, contents by path), oldest first."""

    @property
    def files(self):
        return self.commits[-1][1]

    def commit(self, files):
        text = repr((len(self.commits), sorted((path, sha1(content)) for path, content in files.items())))
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return self.commits[-1][0]

    def at(self, revision):
        return next(((oid, files) for oid, files in reversed(self.commits) if revision in ("main", oid)), None)


class FakeHub:
    """All that it holds and was asked, and how it misbehaves.

    Attributes:
        repos: by kind and name.
        blobs: large files by sha256, whether or not a commit has them.
        asked: method and path of each request.
        sent: large files that arrived, by sha256, in their order.
        cut_upload, cut_download: bytes of large files that it takes, or of weights that it gives, before it hangs up.
        tampered: other bytes to serve for a path.
        refuse: (part of a path, status, headers) of requests that are answered so.
        url, storage: the Hub's address, and that of the other server which holds large files.
        before_commit: called once, with the repository, before a commit is taken.
    """

    def __init__(self):
        self.repos, self.blobs, self.asked, self.sent = {}, {}, [], []
        self.cut_upload = self.cut_download = self.refuse = self.before_commit = None
        self.tampered, self.lock = {}, threading.Lock()
        handler = type("Handler", (Handler,), {"hub": self})
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def make(self, kind, name, files=(), private=False):
        self.repos[kind, name] = Repo(private)
        self.repos[kind, name].commit({".gitattributes": ATTRIBUTES, **dict(files)})
        return self.repos[kind, name]

    def writes(self):
        """Requests that send something, but for the check of a card's metadata."""
        return [(method, path) for method, path in self.asked if method in ("POST", "PUT") and "validate" not in path]


class HungUpError(Exception):
    pass


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments):
        pass

    def answer(self):
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        with self.hub.lock:
            self.hub.asked.append((self.command, path))
        if path.startswith(("/lfs/", "/cdn/")):
            assert self.headers.get("Authorization") is None, "the token is for the Hub alone"
        try:
            if self.hub.refuse and self.hub.refuse[0] in f"{self.command} {path}":
                self.body()
                return self.reply(self.hub.refuse[1], {"error": "refused"}, self.hub.refuse[2])
            if self.authorized() is False:
                self.body()
                return self.reply(401, {"error": "Invalid credentials in Authorization header"})
            for pattern, method in ROUTES.items():
                if found := re.fullmatch(pattern, path):
                    return method(self, **found.groupdict())
            return self.reply(404, {"error": f"no route {path}"})
        except HungUpError:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def authorized(self):
        """True with the token, None without one, False with another."""
        given = self.headers.get("Authorization")
        return None if given is None else given == f"Bearer {TOKEN}"

    def pieces(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left:
                piece = self.rfile.read(min(left, 1 << 16))
                left -= len(piece)
                yield piece

    def body(self):
        return b"".join(self.pieces())

    def reply(self, status, value=None, headers=()):
        content = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in dict(headers).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @contextmanager
    def repo(self, kind, name):
        found = self.hub.repos.get((kind, name))
        if found is None or (found.private and not self.authorized()):
            status = 404 if self.authorized() else 401
            self.reply(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            yield None
        else:
            yield found

    def create(self):
        asked = json.loads(self.body())
        kind, name = asked.get("type", "model"), "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if not self.authorized():
            return self.reply(401, {"error": "Invalid username or password."})
        if (kind, name) in self.hub.repos:
            return self.reply(409, {"error": "You already created this repo"})
        self.hub.make(kind, name, private=bool(asked.get("private") or asked.get("visibility") == "private"))
        return self.reply(200, {"url": f"{self.hub.url}/{'datasets/' * (kind == 'dataset')}{name}", "name": name})

    def info(self, kind, name, revision="main"):
        with self.repo(kind, name) as repo:
            if repo is None:
                return
            if (found := repo.at(revision)) is None:
                self.reply(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
                return
            value = {"_id": "1", "id": name, "sha": found[0], "private": repo.private, "tags": [], "downloads": 0}
            self.reply(200, value | {"likes": 0, "disabled": False, "gated": False, "siblings": []})

    def tree(self, kind, name, revision):
        with self.repo(kind, name) as repo:
            if repo is None:
                return
            found = repo.at(revision)
            entries = [{"type": "directory", "path": "cells", "oid": "0" * 40, "size": 0}]
            for path, content in sorted(found[1].items()):
                entry = {"type": "file", "path": path, "size": len(content), "oid": sha1(content)}
                if path.endswith(LARGE):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["oid"] = sha1(digest.encode())
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
                entries.append(entry)
            start = int(self.query.get("cursor", ["0"])[0])
            link = f'<{self.hub.url}{self.path.partition("?")[0]}?recursive=True&cursor={start + 5}>; rel="next"'
            self.reply(200, entries[start : start + 5], {"Link": link} if len(entries) > start + 5 else {})

    def preupload(self, kind, name, revision):
        asked = json.loads(self.body())["files"]
        with self.repo(kind, name) as repo:
            if repo is None:
                return
            files = []
            for one in asked:
                content = repo.files.get(one["path"])
                large = one["path"].endswith(LARGE)
                oid = content and (hashlib.sha256(content).hexdigest() if large else sha1(content))
                mode = "lfs" if large else "regular"
                files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.reply(200, {"files": files})

    def batch(self, kind, name):
        objects = json.loads(self.body())["objects"]
        for one in objects:
            if one["oid"] not in self.hub.blobs:
                one["actions"] = {"upload": {"href": f"{self.hub.storage}/lfs/{one['oid']}"}}
        self.reply(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid):
        content = b""
        for piece in self.pieces():
            content += piece
            with self.hub.lock:
                if self.hub.cut_upload is not None:
                    self.hub.cut_upload -= len(piece)
                    if self.hub.cut_upload < 0:
                        raise HungUpError
        assert hashlib.sha256(content).hexdigest() == oid
        with self.hub.lock:
            self.hub.blobs[oid] = content
            self.hub.sent.append(oid)
        self.reply(200)

    def commit(self, kind, name, revision):
        header, *operations = [json.loads(line) for line in self.body().splitlines()]
        with self.repo(kind, name) as repo:
            if repo is None:
                return
            if not self.authorized():
                self.reply(401, {"error": "Invalid username or password."})
                return
            if meanwhile := self.hub.before_commit:
                self.hub.before_commit = None
                meanwhile(repo)
            if header["value"].get("parentCommit") not in (None, repo.commits[-1][0]):
                self.reply(412, {"error": "A commit has happened since. Please refresh and try again."})
                return
            files = dict(repo.files)
            for one in operations:
                value = one["value"]
                if one["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                else:
                    assert one["key"] == "lfsFile"
                    files[value["path"]] = self.hub.blobs[value["oid"]]
            oid = repo.commit(files)
            self.reply(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def resolve(self, kind, name, revision, path):
        with self.repo(kind, name) as repo:
            if repo is None:
                return
            oid, files = repo.at(revision)
            if path not in files:
                self.reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            content = files[path]
            headers = {"X-Repo-Commit": oid}
            if path.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
                headers["Location"] = f"{self.hub.storage}/cdn/{kind}/{name}/{oid}/{path}"
                self.reply(302, None, headers)
            else:
                self.serve(path, content, headers | {"ETag": f'"{sha1(content)}"'})

    def cdn(self, kind, name, revision, path):
        self.serve(path, self.hub.repos[kind, name].at(revision)[1][path], {})

    def serve(self, path, content, headers):
        content = self.hub.tampered.get(path, content)
        start, status = 0, 200
        if wanted := self.headers.get("Range"):
            start, status = int(re.match(r"bytes=(\d+)-", wanted)[1]), 206
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        rest = content[start:]
        with self.hub.lock:
            if self.hub.cut_download is not None and path.endswith(".safetensors"):
                sent, rest = rest[: self.hub.cut_download], rest[self.hub.cut_download :]
                self.hub.cut_download -= len(sent)
                self.wfile.write(sent)
                if rest:
                    self.wfile.flush()
                    raise HungUpError
        self.wfile.write(rest)

    def validate(self):
        self.body()
        self.reply(200, {"warnings": [], "errors": []})


def routes():
    yield r"/api/repos/create", Handler.create
    yield r"/api/validate-yaml", Handler.validate
    yield r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.upload
    yield r"/cdn/(?P<kind>\w+)/(?P<name>[^/]+/[^/]+)/(?P<revision>[^/]+)/(?P<path>.+)", Handler.cdn
    for kind, api, prefix in (("dataset", "datasets", "datasets/"), ("model", "models", "")):
        name = r"(?P<name>[\w.-]+/[\w.-]+)"

        def of(method, kind=kind):
            return lambda self, **found: method(self, kind, **found)

        yield rf"/api/{api}/{name}", of(Handler.info)
        yield rf"/api/{api}/{name}/revision/(?P<revision>.+)", of(Handler.info)
        yield rf"/api/{api}/{name}/tree/(?P<revision>[^/]+)", of(Handler.tree)
        yield rf"/api/{api}/{name}/preupload/(?P<revision>[^/]+)", of(Handler.preupload)
        yield rf"/api/{api}/{name}/commit/(?P<revision>[^/]+)", of(Handler.commit)
        yield rf"/{prefix}{name}\.git/info/lfs/objects/batch", of(Handler.batch)
        yield rf"/{prefix}{name}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", of(Handler.resolve)


ROUTES = dict(routes())
