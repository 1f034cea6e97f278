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
    """Kills a driver (SIGKILL); what it started has to end by itself within a minute."""
    children = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    require_ended(children)


def require_ended(processes: list[psutil.Process], seconds: float = 60) -> None:
    """Fails if one of the processes outlives the next `seconds`, and ends it then."""
    left = psutil.wait_procs(processes, timeout=seconds)[1]
    titles = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            titles.append(" ".join(process.cmdline())[:80])
            process.kill()
    assert titles == [], f"still there after {seconds:.0f} s"
