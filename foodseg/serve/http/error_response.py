"""The error response: gives every error, of any origin, the same JSON form, and adds the headers of every answer."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from foodseg.serve.http.schema import ApiError
from foodseg.serve.http.usage import no_such_path, usage, wrong_method

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

LONGEST_ERROR = 64 * 1024  # bytes of an error's body that are read
NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'"
# the Swagger page that FastAPI serves loads its script from there; our own page loads nothing from elsewhere
DOCS = (
    "default-src 'none'; script-src https://cdn.jsdelivr.net 'unsafe-inline'; style-src https://cdn.jsdelivr.net "
    "'unsafe-inline'; img-src 'self' data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'"
)
_CODES = {
    400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    408: "timeout", 413: "body_too_large", 415: "unsupported_format", 422: "invalid_request",
    429: "too_many_requests", 500: "internal", 503: "unavailable",
}  # fmt: skip


class ErrorResponseSender:
    """An ASGI `send` that rewrites errors as error responses, adds headers, and remembers what it sent."""

    def __init__(self, send: Send, request_id: str | None, method: str, path: str, base: str) -> None:
        """`request_id`: sent in a header, unless it is None. `base`: the address that the client has called."""
        self._send = send
        self._request_id = request_id
        self._method = method
        self._path = path
        self._base = base
        self._head = method == "HEAD"
        self._held: Message | None = None
        self._body = bytearray()
        self.status: int | None = None
        self.code: str | None = None
        self.bytes_out = 0

    async def __call__(self, message: Message) -> None:
        """Forwards a message; the start of an error is held until its body is complete."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._headers(message)}
            if message["status"] < 400:
                await self._send(message)
            else:
                self._held = message
        elif self._held is None or message["type"] != "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            await self._send(message)
        else:
            self._body.extend(message.get("body", b"")[: LONGEST_ERROR - len(self._body)])
            if not message.get("more_body", False):
                await self._send_held(self._held)

    async def _send_held(self, start: Message) -> None:
        content = _parsed(bytes(self._body))
        if content is None or not _is_error_response(content):
            content = self._translated(start["status"], content).body()
        self.code = str(content["error"]["code"])
        body = json.dumps(content).encode()
        kept = [(name, value) for name, value in start["headers"] if name not in (b"content-length", b"content-type")]
        described = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self.bytes_out = 0 if self._head else len(body)
        await self._send({**start, "headers": kept + described})
        await self._send({"type": "http.response.body", "body": b"" if self._head else body})

    def _translated(self, status: int, content: Any) -> ApiError:
        """Returns the error for the body of a framework: {"detail": text}, or a list of validation errors."""
        detail = content.get("detail") if isinstance(content, dict) else None
        code = _CODES.get(status, f"http_{status}")
        message = code.replace("_", " ")
        if status == 404 and detail in (None, "Not Found"):
            return no_such_path(self._path, self._base)
        if status == 405:
            return wrong_method(self._method, self._path, self._base)
        if status >= 500:
            pass  # the details are only for the log
        elif isinstance(detail, str) and detail:
            message = detail
        elif isinstance(detail, list) and detail:
            message = "; ".join(_sentence(item) for item in detail[:3])
        hint = f"for example: {usage(self._path, self._base)}" if status in (400, 422) else ""
        return ApiError(status, code, message[:500], hint)

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


async def send_error(send: Send, error: ApiError) -> None:
    """Sends an error as a complete response."""
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.code == "body_timeout":  # the rest of the body would be taken for the next request
        headers["connection"] = "close"
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_error_response(content: Any) -> bool:
    error = content.get("error") if isinstance(content, dict) else None
    return isinstance(error, dict) and set(error) == {"code", "message", "hint"}


def _sentence(item: Any) -> str:
    """Returns 'field: what is wrong' for one validation error, without the value that the client sent."""
    if not isinstance(item, dict):
        return "invalid"
    location = [str(part) for part in item.get("loc", ()) if part not in ("body", "query", "path", "header")]
    return f"{'.'.join(location) or 'request'}: {item.get('msg', 'invalid')}"
