"""The answer of one request on its way out: the headers of every answer are added, and what was sent is counted."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'"
# the Swagger page that FastAPI serves loads its script from there; our own page loads nothing from elsewhere
DOCS = (
    "default-src 'none'; script-src https://cdn.jsdelivr.net 'unsafe-inline'; style-src https://cdn.jsdelivr.net "
    "'unsafe-inline'; img-src 'self' data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'"
)


class Reply:
    """An ASGI `send`. status: None until an answer has begun. bytes_out: of its body."""

    def __init__(self, send: Send, request_id: str | None, method: str, path: str) -> None:
        """`request_id`: sent in a header, unless it is None."""
        self._send = send
        self._request_id = request_id
        self._head = method == "HEAD"
        self._path = path
        self.status: int | None = None
        self.bytes_out = 0

    async def __call__(self, message: Message) -> None:
        """Forwards a message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._headers(message)}
        elif message["type"] == "http.response.body":
            message = {**message, "body": b"" if self._head else message.get("body", b"")}
            self.bytes_out += len(message["body"])
        await self._send(message)

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", [])]
        named = {name for name, _ in headers}
        added = {b"x-content-type-options": b"nosniff", b"referrer-policy": b"no-referrer"}
        added[b"content-security-policy"] = (DOCS if self._path == "/docs" else NOTHING_ELSE).encode()
        if self._path.startswith("/v1/"):
            added[b"cache-control"] = b"no-store"
        if self._request_id is not None:
            added[b"x-request-id"] = self._request_id.encode()
        return headers + [(name, value) for name, value in added.items() if name not in named]
