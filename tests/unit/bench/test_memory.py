"""PeakMemory: what a child process takes is seen, at its peak."""

import subprocess
import sys

from foodseg.bench.memory import PeakMemory

MIB = 2**20
HOLD = "import time; block = bytearray(b'x') * (64 * 2**20); time.sleep(1); del block; time.sleep(0.5)"


def test_the_peak_of_a_child_counts() -> None:
    with PeakMemory() as idle:
        pass
    with PeakMemory() as busy:
        subprocess.run([sys.executable, "-c", HOLD], check=True)
    grown = busy.together - idle.together
    assert 64 <= grown / MIB <= 164
    assert busy.largest <= busy.together
    assert busy.to_json()["all_processes_mib"] == busy.together / MIB
