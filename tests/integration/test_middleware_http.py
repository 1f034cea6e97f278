"""The middleware under a real HTTP server, with clients that misbehave at the level of the connection."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from foodseg.config.serve import HttpConfig
from foodseg.serve.http.middleware import Guard

LIMITS = HttpConfig(max_body_bytes=1 << 20, body_seconds=1.0, request_seconds=3.0, max_requests=4)


async def length(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the number of bytes in the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn.Config(Guard(length, LIMITS, None), port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(30)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Reads one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", len(body))):
        body += connection.recv(65536)
    return int(lines[0].split()[1]), headers, body


def _code(body: bytes) -> str:
    return json.loads(body)["error"]["code"]


def test_an_endless_chunked_body_is_refused_while_it_arrives(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % 65536 + bytes(65536) + b"\r\n"
        for _ in range(20):
            connection.sendall(chunk)
        status, _, body = _answer(connection)
    assert (status, _code(body)) == (413, "body_too_large")


def test_a_large_body_is_refused_by_its_length(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        status, _, body = _answer(connection)
    assert (status, _code(body)) == (413, "body_too_large")


def test_a_sender_that_stops_times_out_and_others_are_served(port: int) -> None:
    with _connect(port) as slow, _connect(port) as quick:
        began = time.monotonic()
        slow.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        quick.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert _answer(quick)[0] == 200
        status, headers, body = _answer(slow)
        assert time.monotonic() - began >= 1.0
        assert (status, _code(body), headers["connection"]) == (408, "body_timeout", "close")
        assert slow.recv(100) == b""  # closed: what comes late is not read as a request


def test_slow_senders_do_not_block_the_server(port: int) -> None:
    dripping = [_connect(port) for _ in range(8)]
    for connection in dripping:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    statuses = [_answer(connection)[0] for connection in dripping]
    for connection in dripping:
        connection.close()
    assert sorted(set(statuses)) == [408, 429]
    with _connect(port) as later:
        later.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert _answer(later)[0] == 200


def test_a_client_that_disconnects_leaves_nothing_behind(port: int) -> None:
    for _ in range(20):
        with _connect(port) as connection:
            connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    with _connect(port) as later:
        for _ in range(3):  # one connection, several requests
            later.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            assert _answer(later)[0] == 200
