"""A light S3 server (moto) in this process, where a real one would be more than a test needs: `moto_endpoint`."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def moto_endpoint() -> Iterator[str]:
    """Its address."""
    from moto.server import ThreadedMotoServer  # a second, and most tests do without

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
