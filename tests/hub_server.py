"""A small Hub on 127.0.0.1: enough of the real one to create, push, load and break.

    with HubServer(token="hf_...") as hub:
        subprocess.run([...], env=hub.client_env(tmp_path))     # HF_ENDPOINT is read at import: always a subprocess
        hub.files("tester/student")["config.json"]

Storage is git-like (commits, branches, blobs and LFS objects) and in memory. Writes need the bearer token; a wrong one
is refused everywhere, as on the real Hub. Faults: `drop_next_commit_reply()`, `land_next_commit_late()`,
`fail_next("/preupload/", times=2)`, until `heal()`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "tester"
REPO = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
ROUTES: list[tuple[str, re.Pattern[str], str]] = []
RELATIONS = {"adapter", "merge", "quantized", "finetune"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Blob:
    """One file of one commit."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        """As git would name it; for LFS that is the name of the pointer file, not of the content."""
        content = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def entry(self, path: str) -> dict[str, Any]:
        size = len(self.content)
        found: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": self.git_oid}
        if self.lfs:
            found["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": len(self.pointer)}
        return found


@dataclass(frozen=True)
class Commit:
    """A whole tree, with the message that made it."""

    oid: str
    message: str
    tree: dict[str, Blob]


@dataclass
class Repo:
    """Branches of commits; like the real Hub, a new one starts with a commit of `.gitattributes`."""

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
        self.add("main", "initial commit", {".gitattributes": attributes})

    def add(self, branch: str, message: str, tree: dict[str, Blob]) -> Commit:
        history = self.branches.setdefault(branch, [])
        parent = history[-1].oid if history else ""
        names = json.dumps({path: blob.git_oid for path, blob in sorted(tree.items())})
        commit = Commit(hashlib.sha1(f"{parent}{message}{names}".encode()).hexdigest(), message, tree)
        history.append(commit)
        return commit

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for history in self.branches.values() for c in history if c.oid == revision), None)


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.body = body or {"error": message}


class HubServer:
    """The server; a context manager. Everything it was sent stays readable in the attributes below."""

    def __init__(self, token: str, read_only_token: str | None = None) -> None:
        self.token = token
        self.read_only_token = read_only_token
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS, by sha256
        self.requests: list[tuple[str, str]] = []  # method and path, in order
        self.received: list[bytes] = []  # request lines, headers except Authorization, bodies
        self.ignored: set[str] = set()  # paths that a .gitignore of the repositories names: commits leave them out
        self.unknown: list[str] = []  # calls that this server does not know
        self.lock = threading.RLock()
        self._failures: list[list[Any]] = []
        self._drop_commit_reply = False
        self._delay_commit = False
        self._delayed: Callable[[], object] | None = None
        hub = self

        class Bound(Handler):
            server_hub = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> HubServer:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def client_env(self, home: Path, *, token: str | None = None, **more: str) -> dict[str, str]:
        """For a client process: this endpoint, a cache of its own under `home`, and `token` as HF_TOKEN."""
        drop = {
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_DATASETS_OFFLINE",
            "PYTHONPATH",
        }
        env = {name: value for name, value in os.environ.items() if name not in drop}
        env |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home / "hf_home"), "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return env | ({"HF_TOKEN": token} if token else {}) | more

    def drop_next_commit_reply(self) -> None:
        """Carry the next commit out and hang up without a word."""
        self._drop_commit_reply = True

    def land_next_commit_late(self) -> None:
        """Hang up on the next commit, and carry it out when the one after it arrives, just before that one."""
        self._delay_commit = True

    def heal(self) -> None:
        """Forget the faults that are still to come."""
        with self.lock:
            self._failures.clear()
            self._drop_commit_reply = self._delay_commit = False

    def fail_next(self, path_part: str, times: int = 1, status: int = 503, message: str = "planned failure") -> None:
        """Answer `status` to the next `times` requests whose path contains `path_part`."""
        self._failures.append([path_part, times, Refusal(status, message)])

    def add_file(self, repo_id: str, path: str, content: bytes, *, lfs: bool = False) -> None:
        """Put a file into main as an earlier commit would have; makes the repository."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo())
            repo.add("main", f"add {path}", {**repo.branches["main"][-1].tree, path: Blob(content, lfs)})

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path to content, without the `.gitattributes` that every repository starts with."""
        commit = self.repos[repo_id].find(revision)
        assert commit is not None, f"no revision {revision}"
        return {path: blob.content for path, blob in commit.tree.items() if path != ".gitattributes"}

    def commits(self, repo_id: str, revision: str = "main") -> list[str]:
        """Messages, oldest first, without the initial commit."""
        return [commit.message for commit in self.repos[repo_id].branches[revision]][1:]

    def all_bytes(self) -> bytes:
        """Everything that reached the server (Authorization aside) or is stored on it."""
        stored = [
            b.content for r in self.repos.values() for h in r.branches.values() for c in h for b in c.tree.values()
        ]
        return b"\n".join([*self.received, *self.objects.values(), *stored])

    def _planned_failure(self, path: str) -> Refusal | None:
        with self.lock:
            for failure in self._failures:
                if failure[1] > 0 and failure[0] in path:
                    failure[1] -= 1
                    return failure[2]
        return None


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a method of Handler for paths that match the whole of `pattern`."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append(
            (
                method,
                re.compile(pattern.replace("{repo}", REPO).replace("{rev}", r"(?P<rev>[^/]+)")),
                function.__name__,
            )
        )
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    """One request: read it, check the token, find the route, answer."""

    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: what was asked is in `HubServer.requests`."""

    def do(self) -> None:
        hub = self.server_hub
        body = self._read_body()
        parts = urlsplit(self.path)
        path, self.query = parts.path, parse_qs(parts.query)
        headers = [f"{name}: {value}" for name, value in self.headers.items() if name.lower() != "authorization"]
        with hub.lock:
            hub.requests.append((self.command, path))
            hub.received += ["\n".join([self.path, *headers]).encode(), body]
        try:
            failure = hub._planned_failure(path)
            if failure:
                raise failure
            self._dispatch(path, body)
        except Refusal as refusal:
            headers_out = {"X-Error-Message": refusal.message} | (
                {"X-Error-Code": refusal.code} if refusal.code else {}
            )
            self._send(refusal.status, json.dumps(refusal.body).encode(), headers_out)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def _dispatch(self, path: str, body: bytes) -> None:
        self.may_read, self.may_write = self._rights()
        asked = "GET" if self.command == "HEAD" else self.command
        for method, pattern, name in ROUTES:
            match = pattern.fullmatch(path)
            if method == asked and match:
                arguments = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                with self.server_hub.lock:
                    getattr(self, name)(body=body, **arguments)
                return
        self.server_hub.unknown.append(f"{self.command} {path}")
        raise Refusal(404, f"this server does not know {self.command} {path}")

    def _rights(self) -> tuple[bool, bool]:
        """Whether private repositories may be read, and whether anything may be written."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not given:
            return False, False
        if given == self.server_hub.token:
            return True, True
        if given == self.server_hub.read_only_token:
            return True, False
        raise Refusal(401, "Invalid credentials in Authorization header")

    def _must_write(self) -> None:
        if not self.may_write:
            raise Refusal(403 if self.may_read else 401, "You don't have the rights to write to this repository")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def _repo(self, name: str) -> Repo:
        repo = self.server_hub.repos.get(name)
        if repo is None or (repo.private and not self.may_read):
            raise Refusal(404 if self.may_read else 401, "Repository not found", "RepoNotFound")
        return repo

    def _commit(self, name: str, revision: str) -> Commit:
        commit = self._repo(name).find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    @route("GET", "/api/whoami-v2")
    def whoami(self, body: bytes) -> None:
        if not self.may_read:
            raise Refusal(401, "Invalid username or password.")
        self._json(
            {"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        )

    @route("POST", "/api/repos/create")
    def create(self, body: bytes) -> None:
        self._must_write()
        asked = json.loads(body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        answer = {"url": f"{self.server_hub.endpoint}/{name}", "name": name}
        if name in self.server_hub.repos:
            self._json(answer | {"error": "You already created this model repo"}, 409)
            return
        self.server_hub.repos[name] = Repo(private=asked.get("visibility") == "private")
        self._json(answer)

    @route("POST", "/api/models/{repo}/branch/{rev}")
    def branch(self, body: bytes, repo: str, rev: str) -> None:
        self._must_write()
        found = self._repo(repo)
        if rev in found.branches:
            raise Refusal(409, "Reference already exists")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        found.branches[rev] = list(found.branches[start])
        self._json({})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self, body: bytes) -> None:
        errors = [{"message": message} for message in card_errors(json.loads(body)["content"])]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    @route("POST", "/api/models/{repo}/preupload/{rev}")
    def preupload(self, body: bytes, repo: str, rev: str) -> None:
        self._must_write()
        tree = self._commit(repo, rev).tree
        answers = []
        for file in json.loads(body)["files"]:
            lfs = file["size"] > 10_000_000 or Path(file["path"]).suffix in {".safetensors", ".bin", ".model"}
            answer = {
                "path": file["path"],
                "uploadMode": "lfs" if lfs else "regular",
                "shouldIgnore": file["path"] in self.server_hub.ignored,
            }
            if file["path"] in tree:
                answer["oid"] = tree[file["path"]].etag
            answers.append(answer)
        self._json({"files": answers})

    @route("POST", r"/{repo}\.git/info/lfs/objects/batch")
    def lfs_batch(self, body: bytes, repo: str) -> None:
        self._must_write()
        self._repo(repo)
        objects = []
        for wanted in json.loads(body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server_hub.objects:
                upload = f"{self.server_hub.endpoint}/lfs/{wanted['oid']}?signature={self._signature(wanted['oid'])}"
                verify = f"{self.server_hub.endpoint}/{repo}.git/info/lfs/verify"
                answer["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _signature(self, oid: str) -> str:
        """Stands for the signed URL of the real store, which is asked without the token."""
        return hashlib.sha256(f"{oid}{id(self.server_hub)}".encode()).hexdigest()[:16]

    @route("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_put(self, body: bytes, oid: str) -> None:
        if self.query.get("signature") != [self._signature(oid)]:
            raise Refusal(403, "SignatureDoesNotMatch")
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not what its sha256 says")
        self.server_hub.objects[oid] = body
        self._json({})

    @route("POST", r"/{repo}\.git/info/lfs/verify")
    def lfs_verify(self, body: bytes, repo: str) -> None:
        asked = json.loads(body)
        if len(self.server_hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "no such object")
        self._json({})

    @route("POST", "/api/models/{repo}/commit/{rev}")
    def commit(self, body: bytes, repo: str, rev: str) -> None:
        self._must_write()
        hub = self.server_hub
        if hub._delayed is not None:
            hub._delayed, land = None, hub._delayed
            land()
        if hub._delay_commit:
            hub._delay_commit, hub._delayed = False, lambda: self._carry_out(body, repo, rev)
            self._hang_up()
            return
        made = self._carry_out(body, repo, rev)
        if hub._drop_commit_reply:
            hub._drop_commit_reply = False
            self._hang_up()
            return
        self._json({"commitUrl": f"{hub.endpoint}/{repo}/commit/{made.oid}", "commitOid": made.oid})

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _carry_out(self, body: bytes, repo: str, rev: str) -> Commit:
        found, head = self._repo(repo), self._commit(repo, rev)
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, head.oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for line in lines:
            self._apply(tree, line["key"], line["value"])
        return found.add(rev, header["summary"], tree)

    def _apply(self, tree: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            tree[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.server_hub.objects:
                raise Refusal(400, f"{value['path']}: its LFS object was not uploaded")
            tree[value["path"]] = Blob(self.server_hub.objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if value["path"] not in tree:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            del tree[value["path"]]
        elif key != "header":
            raise Refusal(400, f"unknown operation {key}")

    @route("GET", "/api/models/{repo}(/revision/{rev})?")
    def info(self, body: bytes, repo: str, rev: str = "main") -> None:
        found, commit = self._repo(repo), self._commit(repo, rev)
        siblings = [{"rfilename": path} for path in sorted(commit.tree)]
        about = {"_id": repo, "id": repo, "modelId": repo, "tags": [], "downloads": 0, "likes": 0}
        self._json({**about, "sha": commit.oid, "private": found.private, "siblings": siblings})

    @route("GET", "/api/models/{repo}/tree/{rev}(/(?P<folder>.+))?")
    def tree(self, body: bytes, repo: str, rev: str, folder: str = "") -> None:
        start = folder.rstrip("/") + "/" if folder else ""
        below = {path: blob for path, blob in self._commit(repo, rev).tree.items() if path.startswith(start)}
        if start and not below:
            raise Refusal(404, f"{folder} does not exist on {rev}", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() in {"true", "1"}
        entries = [blob.entry(path) for path, blob in below.items() if deep or "/" not in path[len(start) :]]
        folders = {start + path[len(start) :].split("/")[0] for path in below if "/" in path[len(start) :]}
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        self._json(entries)

    @route("POST", "/api/models/{repo}/paths-info/{rev}")
    def paths_info(self, body: bytes, repo: str, rev: str) -> None:
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode())["paths"]
        tree = self._commit(repo, rev).tree
        self._json([tree[path].entry(path) for path in paths if path in tree])

    @route("GET", "/api/models/{repo}/refs")
    def refs(self, body: bytes, repo: str) -> None:
        branches = self._repo(repo).branches.items()
        found = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": h[-1].oid} for name, h in branches]
        self._json({"branches": found, "converts": [], "tags": []})

    @route("GET", "/api/models/{repo}/commits/{rev}")
    def commits(self, body: bytes, repo: str, rev: str) -> None:
        history = self._repo(repo).branches.get(rev)
        if history is None:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        shape = {"authors": [{"user": USER}], "date": "2026-01-01T00:00:00.000Z", "message": ""}
        self._json([{**shape, "id": commit.oid, "title": commit.message} for commit in reversed(history)])

    @route("GET", "/{repo}/resolve/{rev}/(?P<path>.+)")
    def resolve(self, body: bytes, repo: str, rev: str, path: str) -> None:
        commit = self._commit(repo, rev)
        if path not in commit.tree:
            answer = {
                "X-Error-Code": "EntryNotFound",
                "X-Error-Message": "Entry not found",
                "X-Repo-Commit": commit.oid,
            }
            self._send(404, b'{"error": "Entry not found"}', answer)
            return
        blob = commit.tree[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        self._send_range(blob.content, headers)

    def _send_range(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            self._send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
            return
        part = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers | {"Content-Range": part})


def card_errors(content: str) -> list[str]:
    """What the real Hub refuses in a card's metadata, as far as a distilled model's card can get there."""
    front = re.match(r"\s*---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    try:
        card = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"]
    if not isinstance(card or {}, dict):
        return ["YAML Metadata Error: expected a mapping"]
    card = card or {}
    errors = [
        f'"{key}" with value "{value}" is not valid. Use an id from https://hf.co/{key}s.'
        for key in ("base_model", "datasets")
        for value in as_list(card.get(key))
        if not (isinstance(value, str) and HUB_ID.fullmatch(value))
    ]
    errors += [
        f'"{key}" must be a string'
        for key, several in (
            ("license", True),
            ("license_name", False),
            ("pipeline_tag", False),
            ("library_name", False),
        )
        for value in (as_list(card.get(key)) if several else [card[key]] if key in card else [])
        if not isinstance(value, str)
    ]
    errors += [
        f'"{key}" must be a string or a list of strings'
        for key in ("language", "tags", "metrics")
        if not all(isinstance(value, str) for value in as_list(card.get(key)))
    ]
    if card.get("base_model_relation", "finetune") not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of {sorted(RELATIONS)}')
    return errors + list(result_errors(card.get("model-index") or []))


def result_errors(index: list[dict[str, Any]]) -> list[str]:
    """Of `model-index`."""
    errors = []
    for result in (result for model in index for result in model.get("results", [])):
        dataset = result.get("dataset", {})
        for key in ("name", "type"):
            if not isinstance(dataset.get(key), str):
                errors.append(f'"model-index[0].results[0].dataset.{key}" is required and must be a string')
        if not isinstance(dataset.get("config", ""), str):
            errors.append('"model-index[0].results[0].dataset.config" must be a string')
        if not isinstance(result.get("task", {}).get("type"), str):
            errors.append('"model-index[0].results[0].task.type" is required and must be a string')
    return errors


def as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
