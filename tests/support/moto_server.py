"""A light S3 server (moto) in this process, where a real one would be more than a test needs: `moto_endpoint`."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest


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


def _one_at_a_time(app: Any) -> Any:
    """moto looks at the condition of a PUT (If-Match, If-None-Match) and writes it later, which is not one step."""
    lock = threading.Lock()

    def locked(*request: Any) -> Any:
        with lock:
            return app(*request)

    return locked
