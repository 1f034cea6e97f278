"""Headers that would control Serve's proxy, or make it fail, do not reach it."""

import asyncio
from typing import Any

import pytest

from foodseg.serve.ray_proxy import middlewares


def _passed(*headers: tuple[bytes, bytes], kind: str = "http") -> list[tuple[bytes, bytes]]:
    """Returns the headers that pass all middleware in front of Serve."""
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    app: Any = serve
    for middleware in middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    scope = {"type": kind, "path": "/", "headers": list(headers)}
    asyncio.run(app(scope, None, None))
    assert scope["headers"] == list(headers)  # the server's own copy stays whole
    (scope,) = seen
    return list(scope["headers"])


@pytest.mark.parametrize(
    "header",
    [
        (b"x-request-id", b"\xe4"),
        (b"x-request-id", b"a b"),
        (b"x-request-id", b"x" * 65),
        (b"X-Request-ID", b""),
        (b"traceparent", b"\xff"),
        (b"tracestate", b"\xff"),
        (b"serve_multiplexed_model_id", b"meals@0123456789ab"),
        (b"serve-multiplexed-model-id", b"\xff"),
        (b"x-session-id", b"a"),
        (b"x-request-timeout-seconds", b"0.001"),
        (b"x-request-disconnect-disabled", b"?1"),
    ],
)
def test_removed_headers(header: tuple[bytes, bytes]) -> None:
    assert _passed((b"host", b"a"), header) == [(b"host", b"a")]


def test_kept_headers() -> None:
    headers = [(b"x-request-id", b"a.B_0-9"), (b"authorization", b"\xff\xfe"), (b"traceparent", b"00-a-b-01")]
    assert _passed(*headers) == headers


def test_websockets_and_a_second_id() -> None:
    """Serve reads the headers of a websocket, too, before `Guard` can refuse it."""
    assert _passed((b"x-request-id", b"\xe4"), kind="websocket") == []
    assert _passed((b"x-request-id", b"\xe4"), (b"x-request-id", b"a"), (b"x-request-id", b"b")) == [
        (b"x-request-id", b"a")
    ]
