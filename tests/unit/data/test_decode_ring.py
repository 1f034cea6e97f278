"""Images decoded in processes of the rank's own: the same arrays in the same order, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from foodseg.config.augment import AugmentConfig
from foodseg.config.roi import RoiConfig
from foodseg.data.decode import decode_rows, encode_rows
from foodseg.data.decode_ring import AHEAD, DecodeRing, Slot
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import read_manifest
from foodseg.errors import RetryLater, UserError
from tests.support.synthetic_set import write_synthetic

AUGMENT = AugmentConfig(longest_side=96, crop=64)


def shared_memory() -> set[str]:
    """Names of what is in the system's shared memory."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("data"))


@pytest.fixture
def blocks(data: str) -> list[pa.Table]:
    """Three blocks of 8, 8 and 5 encoded rows."""
    reader = RowReader(data, read_manifest(data), ["train"])
    order = TrainingOrder(reader.shard_rows, 3, 4)
    return [encode_rows(reader, order, [part]) for part in (range(8), range(8, 16), range(16, 21))]


def ring(data: str, processes: int = 2, hold: int = 1, roi: RoiConfig | None = None) -> DecodeRing:
    return DecodeRing(AUGMENT, read_manifest(data), roi, processes=processes, hold=hold)


@pytest.mark.parametrize("roi", [None, RoiConfig(least_share=0)])
def test_the_arrays_are_those_of_one_process(data: str, blocks: list[pa.Table], roi: RoiConfig | None) -> None:
    with ring(data, roi=roi) as own:
        found = [{name: each.copy() for name, each in arrays.items()} for arrays in own.batches(blocks, 3)]
    expected = [
        decode_rows(block.slice(start, 3), AUGMENT, read_manifest(data), roi)
        for block in blocks
        for start in range(0, block.num_rows, 3)
    ]
    assert [len(arrays["seed"]) for arrays in found] == [3, 3, 2, 3, 3, 2, 3, 2]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


def test_what_is_held_is_not_filled_again(data: str, blocks: list[pa.Table]) -> None:
    with ring(data, processes=1, hold=2) as own:
        batches = own.batches(blocks * 4, 4)
        before: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
        for arrays in batches:
            before.append((arrays, arrays["image"].copy()))
            time.sleep(0.02)  # the process decodes as far ahead as it may
            for held, kept in before[-2:]:
                np.testing.assert_array_equal(held["image"], kept)
    starts = {arrays["image"].ctypes.data for arrays, _ in before}
    assert len(starts) == 2 + AHEAD


def test_memory_is_bounded(data: str, blocks: list[pa.Table]) -> None:
    """The blocks are read no further than slots allow."""
    read = []

    def counted() -> Iterator[pa.Table]:
        for index in range(100):
            read.append(index)
            yield blocks[0]

    with ring(data, processes=1, hold=1) as own:
        batches = own.batches(counted(), 8)
        next(batches)
        time.sleep(0.5)
        assert len(read) <= 1 + AHEAD + 2


def test_processes_end_with_the_ring(data: str, blocks: list[pa.Table]) -> None:
    with ring(data) as own:
        next(own.batches(blocks, 4))
        children = psutil.Process().children()
        assert len(children) >= 2
        mine = [child for child in children if "foodseg.data.decode_process" in child.cmdline()]
        assert len(mine) == 2
    _, alive = psutil.wait_procs(mine, timeout=5)
    assert not alive


def test_a_row_that_cannot_be_decoded_is_said(data: str, blocks: list[pa.Table]) -> None:
    damaged = blocks[0].set_column(
        blocks[0].column_names.index("image"), "image", pa.array([b"no image"] * 8, pa.binary())
    )
    with ring(data, processes=1) as own, pytest.raises(UserError, match=r"no image|image"):
        list(own.batches([blocks[0], damaged], 4))


def test_what_the_blocks_raise_arrives(data: str, blocks: list[pa.Table]) -> None:
    def failing() -> Iterator[pa.Table]:
        yield blocks[0]
        raise UserError("the data set is gone")

    with ring(data, processes=1) as own, pytest.raises(UserError, match="the data set is gone"):
        list(own.batches(failing(), 4))


def test_a_killed_process_is_said(data: str, blocks: list[pa.Table]) -> None:
    with ring(data, processes=1) as own:
        batches = own.batches(blocks * 50, 4)
        next(batches)
        os.kill(own._processes[0].pid, signal.SIGKILL)
        with pytest.raises(RetryLater, match="a process that decodes images has ended"):
            list(batches)


RANK = """
import sys, time
from foodseg.data.decode import encode_rows
from tests.unit.data.test_decode_ring import AUGMENT, ring
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import read_manifest

data = sys.argv[1]
reader = RowReader(data, read_manifest(data), ["train"])
block = encode_rows(reader, TrainingOrder(reader.shard_rows, 3, 4), [range(8)])
with ring(data) as own:
    batches = own.batches([block] * 1000, 4)
    next(batches)
    print(*[process.pid for process in own._processes], flush=True)
    time.sleep(60)
"""


def test_nothing_survives_a_killed_rank(data: str, tmp_path: Path) -> None:
    before = shared_memory()
    rank = subprocess.Popen([sys.executable, "-c", RANK, data], stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    pids = [int(pid) for pid in rank.stdout.readline().split()]
    assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
    started = [psutil.Process(pid) for pid in pids]
    rank.kill()
    rank.wait()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    after = shared_memory()
    assert after <= before


def test_a_slot_is_laid_out_without_overlap() -> None:
    slot = Slot.of({"a": np.empty((0, 3), np.uint8), "b": np.empty((0, 2, 2), np.int64)}, 5)
    (first, _, _), (second, _, _) = slot.arrays["a"], slot.arrays["b"]
    assert first == 0 and second >= 15 and second % 64 == 0
    assert slot.size >= second + 5 * 4 * 8
