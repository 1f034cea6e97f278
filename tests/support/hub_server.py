"""A tiny server with the API of the Hugging Face hub, for data sets and models in local folders; models can be pushed.

    with HubServer(folder) as hub:          # folder/owner/name/<files of the data set>
        os.environ["HF_ENDPOINT"] = hub.endpoint
        list_source("hf://datasets/owner/name")

It answers /api/datasets/OWNER/NAME[/revision/REV], /api/datasets/OWNER/NAME/tree/REV[/PATH] and
/datasets/OWNER/NAME/resolve/REV/PATH (HEAD, and GET with Range); for a model with /api/models, and without /datasets.
Revisions are `main`, and of a repository that was not pushed to the one commit COMMIT. A model is pushed as
huggingface_hub does it: /api/repos/create, /api/validate-yaml, /api/models/OWNER/NAME/preupload/main, .../commit/main
with all files in the commit itself; each push is a commit whose files stay.
"""

import base64
import contextlib
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves the data sets below `folder` on 127.0.0.1.

    Attributes:
        requests: (method, path, Range header or "") of all requests.
        gated: names ("owner/name") that require an agreement.
        broken: HTTP status of the answer for every file; 0 = normal answers.
        token: what a push has to bring; None = a push needs none.
        commits: by name, the commits that were pushed, the oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str, str]] = []
        self.gated: set[str] = set()
        self.broken = 0
        self.token: str | None = None
        self.commits: dict[str, list[str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def files_of(self, name: str, commit: str) -> Path:
        """Returns the folder with the files of a commit that was pushed."""
        return self.folder / ".commits" / commit / name

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def hub_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Runs a hub for the repositories in `folder`/hub, with an empty cache, and leads huggingface_hub to it."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))  # read when it was imported
    (folder / "hub").mkdir()
    with HubServer(folder / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.requests.append((self.command, path, ""))
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._error(401, "", "Invalid credentials")
        push = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            there = (self.hub.folder / name).exists()
            (self.hub.folder / name).mkdir(parents=True, exist_ok=True)
            return self._json({"url": f"{self.hub.endpoint}/{name}"}, 409 if there else 200)
        if path == "/api/validate-yaml":
            return self._json({"errors": _yaml_errors(json.loads(body)["content"]), "warnings": []})
        if push and push[2] == "preupload":
            files = [each["path"] for each in json.loads(body)["files"]]
            return self._json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]})
        if push:
            return self._commit(push[1], [json.loads(line) for line in body.splitlines()])
        return self._error(404, "", "not found")

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""

    def _respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        api = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path)
        file = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            name, verb, revision, below = api.groups()
        elif file:
            (name, revision, below), verb = file.groups(), "resolve"
        else:
            return self._error(404, "", "not found")
        folder = self.hub.folder / name
        if not folder.is_dir():
            return self._error(401, "RepoNotFound", "Repository not found")
        if name in self.hub.gated:
            return self._error(403, "GatedRepo", "Access to this data set is restricted")
        commits = self.hub.commits.get(name, [COMMIT])
        if revision not in (None, "main", *commits):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = revision if revision in commits else commits[-1]
        if name in self.hub.commits:
            folder = self.hub.files_of(name, commit)
        target = folder / (below or "")
        if not target.exists():
            return self._error(404, "EntryNotFound", "Entry not found")
        if verb == "resolve":
            return self._send_file(target, commit)
        self._json(self._tree(folder, target) if verb == "tree" else {"id": name, "sha": commit, "siblings": []})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Applies a commit to the newest files; its name depends on them and on the commit before."""
        before = self.hub.commits.get(name, [])
        staged = self.hub.folder / ".commits" / "staged"
        shutil.copytree(self.hub.files_of(name, before[-1]) if before else self.hub.folder / name, staged)
        for line in lines:
            path = staged / line["value"].get("path", "")
            if line["key"] == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
            elif line["key"] == "deletedFile":
                path.unlink()
        content = b"".join(path.read_bytes() for path in sorted(staged.rglob("*")) if path.is_file())
        commit = hashlib.sha1(b"".join(map(str.encode, before)) + content).hexdigest()
        staged.rename(self._made(self.hub.files_of(name, commit)))
        self.hub.commits[name] = [*before, commit]
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "commitOid": commit, "hookOutput": ""})

    def _made(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _tree(self, folder: Path, target: Path) -> list[dict[str, Any]]:
        return [
            {
                "type": "directory" if path.is_dir() else "file",
                "oid": COMMIT,
                "size": 0 if path.is_dir() else path.stat().st_size,
                "path": path.relative_to(folder).as_posix(),
            }
            for path in sorted(target.iterdir())
            if path.name != ".commits"
        ]

    def _send_file(self, path: Path, commit: str) -> None:
        if self.hub.broken:
            return self._error(self.hub.broken, "", "out of order")
        data = path.read_bytes()
        digest = hashlib.sha1(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted:
            return self._send(200, data, headers)
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        self._send(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _json(self, answer: object, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _yaml_errors(card: str) -> list[dict[str, str]]:
    """Checks the metadata of a card for what the hub refuses: YAML, types, a model-index without its required keys."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.S)
    if found is None:
        return [{"message": "no metadata"}]
    try:
        data = yaml.safe_load(found[1])
        texts = [data[key] for key in ("license", "library_name", "pipeline_tag") if key in data]
        assert all(isinstance(text, str) and text for text in [*texts, *data.get("tags", [])]), "not texts"
        for model in data.get("model-index", []):
            assert model["name"] and model["results"], "an empty model-index"
            for result in model["results"]:
                assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"], "no data set"
                assert all(metric["type"] and metric["value"] is not None for metric in result["metrics"]), "no metric"
    except (yaml.YAMLError, AssertionError, KeyError, TypeError) as error:
        return [{"message": str(error)}]
    return []
