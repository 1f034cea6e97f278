"""PeakMemory: what a child process takes is seen, at its peak, under its name; the watcher itself is left out."""

import subprocess
import sys
from pathlib import Path

import pytest

from foodseg.bench.memory import PeakMemory, command_name

MIB = 2**20
HOLD = "import time; block = bytearray(b'x') * (64 * 2**20); time.sleep(1); del block; time.sleep(0.5)"


def test_the_peak_of_a_child_counts() -> None:
    with PeakMemory() as idle:
        pass
    with PeakMemory() as busy:
        subprocess.run([sys.executable, "-c", HOLD], check=True)
    assert 64 <= (busy.together - idle.together) / MIB <= 164
    assert 64 <= busy.largest / MIB <= 164 and busy.largest <= busy.together
    assert busy.processes[Path(sys.executable).name] == busy.largest
    found = busy.peaks()
    assert found.all_processes_mib == busy.together / MIB and found.largest_process_mib == busy.largest / MIB
    assert found.processes_mib[Path(sys.executable).name] == busy.largest / MIB


def test_two_children_of_one_name_count_apart_and_together() -> None:
    with PeakMemory() as busy:
        children = [subprocess.Popen([sys.executable, "-c", HOLD]) for _ in range(2)]
        assert [child.wait() for child in children] == [0, 0]
    assert 64 <= busy.largest / MIB <= 164
    assert busy.together / MIB >= 128


def test_this_process_counts_where_it_does_the_job() -> None:
    block = bytearray(b"x") * (64 * MIB)
    with PeakMemory() as idle:
        pass
    with PeakMemory(with_this_process=True) as own:
        pass
    del block
    assert own.largest - idle.largest >= 64 * MIB


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/usr/bin/python3", "-m", "foodseg"], "python3"),
        (["raylet", "--port=1"], "raylet"),
        (["ray::IDLE", "", ""], "ray::IDLE"),
        (["ray::_map_task(a,", "b)"], "ray::_map_task(a, b)"),
        (["ray::" + 60 * "x"], "ray::" + 35 * "x"),
        ([], ""),
    ],
)
def test_names(words: list[str], expected: str) -> None:
    assert command_name(words) == expected
