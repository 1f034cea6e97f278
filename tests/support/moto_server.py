"""A light S3 server (moto) in this process, where a real one would be more than a test needs: `moto_endpoint`.

def test_it(bucket, moto_faults):
    moto_faults += [refusal(503, "SlowDown"), CUT]     # of the next two requests
"""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

CUT = (0, b"")  # half an answer, and then the connection ends
_FAULTS: list[tuple[int, bytes]] = []


def refusal(status: int, code: str, more: str = "") -> tuple[int, bytes]:
    """An answer as S3 gives it; `more`: further elements."""
    return status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said so</Message>{more}</Error>".encode()


@pytest.fixture(scope="module")
def moto_endpoint() -> Iterator[str]:
    """Its address."""
    from moto.server import ThreadedMotoServer  # a second, and most tests do without

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    assert server._server is not None
    server._server.app = _one_at_a_time(server._server.app)
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_faults() -> Iterator[list[tuple[int, bytes]]]:
    """What the next requests are answered with instead."""
    yield _FAULTS
    _FAULTS.clear()


def _one_at_a_time(app: Any) -> Any:
    """moto looks at the condition of a PUT (If-Match, If-None-Match) and writes it later, which is not one step."""
    lock = threading.Lock()

    def locked(environ: Any, start_response: Any) -> Any:
        with lock:
            fault = _FAULTS.pop(0) if _FAULTS else None
            if fault is None:
                return app(environ, start_response)
            status, body = fault
            if fault is CUT:
                body = b"".join(app(environ, start_response))
                return [body[: len(body) // 2]]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(
                f"{status} said so", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            )
            return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return locked
