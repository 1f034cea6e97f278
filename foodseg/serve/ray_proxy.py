"""Middleware for Serve's own proxy, which removes headers that control Serve or that it cannot read.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=foodseg.serve.ray_proxy:middlewares     (on every node, before Ray starts)

Serve lets any client choose a time limit, a replica and a model by header. A header that is not UTF-8 makes it answer
with a bare 500, which `Guard` never sees. `foodseg serve` sets the variable where it starts Ray.
"""

from collections.abc import Iterable

from starlette.middleware import Middleware

from foodseg.cluster.ray_internals.serve import session_id_header
from foodseg.serve.http.middleware import VALID_REQUEST_ID, App, Receive, Scope, Send

# compared as Serve does it, with - and _ alike; the name of the session header can be configured
STEERING = (
    b"serve_multiplexed_model_id", b"x_request_timeout_seconds", b"x_request_disconnect_disabled",
    session_id_header().lower().replace("-", "_").encode(),
)  # fmt: skip
TRACING = (b"traceparent", b"tracestate")


class SafeHeaders:
    """ASGI middleware: forwards a request without the headers that Serve must not read."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, "headers": _safe(scope["headers"])}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Serve calls this once in each of its proxies, and in the replicas that listen themselves (HAProxy mode)."""
    return [Middleware(SafeHeaders)]


def _safe(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept, identified = [], False
    for name, value in headers:
        key = name.lower()
        if key == b"x-request-id":
            if (
                identified or VALID_REQUEST_ID.fullmatch(value) is None
            ):  # if two came, Serve would answer with one and log the other
                continue
            identified = True
        if key.replace(b"-", b"_") in STEERING or (key in TRACING and not value.isascii()):
            continue
        kept.append((name, value))
    return kept
