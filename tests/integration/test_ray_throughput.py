"""The tests of the endpoint in Serve's throughput mode; it is chosen before Ray starts, hence a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_the_endpoint_in_throughput_mode() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/integration/test_ray_serving.py"]
    environment = os.environ | {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d+ passed in", done.stdout) and "skipped" not in done.stdout, done.stdout[-4000:]
