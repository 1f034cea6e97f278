"""CPU by parts: that of the process itself and of those below it, each in its part."""

import subprocess
import sys
import time

import psutil
import pytest

from foodseg.bench.cpu_parts import CONSUMER, COORDINATOR, DECODERS, OTHERS, READERS, CpuParts, part_of

BUSY = 0.5  # seconds of CPU


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["/usr/bin/python3", "-m", "foodseg.data.decode_process"], DECODERS),
        (["ray::SplitCoordinator"], COORDINATOR),
        (["ray::MapBatches(_encode)->Repartition"], READERS),
        (["ray::IDLE", ""], READERS),
        (["/opt/ray/raylet", "--head"], OTHERS),
        ([], OTHERS),
    ],
)
def test_the_part_of_a_process(words: list[str], part: str) -> None:
    assert part_of(words) == part


def _work() -> None:
    until = time.process_time() + BUSY
    while time.process_time() < until:
        pass


def test_work_here_and_in_a_process_below() -> None:
    words = f"import time\nwhile time.process_time() < {BUSY}: pass\nprint('done', flush=True)\ntime.sleep(60)"
    other = [sys.executable, "-c", words]
    parts = CpuParts()
    with subprocess.Popen(other, stdout=subprocess.PIPE) as process:
        try:
            _work()
            assert process.stdout is not None and process.stdout.readline() == b"done\n"
            here = psutil.Process().cpu_times()
            found = parts.microseconds_an_image(1000)
        finally:
            process.kill()
    assert found[CONSUMER] >= 0.9e6 * BUSY / 1000
    assert found[CONSUMER] <= (here.user + here.system + 1) * 1e6 / 1000
    assert 0.9e6 * BUSY / 1000 <= found[OTHERS] < 3e6 * BUSY / 1000
