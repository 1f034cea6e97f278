"""One Ray on this machine for all tests that need one: starting it costs more than most of them.

def test_prepare(ray_cluster: None, tmp_path: Path) -> None:
    prepare(..., address=None)  # foodseg uses the Ray that is connected already
"""

import os
from collections.abc import Iterator

import pytest

from tests.support.s3_server import S3Server

CPUS = 8  # logical: Ray Data must never wait for a CPU that a training worker holds
OBJECT_STORE_BYTES = 300 * 2**20


@pytest.fixture(scope="session")
def ray_cluster(s3_address: S3Server | None) -> Iterator[None]:
    """A local Ray; its workers carry the address and keys of the test S3 server (started by the fixture `s3`)."""
    # The kernel's view of memory on a shared machine makes Ray kill workers that did nothing wrong.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # as foodseg sets it where it starts Ray
    # what foodseg sets for the endpoint where it starts Ray; Serve's threads stay as a cluster has them by default, and
    # `foodseg serve`, which has fewer, is tested as a command
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "30")
    os.environ.setdefault("RAY_max_direct_call_object_size", str(4 * 2**20))
    import ray  # a second and more, and unit tests do without

    ray.init(address="local", num_cpus=CPUS, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False)
    yield
    ray.shutdown()
