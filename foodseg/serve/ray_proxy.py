"""What stands in front of Serve's own proxy: headers that would steer it, or that it cannot read, are taken out.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=foodseg.serve.ray_proxy:middlewares     (on every node, before Ray starts)

Serve lets any client choose a time limit, a replica and a model by header, and where it reads one that is not UTF-8,
its answer is a bare 500 that our guard never sees. `foodseg serve` sets the variable where it starts Ray.
"""

from starlette.middleware import Middleware

from foodseg.serve.guard import VALID_REQUEST_ID, App, Receive, Scope, Send

# names are compared as Serve does: - and _ are one
STEERING = (
    b"serve_multiplexed_model_id", b"x_session_id", b"x_request_timeout_seconds", b"x_request_disconnect_disabled",
)  # fmt: skip


class SafeHeaders:
    """ASGI middleware: passes on a request without the headers that Serve must not read."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http":
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if _is_safe(name, value)]}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Serve calls this once in each of its proxies, and in the replicas that listen themselves (HAProxy mode)."""
    return [Middleware(SafeHeaders)]


def _is_safe(name: bytes, value: bytes) -> bool:
    name = name.lower()
    if name == b"x-request-id":
        return VALID_REQUEST_ID.fullmatch(value) is not None
    if name == b"traceparent":
        return value.isascii()
    return name.replace(b"-", b"_") not in STEERING
