"""The decode ceiling: foodseg's own decode and transforms without Ray, on encoded rows that are in memory already.

`bare_rate` is a plain loop on the number of threads or processes that makes it fastest; `loader_rate` is a torch
DataLoader. `decode_ceiling` measures both in a fresh process at the priority of Ray's workers.
"""

import itertools
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from foodseg.bench.machine import lower_priority
from foodseg.bench.results import BareRate, ImageFacts, LoaderRate
from foodseg.config.augment import AugmentConfig
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.batch import Batch
from foodseg.data.decode import encode_rows, make_batch_arrays
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import Manifest
from foodseg.logs import log_to_stderr

T = TypeVar("T")
_log = logging.getLogger(__name__)

MEMORY_BYTES = 256 * 2**20  # encoded rows held in memory; they are decoded over and over
MEMORY_ROWS = 8192


@dataclass(frozen=True)
class EncodedRows:
    """Rows of the training order, still encoded, and how they are decoded: `batch` at a time."""

    table: pa.Table
    batch: int
    augment: AugmentConfig
    manifest: Manifest

    def decode_forever(self, share: int, shares: int) -> Iterator[dict[str, np.ndarray]]:
        """Decodes batches in an endless cycle, with a different start for each of `shares` consumers."""
        starts = list(range(0, self.table.num_rows, self.batch))
        first = share * len(starts) // shares
        for start in itertools.cycle(starts[first:] + starts[:first]):
            yield make_batch_arrays(self.table.slice(start, self.batch), self.augment, self.manifest)


def encoded_rows(
    reader: RowReader, order: TrainingOrder, batch: int, augment: AugmentConfig, manifest: Manifest
) -> EncodedRows:
    """Reads the first rows of the training order into memory: an epoch, or as much of it as MEMORY_BYTES allow."""
    row_bytes = sum(shard.size for shard in reader.shards) / len(reader)
    count = max(1, min(order.epoch_length, MEMORY_ROWS, int(MEMORY_BYTES / row_bytes)))
    return EncodedRows(encode_rows(reader, order, [range(count)]).combine_chunks(), batch, augment, manifest)


def image_facts(rows: EncodedRows) -> ImageFacts:
    """Returns the median sides and the mean size of the encoded images."""
    sides = np.array([rows.table.column("height").to_numpy(), rows.table.column("width").to_numpy()])
    encoded = sum(len(data) for data in rows.table.column("image").to_pylist())
    return ImageFacts(
        median_longest_side=float(np.median(sides.max(0))),
        median_shortest_side=float(np.median(sides.min(0))),
        mean_encoded_bytes=round(encoded / rows.table.num_rows),
        in_memory=rows.table.num_rows,
    )


def decode_ceiling(rows: EncodedRows, cores: int, seconds: float, niceness: int) -> tuple[BareRate, LoaderRate]:
    """Returns `bare_rate` and `loader_rate`, measured in a new process, which may fork."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measure, rows, cores, seconds, niceness).result()


def _measure(rows: EncodedRows, cores: int, seconds: float, niceness: int) -> tuple[BareRate, LoaderRate]:
    log_to_stderr()
    lower_priority(niceness)
    single_threaded_opencv()
    return bare_rate(rows, cores, seconds), loader_rate(rows, cores, seconds)


def bare_rate(rows: EncodedRows, cores: int, seconds: float) -> BareRate:
    """Finds the fastest of 1, 2, 4, ..., `cores` threads and as many processes, then measures it for `seconds`."""
    counts = sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)})
    ways = [("threads", count) for count in counts] + [("processes", count) for count in counts if count > 1]
    trials = {way: _rate(rows, *way, seconds / 10)[0] for way in ways}
    kind, count = max(trials, key=lambda way: trials[way])
    _log.info("bare loop: fastest on %d %s, measuring for %.0f s", count, kind, seconds)
    rate, cpu = _rate(rows, kind, count, seconds)
    return BareRate(
        images_per_second=rate,
        cpu_microseconds=cpu,
        kind=kind,
        count=count,
        seconds=seconds,
        trials={f"{kind} {count}": round(rate, 1) for (kind, count), rate in trials.items()},
    )


def _rate(rows: EncodedRows, kind: str, count: int, seconds: float) -> tuple[float, float]:
    """Images per second of `count` threads or processes, and CPU microseconds an image.

    Threads, too, run in a new process.

    A thread that has just ended may still hold a lock of OpenCV's while it cleans up, and a process that is forked in
    that moment would wait for it for ever.
    """
    fork = multiprocessing.get_context("fork")  # the rows are shared, not copied
    rates = fork.SimpleQueue()

    def threads() -> None:
        with ThreadPoolExecutor(count) as pool:
            rates.put(list(pool.map(lambda share: _decode_rate(rows, share, count, seconds), range(count))))

    def one(share: int) -> None:
        rates.put([_decode_rate(rows, share, count, seconds)])

    if kind == "threads":
        processes = [fork.Process(target=threads)]
    else:
        processes = [fork.Process(target=one, args=(share,)) for share in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a decoding process ended with exit code {max(p.exitcode or 0 for p in processes)}")
    found = [one for _ in processes for one in rates.get()]
    total = sum(rate for rate, _ in found)
    return total, sum(rate * cpu for rate, cpu in found) / total


def _decode_rate(rows: EncodedRows, share: int, shares: int, seconds: float) -> tuple[float, float]:
    """Images per second of one thread, and its CPU microseconds an image; the first batch is not counted."""
    batches = rows.decode_forever(share, shares)
    next(batches)
    before = time.thread_time()
    rate, elapsed = _drain(batches, seconds, lambda arrays: len(arrays["image"]))
    return rate, (time.thread_time() - before) * 1e6 / (rate * elapsed)


def loader_rate(rows: EncodedRows, workers: int, seconds: float) -> LoaderRate:
    """Measures a torch DataLoader with `workers` processes that decode whole batches (nothing is left to collate)."""
    _log.info("torch DataLoader with %d workers, measuring for %.0f s", workers, seconds)
    loader = DataLoader(
        _Stream(rows),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        persistent_workers=True,
        multiprocessing_context="fork",
        worker_init_fn=lambda _: single_threaded_opencv(),
    )
    batches = iter(loader)
    for _ in range(4 * workers):  # those decoded ahead before the clock starts, and as many again
        next(batches)
    rate, elapsed = _drain(batches, seconds, len)
    return LoaderRate(images_per_second=rate, seconds=elapsed, workers=workers)


class _Stream(IterableDataset[Batch]):
    def __init__(self, rows: EncodedRows) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        assert worker is not None
        return (Batch.from_arrays(arrays) for arrays in self._rows.decode_forever(worker.id, worker.num_workers))


def _drain(batches: Iterator[T], seconds: float, images: Callable[[T], int]) -> tuple[float, float]:
    """Takes batches for `seconds` and drops them; returns images per second, and the seconds that it took."""
    taken, started, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds:
        taken += images(next(batches))
        elapsed = time.perf_counter() - started
    return taken / elapsed, elapsed
