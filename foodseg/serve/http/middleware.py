"""ASGI middleware in front of the application: authentication, limits, deadlines, error responses, request log.

    app = Guard(api, config.http, keys_for(config.http, os.environ))

It runs before routing and multipart parsing, in this order: a request id, CORS if configured, the API key, admission,
the body within its size and time limits, then the application within the time limit of the whole request. Every error,
also of the framework, is sent as `{"error": {"code", "message", "hint"}}`; every request writes one log line.
`scope["state"]` gives the application `request_id`, `key_id` ("" where no key is needed) and `deadline` (of
time.monotonic()).

Serve's own limits must be higher than these, because its proxy answers in plain text.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from foodseg.config.serve import HttpConfig
from foodseg.serve.http.api_keys import Keys, presented_key
from foodseg.serve.http.error_response import error_response
from foodseg.serve.http.json_logs import REQUEST_ID
from foodseg.serve.http.reply import Message, Reply, Send
from foodseg.serve.http.schema import ApiError
from foodseg.serve.http.usage import route_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The API documentation is not secret, and a browser cannot send a key when it opens a page.
OPEN_PATHS = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico")
OPEN_FOLDER = "/page/"
CLIENT_LEFT = 499  # nginx's status for its log; it is not sent
CHUNK = 1 << 20

_LOG = logging.getLogger("foodseg.serve")
VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as it is logged and counted. code: of an error, else None."""

    request_id: str
    method: str
    path: str
    status: int
    code: str | None
    seconds: float
    bytes_in: int
    bytes_out: int
    key_id: str
    client: str


class Guard:
    """Wraps an ASGI application; one instance per process counts the requests in flight."""

    def __init__(
        self,
        app: App,
        config: HttpConfig,
        keys: Keys | None,
        on_finish: Callable[[Exchange], None] | None = None,
        announce_request_id: bool = True,
    ) -> None:
        """`keys`: None = open. `announce_request_id`: False where a proxy adds X-Request-ID itself, as Serve's does."""
        self._app = app
        self._config = config
        self._keys = keys
        self._on_finish = on_finish
        self._announce = announce_request_id
        self._in_flight = 0
        self._draining = False
        self._inner: App = self._answered
        if config.cors_origins:
            self._inner = _Cors(
                self._answered,
                allow_origins=config.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "X-API-Key", "X-Request-ID", "Content-Type"),
                expose_headers=("X-Request-ID", "Retry-After"),
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; websockets are refused, lifespan messages are the application's."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        began = time.monotonic()
        sent_id = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = sent_id.decode() if VALID_REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex
        state = {"request_id": request_id, "key_id": "", "deadline": began + self._config.request_seconds}
        scope = {**scope, "state": {**scope.get("state", {}), **state, "bytes_in": 0}}
        if route_of(scope).startswith("/v1/"):  # a trailing slash is accepted
            scope["path"] = scope["path"].rstrip("/")
        announced = request_id if self._announce else None
        reply = Reply(send, announced, scope["method"], route_of(scope))
        REQUEST_ID.set(request_id)
        try:
            await self._inner(scope, receive, reply)
        except ApiError as error:
            await error_response(error, scope)(scope, receive, reply)
        except _ClientLeft:
            pass
        finally:
            self._finish(scope, reply, time.monotonic() - began)

    def _finish(self, scope: Scope, reply: Reply, seconds: float) -> None:
        state, path = scope["state"], route_of(scope)
        exchange = Exchange(
            state["request_id"], scope["method"], path[:200], reply.status or CLIENT_LEFT, state.get("code"), seconds,
            state["bytes_in"], reply.bytes_out, state["key_id"], (scope.get("client") or ("",))[0],
        )  # fmt: skip
        fields = {**vars(exchange), "seconds": round(seconds, 4)}
        # an orchestrator probes every few seconds
        healthy_probe = path in ("/healthz", "/readyz") and exchange.status < 400
        level = logging.DEBUG if healthy_probe else logging.ERROR if exchange.status == 500 else logging.INFO
        _LOG.log(level, "request", extra=fields)
        if self._on_finish is not None:
            self._on_finish(exchange)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Turns exceptions into error responses."""
        gate = _Gate(send)
        try:
            await self._checked(scope, receive, gate)
        except _ClientLeft:
            raise
        except Exception as error:
            if not isinstance(error, ApiError):
                _LOG.exception("out of memory" if isinstance(error, MemoryError) else "unexpected")
            if not gate.started:  # else the response stays incomplete, which closes the connection
                await error_response(error, scope)(scope, receive, send)

    async def drain(self, seconds: float) -> int:
        """Refuses new requests from now on; returns the number in flight once it is 0, or after so many seconds."""
        self._draining = True
        until = time.monotonic() + seconds
        while self._in_flight and time.monotonic() < until:
            await asyncio.sleep(0.05)
        return self._in_flight

    async def _checked(self, scope: Scope, receive: Receive, gate: "_Gate") -> None:
        path, state, headers = route_of(scope), scope["state"], dict(scope["headers"])
        if scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER)):
            await self._in_time(scope, receive, gate, _nothing)
            return
        if self._keys is not None:
            state["key_id"] = self._owner(headers)
        _check_length(headers, self._config.max_body_bytes)
        if self._draining:
            raise ApiError(503, "stopping", "the endpoint is being stopped", "try again later", 5.0)
        if self._in_flight >= self._config.max_requests:
            raise ApiError(
                429, "too_many_requests", f"{self._in_flight} requests are in flight already",
                "try again after the seconds that Retry-After says", self._config.retry_after_seconds,
            )  # fmt: skip
        self._in_flight += 1
        try:
            body = await self._body(receive, scope)
        except BaseException:
            self._in_flight -= 1
            raise
        await self._in_time(scope, _replayed(body, receive), gate, self._release)

    def _release(self) -> None:
        self._in_flight -= 1

    def _owner(self, headers: dict[bytes, bytes]) -> str:
        assert self._keys is not None
        key = presented_key(headers)
        hint = "send your API key as 'Authorization: Bearer KEY'"
        if key is None:
            raise ApiError(401, "missing_key", "this endpoint needs an API key", hint)
        owner = self._keys.owner(key)
        if owner is None:
            raise ApiError(401, "wrong_key", "this API key is not known", hint)
        return owner

    async def _body(self, receive: Receive, scope: Scope) -> bytearray:
        """Reads the whole body, so that the application never waits for a slow sender."""
        body, limit = bytearray(), self._config.max_body_bytes

        async def read() -> None:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientLeft
                body.extend(message.get("body", b""))
                if len(body) > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return

        try:
            await asyncio.wait_for(read(), self._config.body_seconds)
        except asyncio.TimeoutError:
            raise ApiError(
                408, "body_timeout", f"the body did not arrive within {self._config.body_seconds:g} s",
                "send a smaller image, or over a faster connection",
            ) from None  # fmt: skip
        finally:
            scope["state"]["bytes_in"] = len(body)
        return body

    async def _in_time(self, scope: Scope, receive: Receive, gate: "_Gate", release: Callable[[], None]) -> None:
        """Runs the application until the deadline; `release` is called when it has really ended.

        After the deadline it is cancelled but not awaited, because it may wait for a thread, which cannot be cancelled.
        """
        task = asyncio.ensure_future(self._app(scope, receive, gate))

        def ended(done: "asyncio.Future[None]") -> None:
            release()
            if not done.cancelled():
                done.exception()  # retrieves it: it was raised below, or came after the deadline

        task.add_done_callback(ended)
        try:
            await asyncio.wait({task}, timeout=max(0.0, scope["state"]["deadline"] - time.monotonic()))
        finally:
            if not task.done():  # the deadline has passed, or the client has left
                gate.closed = True
                task.cancel()
        if not task.done() or task.cancelled():
            raise ApiError(
                408, "request_timeout", f"no answer was ready within {self._config.request_seconds:g} s",
                "send a smaller image, or try again when the server is less busy",
            )  # fmt: skip
        task.result()


class _ClientLeft(Exception):
    """The client closed the connection before it had sent its request."""


class _Gate:
    """Lets the application send until it is closed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.closed = False

    async def __call__(self, message: Message) -> None:
        if not self.closed:
            self.started = True
            await self._send(message)


class _Cors(CORSMiddleware):
    """Refuses as an error response."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code >= 400:
            raise ApiError(answer.status_code, "bad_request", bytes(answer.body).decode())
        return answer


def _nothing() -> None:
    """For open paths, which are not counted."""


def _check_length(headers: dict[bytes, bytes], limit: int) -> None:
    """Refuses a body that is too large by its Content-Length, before it is read."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        raise ApiError(400, "bad_length", "Content-Length must be a whole number")
    if int(length[:20]) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, "body_too_large", f"the body is larger than the limit of {limit:,} bytes", "send a smaller image"
    )


def _replayed(body: bytearray, receive: Receive) -> Receive:
    """Returns a `receive` that yields the body again, in parts, and then what follows it."""
    position = 0
    complete = False

    async def again() -> Message:
        nonlocal position, complete
        if complete:
            return await receive()
        part = bytes(body[position : position + CHUNK])
        position += len(part)
        complete = position >= len(body)
        return {"type": "http.request", "body": part, "more_body": not complete}

    return again
