"""Calls an ASGI application without a server, with exact control of what is sent, and when."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer; status 0 where none came. headers: lower-case names; the last of several values."""

    status: int
    headers: dict[str, str]
    body: bytes
    messages: list[dict[str, Any]]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error response."""
        error = self.json()["error"]
        assert set(error) == {"code", "message", "hint"}
        assert self.headers["content-type"] == "application/json"
        assert self.headers["content-length"] == str(len(self.body))
        return error["code"]


async def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    headers: dict[str, str] | None = None,
    *,
    pause: float = 0.0,
    leaves: bool = False,
    root_path: str = "",
    query: str = "",
) -> Reply:
    """Sends one request.

    Args:
        body: whole, or in parts; between parts the client pauses for `pause` seconds.
        leaves: the client disconnects where its last part would come.
    """
    parts = [body] if isinstance(body, bytes) else list(body)
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": root_path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in lowered.items()],
        "client": ("192.0.2.1", 1234), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    position = 0
    sent: list[dict[str, Any]] = []
    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal position
        if position == len(parts):
            await answered.wait()
            return {"type": "http.disconnect"}
        if position:
            await asyncio.sleep(pause)
        position += 1
        if leaves and position == len(parts):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts[position - 1], "more_body": position < len(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            answered.set()

    await app(scope, receive, send)
    start = next((message for message in sent if message["type"] == "http.response.start"), None)
    whole = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    if start is None:
        return Reply(0, {}, whole, sent)
    found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], found, whole, sent)
