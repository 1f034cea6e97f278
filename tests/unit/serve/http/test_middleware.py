"""The middleware in front of a plain application: what it refuses, and the form of its error responses."""

import asyncio
import hashlib
import json
import logging
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from foodseg.config.serve import HttpConfig
from foodseg.serve.http.api_keys import Key, Keys
from foodseg.serve.http.middleware import Exchange, Guard
from foodseg.serve.http.schema import ApiError
from tests.support.asgi import Reply, ask

LIMITS = {"max_body_bytes": 1024, "body_seconds": 0.2, "request_seconds": 0.4, "max_requests": 2}
SECRET = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {SECRET}"}


def _config(**changes: Any) -> HttpConfig:
    return HttpConfig(**{**LIMITS, **changes})


def _keys() -> Keys:
    return Keys((Key("canteen", hashlib.sha256(SECRET.encode()).hexdigest()),))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it received."""
    body = bytearray()
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    state = scope["state"]
    content = {"size": len(body), "sum": sum(body), **{key: state[key] for key in ("request_id", "key_id")}}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


def _answering(status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        await send({"type": "http.response.body", "body": body})

    return app


def _raising(error: BaseException) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    return app


def _run(make: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(make(), 20))  # type: ignore[arg-type]


def _ask(app: Any, method: str = "POST", path: str = "/v1/segment", *rest: Any, **more: Any) -> Reply:
    return _run(lambda: ask(app, method, path, *rest, **more))


# --- bodies ---


@pytest.mark.parametrize("parts", [b"", b"x" * 1024, [b"x" * 512, b"", b"x" * 512], [b"ab"] * 500])
def test_a_body_within_the_limit_arrives_whole(parts: Any) -> None:
    whole = parts if isinstance(parts, bytes) else b"".join(parts)
    reply = _ask(Guard(echo, _config(), None), "POST", "/v1/segment", parts)
    assert (reply.status, reply.json()["size"], reply.json()["sum"]) == (200, len(whole), sum(whole))


def test_a_large_body_arrives_in_order_and_in_parts() -> None:
    body = bytes(range(251)) * 10_000
    parts: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            parts.append(message["body"])
            if not message["more_body"]:
                break
        await _answering(200, b"")(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    assert _ask(Guard(app, _config(max_body_bytes=1 << 22), None), "POST", "/", body).status == 200
    assert [len(part) for part in parts] == [1 << 20, 1 << 20, len(body) - (2 << 20)]
    assert b"".join(parts) == body


@pytest.mark.parametrize(
    ("parts", "headers"),
    [
        (b"x" * 1025, {}),
        ([b"x" * 600, b"x" * 600], {}),
        (b"", {"Content-Length": "1025"}),
        (b"", {"Content-Length": "9" * 5000}),
    ],
)
def test_a_larger_body_is_refused(parts: Any, headers: dict[str, str]) -> None:
    reply = _ask(Guard(echo, _config(), None), "POST", "/v1/segment", parts, headers)
    assert (reply.status, reply.code) == (413, "body_too_large")


def test_an_endless_body_costs_no_memory() -> None:
    chunk = b"x" * (1 << 16)
    tracemalloc.start()
    reply = _ask(Guard(echo, _config(max_body_bytes=1 << 20), None), "POST", "/v1/segment", [chunk] * 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reply.status == 413
    assert peak < 4 << 20


@pytest.mark.parametrize("length", ["-1", "ten", "1.5", "0x10"])
def test_an_invalid_content_length(length: str) -> None:
    reply = _ask(Guard(echo, _config(), None), "POST", "/v1/segment", b"", {"Content-Length": length})
    assert (reply.status, reply.code) == (400, "bad_length")


def test_a_slow_body_times_out() -> None:
    reply = _ask(Guard(echo, _config(), None), "POST", "/v1/segment", [b"x"] * 50, pause=0.03)
    assert (reply.status, reply.code) == (408, "body_timeout")
    assert reply.headers["connection"] == "close"


def test_a_client_that_leaves_is_logged_and_forgotten() -> None:
    seen: list[Exchange] = []
    guard = Guard(echo, _config(max_requests=1), None, seen.append)
    assert _ask(guard, "POST", "/v1/segment", [b"x", b"y"], leaves=True).status == 0
    assert _ask(guard).status == 200
    assert [exchange.status for exchange in seen] == [499, 200]


# --- time ---


def test_the_deadline_of_a_request() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(5)
        await echo(scope, receive, send)

    reply = _ask(Guard(slow, _config(), None))
    assert (reply.status, reply.code) == (408, "request_timeout")


def test_what_cannot_be_cancelled_stays_counted_and_its_answer_is_dropped() -> None:
    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)  # a thread that runs on
            await _answering(200, b"late")(scope, receive, send)

    async def run() -> tuple[Reply, Reply, Reply]:
        guard = Guard(stubborn, _config(max_requests=1, request_seconds=0.2), None)
        first = await ask(guard, "POST", "/v1/segment")
        second = await ask(guard, "POST", "/v1/segment")
        await asyncio.sleep(0.4)
        return first, second, await ask(guard, "POST", "/v1/segment")

    first, second, third = _run(run)
    assert [reply.status for reply in (first, second, third)] == [408, 429, 408]
    assert len(first.messages) == 2


def test_an_answer_that_began_too_late_stays_incomplete() -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(5)

    reply = _ask(Guard(half, _config(), None))
    assert [message["type"] for message in reply.messages] == ["http.response.start"]


def test_the_application_knows_the_deadline() -> None:
    left: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        left.append(scope["state"]["deadline"] - time.monotonic())
        await echo(scope, receive, send)

    assert _ask(Guard(app, _config(request_seconds=7.0, body_seconds=1.0), None)).status == 200
    assert 6.5 < left[0] <= 7.0


# --- admission ---


def test_more_than_max_requests_are_refused_with_retry_after() -> None:
    async def run() -> list[Reply]:
        gate = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] != "/healthz":
                await gate.wait()
            await echo(scope, receive, send)

        guard = Guard(waiting, _config(retry_after_seconds=2.5, request_seconds=5.0), None)
        asked = [asyncio.ensure_future(ask(guard, "POST", "/v1/segment")) for _ in range(5)]
        await asyncio.sleep(0.05)
        health = await ask(guard, "GET", "/healthz")
        gate.set()
        again = [await reply for reply in asked]
        return [*again, await ask(guard, "POST", "/v1/segment"), health]

    *replies, later, health = _run(run)
    assert sorted(reply.status for reply in replies) == [200, 200, 429, 429, 429]
    refused = next(reply for reply in replies if reply.status == 429)
    assert (refused.code, refused.headers["retry-after"]) == ("too_many_requests", "3")
    assert (later.status, health.status) == (200, 200)


# --- keys ---


@pytest.mark.parametrize(
    "headers", [BEARER, {"Authorization": f"bearer  {SECRET} "}, {"X-API-Key": SECRET}], ids=["bearer", "case", "own"]
)
def test_a_valid_key_is_accepted(headers: dict[str, str]) -> None:
    reply = _ask(Guard(echo, _config(), _keys()), "POST", "/v1/segment", b"", headers)
    assert (reply.status, reply.json()["key_id"]) == (200, "canteen")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_key"),
        ({"Authorization": "Bearer "}, "missing_key"),
        ({"Authorization": "Basic abc"}, "missing_key"),
        ({"Authorization": SECRET}, "missing_key"),
        ({"Authorization": "Bearer wrong"}, "wrong_key"),
        ({"X-API-Key": f"{SECRET}x"}, "wrong_key"),
        ({"X-API-Key": "\xff\xfe"}, "wrong_key"),
    ],
)
def test_requests_without_a_valid_key_are_refused(headers: dict[str, str], code: str) -> None:
    read = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        read = True

    reply = _ask(Guard(app, _config(), _keys()), "POST", "/v1/segment", b"x" * 5000, headers)
    assert (reply.status, reply.code, reply.headers["www-authenticate"]) == (401, code, "Bearer")
    assert not read


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/page/app.js", "/docs", "/openapi.json"])
def test_open_paths(path: str) -> None:
    assert _ask(Guard(echo, _config(), _keys()), "GET", path).status == 200
    assert _ask(Guard(echo, _config(), _keys()), "POST", path).status == 401


@pytest.mark.parametrize("path", ["/v1/models", "/healthz/", "/page", "//", "/v1/../healthz", "/metrics", ""])
def test_everything_else_is_closed(path: str) -> None:
    assert _ask(Guard(echo, _config(), _keys()), "GET", path).status == 401


def test_open_paths_below_a_prefix() -> None:
    guard = Guard(echo, _config(), _keys())
    assert _ask(guard, "GET", "/food/healthz", root_path="/food").status == 200
    assert _ask(guard, "GET", "/food", root_path="/food").status == 200
    assert _ask(guard, "GET", "/food/v1/models", root_path="/food").status == 401
    assert _ask(guard, "GET", "/foodhealthz", root_path="/food").status == 401


# --- error responses ---


def test_an_api_error_becomes_its_error_response() -> None:
    error = ApiError(503, "sam_not_configured", "no SAM", "add it", retry_after=0.2)
    reply = _ask(Guard(_raising(error), _config(), None))
    assert (reply.status, reply.json()) == (503, error.body())
    assert reply.headers["retry-after"] == "1"


@pytest.mark.parametrize("error", [ValueError("secret detail"), RuntimeError("x" * 9999), KeyError("y")])
def test_an_unexpected_error_is_a_500_without_details(error: Exception) -> None:
    reply = _ask(Guard(_raising(error), _config(), None))
    assert (reply.status, reply.code) == (500, "internal")
    assert "secret" not in reply.body.decode()
    assert reply.headers["x-request-id"] in reply.json()["error"]["hint"]


def test_out_of_memory_is_a_503() -> None:
    reply = _ask(Guard(_raising(MemoryError()), _config(), None))
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "out_of_memory", "5")


def test_head_has_no_body() -> None:
    reply = _ask(Guard(_answering(405, b"not sent"), _config(), None), "HEAD", "/")
    assert (reply.status, reply.body) == (405, b"")


def test_a_websocket_is_refused() -> None:
    async def run() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        await Guard(echo, _config(), None)({"type": "websocket", "path": "/", "headers": []}, receive, send)
        return sent

    assert _run(run) == [{"type": "websocket.close", "code": 1008}]


# --- ids, headers, log lines ---


def test_each_answer_has_a_request_id() -> None:
    guard = Guard(echo, _config(), None)
    first, second = _ask(guard), _ask(guard)
    assert first.headers["x-request-id"] == first.json()["request_id"] != second.headers["x-request-id"]
    own = _ask(guard, "POST", "/v1/segment", b"", {"X-Request-ID": "menu-17"})
    assert own.headers["x-request-id"] == own.json()["request_id"] == "menu-17"
    refused = _ask(Guard(echo, _config(), _keys()), "POST", "/v1/segment", b"", {"X-Request-ID": "menu-17"})
    assert refused.headers["x-request-id"] == "menu-17"


@pytest.mark.parametrize("sent", ["x" * 65, "a b", 'a"b', "\xe4", "a\\nb"])
def test_a_strange_request_id_is_replaced(sent: str) -> None:
    reply = _ask(Guard(echo, _config(), None), "POST", "/v1/segment", b"", {"X-Request-ID": sent})
    assert len(reply.json()["request_id"]) == 32


def test_a_proxy_may_announce_the_id() -> None:
    reply = _ask(Guard(echo, _config(), None, announce_request_id=False))
    assert "x-request-id" not in reply.headers


def test_security_headers() -> None:
    plain = _ask(Guard(echo, _config(), None))
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert plain.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert plain.headers["cache-control"] == "no-store"
    own = _answering(200, b"", [(b"Content-Security-Policy", b"default-src 'self'")])
    reply = _ask(Guard(own, _config(), None), "GET", "/")
    assert reply.headers["content-security-policy"] == "default-src 'self'"
    assert "access-control-allow-origin" not in reply.headers


def test_cors_is_off_unless_set() -> None:
    origin = {"Origin": "https://menu.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    off = Guard(echo, _config(), _keys())
    assert _ask(off, "OPTIONS", "/v1/segment", b"", preflight).status == 401
    assert "access-control-allow-origin" not in _ask(off, "POST", "/v1/segment", b"", {**origin, **BEARER}).headers
    on = Guard(echo, _config(cors_origins=("https://menu.example",)), _keys())
    allowed = _ask(on, "OPTIONS", "/v1/segment", b"", preflight)
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "https://menu.example")
    for headers in ({**origin, **BEARER}, origin):  # an error can be read by the page, too
        reply = _ask(on, "POST", "/v1/segment", b"", headers)
        assert reply.headers["access-control-allow-origin"] == "https://menu.example"
    stranger = _ask(on, "OPTIONS", "/v1/segment", b"", {**preflight, "Origin": "https://other.example"})
    assert (stranger.status, "access-control-allow-origin" in stranger.headers) == (400, False)
    assert (stranger.code, stranger.json()["error"]["message"]) == ("bad_request", "Disallowed CORS origin")


def test_one_log_line_a_request(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("foodseg"), "propagate", True)
    caplog.set_level(logging.INFO, "foodseg.serve")
    seen: list[Exchange] = []
    guard = Guard(echo, _config(), _keys(), seen.append)
    _ask(guard, "POST", "/v1/segment", b"x" * 100, {**BEARER, "X-Request-ID": "a"})
    _ask(guard, "POST", "/v1/segment", b"x" * 100)
    _ask(guard, "GET", "/healthz")
    lines = [vars(record) for record in caplog.records]
    assert [(line["status"], line["code"], line["bytes_in"], line["key_id"]) for line in lines] == [
        (200, None, 100, "canteen"),
        (401, "missing_key", 0, ""),
    ]
    assert lines[0]["request_id"] == "a" and lines[0]["client"] == "192.0.2.1" and lines[0]["bytes_out"] > 0
    assert [exchange.status for exchange in seen] == [200, 401, 200]
