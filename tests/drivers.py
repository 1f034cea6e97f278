"""Commands as processes of their own that a test waits for and kills.

driver = subprocess.Popen([...]); wait_for(lambda: driver.poll() is not None or far_enough()); kill_driver(driver)
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable

import psutil


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    """Kills a driver (SIGKILL), and then what of its Ray outlives it by five seconds."""
    children = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
