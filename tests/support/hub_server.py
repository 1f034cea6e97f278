"""A tiny server with the API of the Hugging Face hub, for data sets and models in local folders.

    with HubServer(folder) as hub:          # folder/owner/name/<files of the data set>
        os.environ["HF_ENDPOINT"] = hub.endpoint
        list_source("hf://datasets/owner/name")

It answers /api/datasets/OWNER/NAME[/revision/REV], /api/datasets/OWNER/NAME/tree/REV[/PATH] and
/datasets/OWNER/NAME/resolve/REV/PATH (HEAD, and GET with Range; for a model without /datasets). Revisions are `main`
and the one commit.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves the data sets below `folder` on 127.0.0.1.

    Attributes:
        requests: (method, path, Range header or "") of all requests.
        gated: names ("owner/name") that require an agreement.
        broken: HTTP status of the answer for every file; 0 = normal answers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str, str]] = []
        self.gated: set[str] = set()
        self.broken = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""

    def _respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        api = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path)
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
        if revision not in (None, "main", COMMIT):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        target = folder / (below or "")
        if not target.exists():
            return self._error(404, "EntryNotFound", "Entry not found")
        if verb == "resolve":
            return self._send_file(target)
        answer = self._tree(folder, target) if verb == "tree" else {"id": name, "sha": COMMIT, "siblings": []}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _tree(self, folder: Path, target: Path) -> list[dict[str, Any]]:
        return [
            {
                "type": "directory" if path.is_dir() else "file",
                "oid": COMMIT,
                "size": 0 if path.is_dir() else path.stat().st_size,
                "path": path.relative_to(folder).as_posix(),
            }
            for path in sorted(target.iterdir())
        ]

    def _send_file(self, path: Path) -> None:
        if self.hub.broken:
            return self._error(self.hub.broken, "", "out of order")
        data = path.read_bytes()
        headers = {"ETag": f'"{COMMIT}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted:
            return self._send(200, data, headers)
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        self._send(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
